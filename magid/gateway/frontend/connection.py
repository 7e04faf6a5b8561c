"""Handles the gateway's requests on one client connection; parses strictly, streams responses.

One request at a time; what a client sends behind it waits. Every phase has a limit: the head and
the body of a request, the wait for a slot (`gateway.dispatcher`), and how long a client may take no
byte of its response (`api.protocol`): until it does, no more of its input is read.
"""

import asyncio
from collections.abc import Callable

from magid.auth import authenticator, peers
from magid.auth.limits import Limits
from magid.auth.token_store import Caller
from magid.auth.tokens import Scope
from magid.errors import MagidError
from magid.gateway.frontend import lasting_answers, own_answers, responses
from magid.gateway.frontend.connection_state import ConnectionState
from magid.gateway.frontend.context import FrontendContext, unknown_path
from magid.gateway.frontend.own_answers import OwnCall, OwnRequest
from magid.gateway.frontend.request_reader import (
    BodyReader,
    RequestBuilder,
    RequestHead,
    check_json,
)
from magid.gateway.frontend.response_writer import ResponseWriter
from magid.gateway.ollama import requests as ollama
from magid.gateway.ollama.answers import Shape
from magid.gateway.ollama.stream import loaded, sink_for
from magid.gateway.proxy.forward import ResponseSink
from magid.gateway.proxy.two_stage import ActiveRequest
from magid.gateway.routing.endpoints import Endpoint, Style, find, methods_of
from magid.gateway.routing.request import ParsedRequest
from magid.http import request_rules
from magid.http.request_rules import LINGER_S, MAX_HEAD_BYTES, next_request_id
from magid.http.status import status_of
from magid.log import access_log

MAX_BEHIND = 65_536  # bytes that a client may send behind a request that is being answered
BREATH_BYTES = 16_384  # of an incomplete body, before other connections get their turn
BODY_S_PER_MIB = 4.0  # more time for larger bodies: 2 Mbit/s

# Looked up for each segment: an attribute of an Enum takes several times as long.
_IDLE, _HEAD, _BODY, _RESPONDING, _BLOCKED, _LINGERING, _CLOSED = ConnectionState


class ClientConnection:
    """One client connection. `on_rest` gets what the client sent behind the last request."""

    def __init__(
        self,
        context: FrontendContext,
        transport: asyncio.Transport,
        peer: str,
        on_rest: Callable[[bytes], None],
    ) -> None:
        self._context, self._transport, self._peer = context, transport, peer
        self._on_rest = on_rest
        self._loop = asyncio.get_running_loop()
        self._writer = ResponseWriter(transport, context.dispatcher.errors, self._on_response_end)
        self._state = _IDLE
        self._is_write_paused = False  # the client takes no bytes
        self._buffer = b""  # a part of a head, or what stands behind a request
        self._head: RequestHead | None = None
        self._caller = authenticator.LOCAL
        self._body: BodyReader | None = None
        self._timer: asyncio.TimerHandle | None = None  # for the head, then for the body
        self._request: ActiveRequest | None = None
        self._limited = ""  # the id of the token whose limits count this request

    @property
    def state(self) -> ConnectionState:
        return self._state

    @property
    def is_busy(self) -> bool:
        """Whether the next bytes are for this connection, whatever they are."""
        return self._state is not _IDLE

    def _enter(self, state: ConnectionState) -> None:
        if state not in self._state.followers:
            raise RuntimeError(f"a connection cannot go from {self._state.name} to {state.name}")
        self._state = state

    # -- what comes in ---------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Takes the client's next bytes. A defect of magid ends the connection."""
        state = self._state
        try:
            if state is _IDLE or state is _HEAD:
                self._take_head(data)
            elif state is _BODY:
                self._take_body(data)
            elif state is _RESPONDING or state is _BLOCKED:
                self._take_behind(data)
        except Exception as error:
            self._abort(error)

    def _take_head(self, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
        end = data.find(b"\r\n\r\n")
        if end < 0 or end > MAX_HEAD_BYTES:
            self._wait_for_head(data)
            return
        self._buffer = b""
        try:
            head = self._head = self._context.parse(data[:end])
        except MagidError as error:
            self._refuse(error, _path_in(data))
            return
        self._writer.start(head, next_request_id())
        try:
            self._caller = self._context.admit(head, self._peer)
        except MagidError as error:
            self._refuse(error)
            return
        if self._timer is not None:  # the body has a time of its own
            self._stop_timer()
        self._enter(_BODY)
        self._take_body(data[end + 4 :])

    def _wait_for_head(self, data: bytes) -> None:
        self._buffer = data
        if len(data) > MAX_HEAD_BYTES:
            self._refuse(request_rules.head_too_large())
        elif self._state is _IDLE:
            self._enter(_HEAD)
            self._timer = self._loop.call_later(self._context.timeout_s, self._on_timeout)

    def _take_body(self, data: bytes) -> None:
        head, body = self._head, self._body
        assert head is not None
        length = head.length
        if body is None and length is not None and length <= self._context.small_body_bytes:
            # Nearly always: the whole body in one segment, with the head or behind it.
            if len(data) == length:
                self._take_request(data, b"")
                return
            if not data:
                self._wait_for_body(head)
                return
        try:
            if body is None:
                body = self._body = self._context.body_reader(head)
            whole = body.feed(data)
        except MagidError as error:
            self._refuse(error)
            return
        if whole is not None:
            self._take_request(whole, body.rest)
            return
        self._wait_for_body(head)
        if len(data) >= BREATH_BYTES:
            # Lets other connections run: uvloop reads 32 segments of one connection in a row.
            self._transport.pause_reading()
            self._loop.call_soon(self._resume_reading)

    def _wait_for_body(self, head: RequestHead) -> None:
        if self._timer is None:
            allowed = self._context.timeout_s + BODY_S_PER_MIB * (head.length or 0) / 2**20
            self._timer = self._loop.call_later(allowed, self._on_timeout)
            if head.expects:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _take_behind(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) > MAX_BEHIND:
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if len(self._buffer) <= MAX_BEHIND and not self._transport.is_closing():
            self._transport.resume_reading()

    def _on_timeout(self) -> None:
        self._timer = None
        self._refuse(request_rules.too_slow())

    def _refuse(self, error: MagidError, path: str | None = None) -> None:
        """Answers and closes the connection: where a next request would begin is unknown.

        `path` is that of a head that could not be read.
        """
        self._enter(_LINGERING)
        self._stop_timer()
        writer, head = self._writer, self._head
        writer.request_id = writer.request_id or next_request_id()
        access_log.log_error(
            status_of(error), error.code, error.message, request_id=writer.request_id,
            client_request_id=head.client_request_id if head else "",
            method=head.method if head else "?", path=head.path if head else "?",
        )  # fmt: skip
        writer.refuse(error, path)
        if self._transport.can_write_eof():  # not over TLS
            self._transport.write_eof()
        self._loop.call_later(LINGER_S, self._transport.abort)

    # -- the request -----------------------------------------------------------------------

    def _take_request(self, body: bytes | bytearray, rest: bytes) -> None:
        """Handles a complete request; `rest` is what follows it."""
        self._stop_timer()
        self._buffer, self._body = rest, None
        self._enter(_RESPONDING)
        try:
            self._respond(body)
        except MagidError as error:
            self._writer.fails(error)

    def _respond(self, body: bytes | bytearray) -> None:
        head = self._head
        assert head is not None
        endpoint = find(head.method, head.path)
        if head.method == "OPTIONS" and methods_of(head.path):
            self._writer.respond(204, responses.preflight_fields(head), b"")
        elif endpoint is None:
            raise unknown_path(head)
        elif not endpoint.kinds:
            self._answer(endpoint, head, body)
        else:
            if not endpoint.asks_by_query:
                check_json(head)
            if self._caller.limits is not None:
                self._count(head, self._caller, self._caller.limits)
            # For fairness: clients on one machine differ by what they hold.
            client = f"{self._peer} {head.presented_id}"
            builder = RequestBuilder(
                endpoint, head, self._writer.request_id, client, self._caller,
                self._context.max_body_bytes, self._context.dispatcher.fleet,
            )  # fmt: skip
            if builder.needs_steps(body):
                self._request = self._context.dispatcher.slices.begin(
                    builder.build_in_steps(body), self._dispatch, self._on_error
                )
            else:
                self._dispatch(builder.build(body))

    def _answer(self, endpoint: Endpoint, head: RequestHead, body: bytes | bytearray) -> None:
        """Answers a request that needs no server."""
        context, caller = self._context, self._caller
        if endpoint.has_events and head.method == "HEAD":
            self._writer.respond(200, b"Content-Type: text/event-stream\r\n", b"")
            return
        if endpoint.method == "POST" or (body and endpoint.removes):
            check_json(head)
        request = OwnRequest(
            endpoint, head.path, body, caller.models, head.content_encoding, head.query
        )
        # Taken before the answer, which may come late: a closed connection has no peer.
        name = peers.name_of(caller, self._transport) if endpoint.changes else ""
        call = OwnCall(
            context.dispatcher, context.downloads, self._writer,
            lambda: context.authenticator.is_valid(caller), lambda: self._log_change(head, name),
            self._on_error,
        )  # fmt: skip
        active = lasting_answers.begin(request, call)
        if active is not None:
            self._request = active
            if self._is_write_paused:  # by the response before
                active.pause(paused=True)
            return
        answer = own_answers.answer(call, request)
        if endpoint.changes:
            self._log_change(head, name)
        self._writer.respond(200, b"Content-Type: application/json\r\n", answer)

    def _dispatch(self, request: ParsedRequest) -> None:
        sink: ResponseSink = self._writer
        if request.endpoint.style is Style.OLLAMA:
            if request.endpoint.target == ollama.UNLOAD:
                self._unload(request)
                return
            sink = sink_for(request, self._writer)
        active = self._context.dispatcher.begin(request, sink)
        if self._state is not _RESPONDING:
            return  # it has failed already
        self._request = active
        if self._is_write_paused:  # by the response before
            active.pause(paused=True)

    def _count(self, head: RequestHead, caller: Caller, limits: Limits) -> None:
        """Counts the request towards the limits of its token. Raises RateLimited."""
        limiter = self._context.limiter
        try:
            self._context.count(head, self._writer.request_id, caller, limits)
            self._limited = caller.id
        finally:
            headers = limiter.headers(caller.name, caller.id, limits)
            self._writer.limit_fields = responses.header_lines(headers)

    def _end_count(self) -> None:
        """Idempotent."""
        if self._limited:
            self._context.limiter.leave(self._limited)
            self._limited = ""

    def _unload(self, request: ParsedRequest) -> None:
        """Stops the model. Requires more rights than a request to it."""
        assert self._head is not None
        self._context.admit(self._head, self._peer, Scope.ADMIN)
        own_answers.stop(self._context.dispatcher, request.model)
        self._log_change(self._head, peers.name_of(self._caller, self._transport))
        answer = loaded(Shape(request.endpoint.path, request.model), "unload")
        self._writer.respond(200, b"Content-Type: application/json\r\n", answer)

    def _log_change(self, head: RequestHead, by: str) -> None:
        access_log.log_change(
            by, 200, request_id=self._writer.request_id, client_request_id=head.client_request_id,
            method=head.method, path=head.path,
        )  # fmt: skip

    def _on_error(self, error: BaseException) -> None:
        if isinstance(error, MagidError):
            self._writer.fails(error)
        else:
            self._abort(error)

    def _abort(self, error: BaseException) -> None:
        """Ends the connection after a defect of magid."""
        request_id = self._writer.request_id or next_request_id()
        access_log.log_defect("request", error, request_id=request_id)
        self._transport.abort()

    # -- between two requests --------------------------------------------------------------

    def _on_response_end(self) -> None:
        self._end_count()
        self._request = self._head = None
        if self._writer.closes:
            self._close()
        elif self._buffer or self._is_write_paused:
            # The loop may read more before it calls: that must not overtake what is here.
            self._enter(_BLOCKED)
            self._loop.call_soon(self._take_next)
        else:
            self._enter(_IDLE)

    def _take_next(self) -> None:
        """Continues with the bytes behind the last request, unless the client takes no bytes."""
        if self._state is not _BLOCKED or self._is_write_paused:
            return
        rest, self._buffer = self._buffer, b""
        self._enter(_IDLE)
        if rest:
            self._on_rest(rest)
        if len(rest) > MAX_BEHIND:
            self._resume_reading()

    def pause(self, *, paused: bool) -> None:
        """Called when the client stops reading (`paused`) and when it reads again."""
        self._is_write_paused = paused
        if self._request is not None:
            self._request.pause(paused=paused)
        elif paused and self._state is _IDLE:
            self._enter(_BLOCKED)
        elif not paused:
            self._take_next()

    # -- the end ---------------------------------------------------------------------------

    def lost(self) -> None:
        """Cancels the request, because the client has disconnected. Idempotent."""
        if self._state is not _CLOSED:
            self._enter(_CLOSED)
        self._stop_timer()
        request, self._request = self._request, None
        if request is not None:
            request.cancel()
        self._end_count()
        self._head = self._body = None
        self._writer.reset()

    def _close(self) -> None:
        """Closes the connection; the client has limited time to read the last response."""
        self._enter(_CLOSED)
        if self._transport.is_closing():
            return
        self._transport.close()
        if self._transport.get_write_buffer_size():
            self._loop.call_later(self._context.send_timeout_s, self._transport.abort)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _path_in(data: bytes) -> str:
    """The path of a head that could not be read; the shape of the error depends on it."""
    words = data.split(b" ", 2)
    return words[1].decode("latin-1") if len(words) > 1 else ""
