"""Handles the gateway's requests on one client connection; parses strictly, streams answers.

One request at a time; what a client sends behind it waits. Every phase has a limit: the head and
the body of a request, the wait for a slot (`gateway.dispatcher`), and how long a client may take no
byte of its answer (`api.protocol`): until it does, no more of its input is read.
"""

import asyncio
import logging
from collections.abc import Callable

from magid.auth import authenticator
from magid.errors import MagidError, SlowRequest, TooLarge
from magid.gateway.frontend import responses
from magid.gateway.frontend import responses as shapes
from magid.gateway.frontend.context import FrontendContext, unknown_path
from magid.gateway.frontend.request_reader import (
    Asker,
    Body,
    RequestHead,
    check_json,
    next_request_id,
)
from magid.gateway.proxy.two_stage import ActiveRequest
from magid.gateway.routing.endpoints import NAME_FILES, Endpoint, Style, find, methods_of, style_of
from magid.gateway.routing.outline import WHOLE_BYTES
from magid.gateway.routing.request import GatewayRequest
from magid.http.framing import ChunkReader, ReplyHead
from magid.http.status import status_of
from magid.log import access_log
from magid.log.events import Event, about

log = logging.getLogger(__name__)

MAX_HEAD_BYTES = 16_384
MAX_BEHIND = 65_536  # bytes that a client may send behind a request that is being answered
LINGER_S = 2.0  # an early answer must not be lost to a reset: so long we go on reading
BREATH_BYTES = 16_384  # of a body that is not whole, after which others have their turn
BODY_S_PER_MIB = 4.0  # more time for larger bodies: 2 Mbit/s


class ClientConnection:
    """Implements `ResponseSink`. `on_rest` gets what the client sent behind the last request."""

    def __init__(
        self,
        desk: FrontendContext,
        transport: asyncio.Transport,
        peer: str,
        on_rest: Callable[[bytes], None],
    ) -> None:
        self._desk, self._transport, self._peer, self._on_rest = desk, transport, peer, on_rest
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._head: RequestHead | None = None
        self._caller = authenticator.LOCAL
        self._body: Body | None = None
        self._chunks: ChunkReader | None = None  # of an answer to HTTP/1.0
        self._timer: asyncio.TimerHandle | None = None
        self._exchange: ActiveRequest | None = None
        self._reply: ReplyHead | None = None
        self._held: bytearray | None = None  # an error that has to be put in another shape
        self._fields = b""
        self._request_id = ""
        self._shape = Style.OPENAI  # of errors about a head that could not be read
        self._closes = False  # the connection ends with the present answer
        self._is_answering = False
        self._is_held = False  # answered; what stands behind waits
        self._is_ending = False
        self._is_full = False  # too much stands behind: no more is read
        self._is_paused = False  # the client takes no bytes
        self.is_busy = False

    # -- what comes in ---------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        if self._is_ending:
            return
        try:
            self._feed(data)
        except Exception as error:
            self._has_defect(error)

    def _has_defect(self, error: Exception) -> None:
        self._request_id = self._request_id or next_request_id()
        log.error(
            "request %s failed", self._request_id, exc_info=error,
            extra=about(Event.DEFECT, request=self._request_id),
        )  # fmt: skip
        self._transport.abort()

    def _feed(self, data: bytes) -> None:
        self.is_busy = True
        if self._is_answering:
            self._buffer += data
            if len(self._buffer) > MAX_BEHIND:
                self._is_full = True
                self._transport.pause_reading()
        elif self._head is not None:
            self._take_body(data)
        else:
            self._take_head(data)

    def _take_head(self, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
        end = data.find(b"\r\n\r\n")
        if end < 0 or end > MAX_HEAD_BYTES:
            self._buffer = data
            if len(data) > MAX_HEAD_BYTES:
                self._refuse_unread(TooLarge("cannot take this request: its head is too large"))
            elif self._timer is None:
                self._timer = self._loop.call_later(self._desk.timeout_s, self._is_slow)
            return
        self._buffer = b""
        try:
            head = self._desk.parse(data[:end])
            self._caller = self._desk.admit(head, self._peer)
        except MagidError as error:
            self._path_of(data)
            self._refuse_unread(error)
            return
        self._stop_timer()  # the body has a time of its own
        self._head, self._request_id = head, next_request_id()
        self._take_body(data[end + 4 :])

    def _path_of(self, data: bytes) -> None:
        """For the shape of an error about a head that cannot be read."""
        words = data.split(b" ", 2)
        self._shape = style_of(words[1].decode("latin-1")) if len(words) > 1 else Style.OPENAI

    def _take_body(self, data: bytes) -> None:
        head, body = self._head, self._body
        assert head is not None
        try:
            if body is None:
                body = self._body = Body(head.length, self._desk.max_body_bytes)
            whole = body.feed(data)
        except MagidError as error:
            self._refuse_unread(error)
            return
        if whole is None:
            self._wait_for_body(head)
            if len(data) >= BREATH_BYTES:
                self._breathe()
        else:
            self._whole(whole, body.rest)

    def _wait_for_body(self, head: RequestHead) -> None:
        if self._timer is None:
            allowed = self._desk.timeout_s + BODY_S_PER_MIB * (head.length or 0) / 2**20
            self._timer = self._loop.call_later(allowed, self._is_slow)
            if head.expects:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _breathe(self) -> None:
        """Lets other connections run: uvloop reads 32 segments of one connection in a row."""
        self._transport.pause_reading()
        self._loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        if not (self._is_ending or self._is_full or self._transport.is_closing()):
            self._transport.resume_reading()

    def _whole(self, body: bytes | bytearray, rest: bytes) -> None:
        """A request has come; `rest` is behind it."""
        self._stop_timer()
        self._buffer, self._body = rest, None
        self._is_answering = True
        try:
            self._begin(body)
        except MagidError as error:
            self.fails(error)

    def _is_slow(self) -> None:
        self._timer = None
        if not self._is_answering:
            self._refuse_unread(
                SlowRequest("cannot wait longer: the request did not arrive in time")
            )

    def _refuse_unread(self, error: MagidError) -> None:
        """Answers and closes the connection: where a next request would begin is unknown."""
        self._stop_timer()
        self._is_answering = True
        self._request_id = self._request_id or next_request_id()
        head = self._head
        access_log.tell_error(
            status_of(error), error.code, error.message, request_id=self._request_id,
            client_request_id=head.client_request_id if head else "",
            method=head.method if head else "?", path=head.path if head else "?",
        )  # fmt: skip
        self._write_error(error, closes=True)
        self._is_ending = True
        if self._transport.can_write_eof():  # not over TLS
            self._transport.write_eof()
        self._loop.call_later(LINGER_S, self._transport.abort)

    # -- what is asked for -----------------------------------------------------------------

    def _begin(self, body: bytes | bytearray) -> None:
        head = self._head
        assert head is not None
        endpoint = find(head.method, head.path)
        if head.method == "OPTIONS" and methods_of(head.path):
            self._write(204, responses.preflight_fields(head), b"")
            self._done()
        elif endpoint is None:
            raise unknown_path(head)
        elif not endpoint.kinds:
            self._answer_list(endpoint, head.path)
        else:
            if not endpoint.asks_by_query:
                check_json(head)
            if len(body) > WHOLE_BYTES and not endpoint.asks_by_query:
                self._exchange = self._desk.dispatcher.slices.begin(
                    self._asker(endpoint, head).asked_in_steps(body),
                    self._send_on, self._cannot_send,
                )  # fmt: skip
            else:
                self._send_on(self._asker(endpoint, head).asked(body))

    def _send_on(self, asked: GatewayRequest) -> None:
        self._exchange = self._desk.dispatcher.begin(asked, self)
        if self._is_paused:  # by the answer before
            self._exchange.pause(paused=True)

    def _asker(self, endpoint: Endpoint, head: RequestHead) -> Asker:
        return Asker(endpoint, head, self._request_id, self._who(head), self._caller)

    def _cannot_send(self, error: Exception) -> None:
        if isinstance(error, MagidError):
            self.fails(error)
        else:
            self._has_defect(error)

    def _who(self, head: RequestHead) -> str:
        """For fairness: clients on one machine differ by what they hold."""
        return f"{self._peer} {head.presented.digest.hex() if head.presented else ''}"

    def _answer_list(self, endpoint: Endpoint, path: str) -> None:
        body = self._desk.list_models(endpoint, path, self._caller)
        self._write(200, b"Content-Type: application/json\r\n", body)
        self._done()

    # -- what goes out (ResponseSink) --------------------------------------------------------

    def begins(self, head: ReplyHead, fields: bytes, data: bytes) -> None:
        self._reply, self._fields = head, fields
        if self._is_misshapen(head) or self._names_files:
            self._chunks = ChunkReader(keep=True) if head.is_chunked else None
            self._held = bytearray(self._unchunked(data))
            return
        if head.is_chunked:
            framing = b"" if self._is_old else b"Transfer-Encoding: chunked\r\n"
        elif head.length is None:
            framing = b""
        else:
            framing = b"Content-Length: %d\r\n" % head.length
        if not framing:
            self._closes = True
            if head.is_chunked:
                self._chunks = ChunkReader(keep=True)
        content = b"Content-Type: %b\r\n%b%b" % (head.content_type, framing, fields)
        self._send(self._head_bytes(head.status, content) + self._unchunked(data))

    @property
    def _is_old(self) -> bool:
        return self._head is not None and self._head.is_1_0

    def _is_misshapen(self, head: ReplyHead) -> bool:
        return head.status >= 400 and self._style is Style.ANTHROPIC

    @property
    def _names_files(self) -> bool:
        return self._head is not None and self._head.path in NAME_FILES

    @property
    def _style(self) -> Style:
        return self._shape if self._head is None else style_of(self._head.path)

    def _unchunked(self, data: bytes) -> bytes:
        """What is in them, for HTTP/1.0, which has no chunks, and where magid reads it."""
        chunks = self._chunks
        if chunks is None:
            return data
        chunks.feed(data)  # was read once without a fault
        payload = b"".join(chunks.payload or ())
        chunks.payload = []
        return payload

    def goes_on(self, data: bytes) -> None:
        if self._held is not None:
            self._held += self._unchunked(data)  # `exchange` bounds what is held
        else:
            self._send(self._unchunked(data) if self._chunks else data)

    def _send(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

    def ends(self) -> None:
        if self._held is not None and self._reply is not None:
            make = shapes.reshaped if self._is_misshapen(self._reply) else shapes.without_path
            body = make(self._reply.status, bytes(self._held))
            fields = b"Content-Type: application/json\r\n" + self._fields
            self._write(self._reply.status, fields, body)
        self._done()

    def fails(self, error: MagidError, fields: bytes = b"") -> None:
        self._write_error(error, fields)
        self._done()

    def breaks_off(self, error: MagidError, *, is_inside_chunk: bool) -> None:
        """A stream of events gets an error as its last one; anything else is cut off."""
        reply = self._reply
        is_events = reply is not None and reply.content_type.startswith(b"text/event-stream")
        if reply is None or self._held is not None:
            self._held = None
            self.fails(error, self._fields)
            return
        if is_events and not is_inside_chunk:
            event = shapes.error_event(self._style, status_of(error), error)
            if reply.is_chunked and not self._is_old:
                event = b"%x\r\n%b\r\n0\r\n\r\n" % (len(event), event)
            self._send(event)
            self._end()
        else:
            self._transport.abort()
        self._reset()

    def _write_error(self, error: MagidError, fields: bytes = b"", *, closes: bool = False) -> None:
        status = status_of(error)
        self._desk.dispatcher.errors[error.code] += 1
        body = shapes.error_body(self._style, status, error)
        self._closes = self._closes or closes
        self._write(status, responses.error_fields(status, self._head) + fields, body)

    def _write(self, status: int, fields: bytes, body: bytes) -> None:
        if status != 204:
            fields += b"Content-Length: %d\r\n" % len(body)
        is_head = self._head is not None and self._head.method == "HEAD"
        self._send(self._head_bytes(status, fields) + (b"" if is_head else body))

    def _head_bytes(self, status: int, fields: bytes) -> bytes:
        head = self._head
        if head is None or not head.keeps_alive:
            self._closes = True
        return responses.head_bytes(status, fields, head, self._request_id, closes=self._closes)

    # -- the connection ----------------------------------------------------------------------

    def lost(self) -> None:
        """Cancels the request, because the client has disconnected. Idempotent."""
        self._is_ending = True
        self._stop_timer()
        if self._exchange is not None:
            self._exchange.cancel()
        self._reset()

    def pause(self, *, paused: bool) -> None:
        """The client takes no bytes at the moment, or does again."""
        self._is_paused = paused
        if self._exchange is not None:
            self._exchange.pause(paused=paused)
        elif paused and not self.is_busy:
            self._hold()
        elif not paused and self._is_held:
            self._next()

    def _hold(self) -> None:
        """What comes now stands behind what has come before, and waits."""
        self.is_busy = self._is_answering = self._is_held = True

    def _next(self) -> None:
        """Continues with the bytes behind the last request, unless the client takes no bytes."""
        if self._is_ending or self._is_paused or not self._is_held:
            return
        rest, self._buffer = self._buffer, b""
        self.is_busy = self._is_answering = self._is_held = False
        if rest:
            self._on_rest(rest)
        if self._is_full and len(self._buffer) <= MAX_BEHIND:
            self._is_full = False
            self._transport.resume_reading()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _reset(self) -> None:
        self._exchange = self._reply = self._head = self._held = self._chunks = self._body = None
        self._request_id = ""
        self._is_answering = self.is_busy = False

    def _done(self) -> None:
        """The answer is whole."""
        self._stop_timer()
        self._reset()
        if self._closes:
            self._end()
        elif self._buffer or self._is_paused:
            # The loop may read more before it calls: that must not overtake what is here.
            self._hold()
            self._loop.call_soon(self._next)

    def _end(self) -> None:
        """Close, and do not wait for ever until the client has taken the last answer."""
        self._is_ending = True
        self._transport.close()
        if self._transport.get_write_buffer_size():
            self._loop.call_later(self._desk.send_timeout_s, self._transport.abort)
