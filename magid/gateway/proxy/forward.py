"""Forwards one request to a server, to another one if needed, and passes the answer back.

Bytes are passed on as they come, in both directions. Before the first byte of an answer a request
may move to another server; after it, the client is sent an error in its own protocol. A client that
disconnects cancels the request at the server.
"""

import asyncio
import logging
import sys
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

from magid.errors import MagidError, ServerLost
from magid.gateway.accounting import request_log
from magid.gateway.accounting.request_log import (
    START_BYTES,
    TAIL_BYTES,
    TAIL_SEGMENTS,
    Outcome,
    Usage,
)
from magid.gateway.proxy import server_ends
from magid.gateway.proxy.server import UpstreamServer, is_own_trouble
from magid.gateway.proxy.upstream import ENDED, INTERNAL_ERROR, UpstreamConnection
from magid.gateway.routing.request import CHARS_PER_TOKEN, ParsedRequest
from magid.gateway.routing.resolver import ModelRoute
from magid.http.framing import ProtocolError, ReplyHead
from magid.http.limits import MAX_COLLECTED_BYTES, MAX_SILENT_BYTES

log = logging.getLogger(__name__)

# Servers that may end while they work on one request: the request itself may end them.
MAX_LOSSES = 2


class ResponseSink(Protocol):
    """Receives the answer. Each request ends with `ends`, `fails` or `breaks_off`."""

    def begins(self, head: ReplyHead, fields: bytes, data: bytes) -> None:
        """Takes the answer's head, its header lines and the body's first bytes, as they came."""

    def goes_on(self, data: bytes) -> None: ...

    def ends(self) -> None: ...

    def fails(self, error: MagidError, fields: bytes = b"") -> None:
        """Ends the request with an error; nothing was sent yet."""

    def breaks_off(self, error: MagidError, *, is_inside_chunk: bool) -> None:
        """Ends the request with an error; a part of the answer was sent."""


class ForwardedRequest:
    """Implements `ResponseHandler`.

    `on_free` is called when a server is done with it, well or not.
    """

    __slots__ = (
        "_connection", "_has_begun", "_is_silent", "_is_stream", "_left", "_losses", "_on_end",
        "_on_free", "_retry", "_seen", "_start", "_tail", "_task", "_was_resent", "client",
        "is_over", "last_byte", "record", "request", "route", "server", "started", "timeout_s",
        "tried", "wait_timer",
    )  # fmt: skip

    def __init__(
        self,
        request: ParsedRequest,
        client: ResponseSink,
        route: ModelRoute,
        retry: "Callable[[ForwardedRequest], bool]",
        on_free: "Callable[[ForwardedRequest, UpstreamServer], None]",
        on_end: "Callable[[ForwardedRequest], None]",
    ) -> None:
        self.request, self.client, self.route = request, client, route
        self.record = request_log.of(request)
        self.server: UpstreamServer | None = None
        self.tried: set[str] = set()  # processes it was sent to
        self.started: set[str] = set()  # models that were started for it
        self.wait_timer: asyncio.TimerHandle | None = None
        self.timeout_s = 0.0  # how long it may wait in all, counted from its arrival
        self.last_byte = 0.0  # on the monotonic clock; before any byte: when it was sent
        self._retry, self._on_free, self._on_end = retry, on_free, on_end
        self._connection: UpstreamConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._seen = 0  # events of a stream, bytes of another answer
        self._start = b""
        self._tail: deque[bytes] = deque(maxlen=TAIL_SEGMENTS)
        self._has_begun = False
        self._losses = 0
        self._was_resent = False
        self._is_stream = self.record.is_stream
        self._is_silent = self._is_stream  # no event of its stream has come
        # Bytes that may come yet of an error, or before the first event.
        self._left = MAX_SILENT_BYTES if self._is_silent else 0
        self.is_over = False

    # -- to a server -----------------------------------------------------------------------

    def stop_waiting(self) -> None:
        """Stops the wait timer. Idempotent."""
        if self.wait_timer is not None:
            self.wait_timer.cancel()
            self.wait_timer = None

    def send(self, server: UpstreamServer) -> None:
        """Sends the request to a server that has a free slot, and takes the slot."""
        self.server = server
        self.tried.add(server.backend.process)
        server.active.add(self)
        record = self.record
        self.last_byte = time.monotonic()
        record.attempts += 1
        record.sent_s = self.last_byte - record.began
        record.model_id, record.port = server.backend.model_id, server.backend.port
        record.tier, record.route = self.route.tier, self.route.why
        connection = server.pool.take()
        if connection is not None:
            self._send_on(connection)
        else:
            self._task = asyncio.get_running_loop().create_task(self._connect(server))

    async def _connect(self, server: UpstreamServer) -> None:
        """Connects, then sends the request.

        On any error the client must get an answer: no timer ends it.
        """
        try:
            self._send_on(await server.pool.connect())
        except (OSError, TimeoutError) as error:
            why = f"it cannot be reached: {str(error) or 'no answer in time'}"
            if not is_own_trouble(error):
                server.leave_out(why)
            self._on_unsent(why)
        except Exception:
            log.exception("request %s cannot be sent", self.record.id)
            self._on_unsent(INTERNAL_ERROR)

    def _on_unsent(self, why: str) -> None:
        self._task = None
        if not self._move(why):
            self._find_end(why)

    def _send_on(self, connection: UpstreamConnection) -> None:
        assert self.server is not None
        self._task, self._connection = None, connection
        message, pieces = self.server.message_for(self.request)
        connection.send(message, self, pieces)

    # -- the answer (ResponseHandler) ---------------------------------------------------------

    def begins(self, head: ReplyHead, first: bytes) -> None:
        assert self.server is not None
        if head.status == 503 and self._can_move and self._leaves("it answers 503"):
            return
        self._has_begun = True
        self.last_byte = time.monotonic()
        record = self.record
        record.status, record.first_byte_s = head.status, self.last_byte - record.began
        if head.status >= 400 or self.request.endpoint.names_files:
            self._is_silent, self._left = False, MAX_COLLECTED_BYTES
            self._count_error(first)
        elif self._is_silent:
            is_events = head.content_type.startswith(b"text/event-stream")
            self._left = MAX_SILENT_BYTES if is_events else sys.maxsize
            self._look_for_event(first)
        self._seen = first.count(b"data:") if self._is_stream else len(first)
        self._start = first[:START_BYTES]
        self._tail.append(first[-TAIL_BYTES:])
        pool = self.server.pool
        self.client.begins(head, self._fields(), first)
        if head.is_chunked:
            pool.prepare()

    @property
    def _can_move(self) -> bool:
        """Returns whether a server is left that has not been sent this request."""
        return any(b.process not in self.tried for b in self.route.backends)

    def _leaves(self, why: str) -> bool:
        """Moves to another server and drops this answer; returns False if there is none."""
        server, connection = self.server, self._connection
        assert server is not None
        assert connection is not None
        if self._move(why):
            connection.drop()
            return True
        self._connection = connection
        server.active.add(self)  # keeps its slot until the answer is complete
        return False

    def _fields(self) -> bytes:
        assert self.server is not None
        return b"%bX-Magi-Route: %b\r\n" % (
            self.server.shown, self.route.why.encode("ascii", "replace"),
        )  # fmt: skip

    def goes_on(self, data: bytes) -> None:
        self.last_byte = time.monotonic()
        if self._is_silent:
            self._look_for_event(data)
        elif self._left:
            self._count_error(data)
        if len(self._start) < START_BYTES:
            self._start += data[:START_BYTES]
        self._seen += data.count(b"data:") if self._is_stream else len(data)
        self._tail.append(data[-TAIL_BYTES:])
        self.client.goes_on(data)

    def _look_for_event(self, data: bytes) -> None:
        """Looks for the first event of the stream, which carries the first token.

        llama-server 0.7.0 sends the head at once, and comments while it reads a long prompt: 54 s
        lay between the first byte and the first event of 25,000 tokens. Raises ProtocolError if
        nothing else comes.
        """
        self._left -= len(data)
        if b"data:" in data:
            self._is_silent, self._left = False, 0
            self.record.first_token_s = self.last_byte - self.record.began
        elif self._left <= 0:
            raise ProtocolError("its stream has no event")

    def _count_error(self, data: bytes) -> None:
        """Bounds an answer that is read whole: it must be short. Raises ProtocolError."""
        self._left -= len(data)
        if self._left <= 0:
            raise ProtocolError("it is too long for such an answer")

    def ended(self) -> None:
        status = self.record.status or 0
        self.record.figures = request_log.figures_in(
            self._start, b"".join(self._tail)[-TAIL_BYTES:]
        )
        outcome = Outcome.OK if status < 400 else Outcome.REFUSED
        if status >= 500:
            outcome = Outcome.FAILED
        self._finish(outcome, "")
        try:
            self.client.ends()
        except Exception as fault:  # of a translation; the client must get an answer
            error: MagidError = ServerLost(f"cannot answer: {INTERNAL_ERROR}")
            if isinstance(fault, MagidError):
                error = fault
            else:
                log.exception("the answer to request %s cannot be ended", self.record.id)
            request_log.fail(self.record, error)
            self.client.breaks_off(error, is_inside_chunk=False)

    def failed(self, why: str, *, is_stale: bool) -> None:
        assert self.server is not None
        if is_stale and not self._was_resent:
            self._was_resent = True
            self._connection = None
            self._task = asyncio.get_running_loop().create_task(self._connect(self.server))
            return
        if not self._has_begun:
            self._losses += 1
            if self._losses < MAX_LOSSES and self._move(why):
                return
        if why == ENDED:
            self._find_end(why)
        else:
            self._end_with(why, "")  # of a server that goes on, nothing more would be heard

    def refused(self, error: MagidError) -> None:
        is_inside = self._connection is not None and self._connection.is_inside_chunk
        self.record.problem = error.code
        self._finish(Outcome.REFUSED, error.message)
        self.client.breaks_off(error, is_inside_chunk=is_inside)

    def _find_end(self, why: str) -> None:
        """Ends the request with an error that says how its server has ended, once that is known."""
        assert self.server is not None
        self.server.tell_end(partial(self._end_with, why))

    def _end_with(self, why: str, stopped: str) -> None:
        if self.is_over:
            return
        assert self.server is not None
        error = server_ends.error_of(self.server.backend, why, stopped)
        outcome = Outcome.STOPPED if stopped else Outcome.FAILED
        lost = None if stopped else why
        if not self._has_begun:
            self.refuse(error, outcome, lost=lost)
            return
        is_inside = self._connection is not None and self._connection.is_inside_chunk
        self._finish(outcome, error.message, lost=lost)
        self.client.breaks_off(error, is_inside_chunk=is_inside)

    def _move(self, why: str) -> bool:
        """Moves to another server, if there is one; the failure counts against this one."""
        self._let_go(lost=why)
        return self._retry(self)

    @property
    def is_held_up(self) -> bool:
        """Whether nothing is read from the server, because the client takes nothing."""
        return self._connection is not None and self._connection.is_paused

    def give_up_on_server(self, why: str) -> None:
        """Moves on, or breaks off, because the server no longer answers. Idempotent."""
        if self.is_over or self.server is None:
            return
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._connection is not None:
            self._connection.drop()
        if self._has_begun or not self._move(why):
            self._find_end(why)  # llama-server ends its listener first when it is stopped

    # -- the end -----------------------------------------------------------------------------

    def pause(self, *, paused: bool) -> None:
        """Pauses reading while the client takes no bytes."""
        if self._connection is not None and not self.is_over:
            self._connection.pause(paused=paused)

    def cancel(self, outcome: Outcome = Outcome.CANCELLED) -> None:
        """Ends the request because the client left or it was killed; the server stops.

        Idempotent.
        """
        if self.is_over:
            return
        if self._task is not None:
            self._task.cancel()
        if self._connection is not None:
            self._connection.drop()
        self._finish(outcome, "")

    def kill(self) -> None:
        """Ends the request on behalf of another client, and sends an error. Idempotent."""
        if self.is_over:
            return
        is_inside = self._connection is not None and self._connection.is_inside_chunk
        has_begun = self._has_begun
        error = ServerLost("cannot finish: the request was cancelled by DELETE /api/requests")
        self.record.problem = error.code
        self.cancel(Outcome.KILLED)
        if has_begun:
            self.client.breaks_off(error, is_inside_chunk=is_inside)
        else:
            self.client.fails(error)

    def refuse(
        self, error: MagidError, outcome: Outcome = Outcome.REFUSED, lost: str | None = None
    ) -> None:
        """Answers with this error; nothing was sent yet."""
        if self.is_over:
            return
        fields = self.server.shown if self.server else b""
        self.record.problem = error.code
        self._finish(outcome, error.message, lost=lost)
        self.client.fails(error, fields)

    def _finish(self, outcome: Outcome, error: str, *, lost: str | None = None) -> None:
        self.is_over = True
        self.stop_waiting()
        self._let_go(outcome, lost)
        self.record.outcome, self.record.error = outcome, error
        if self._has_begun and not self.record.figures:
            self.record.estimate = self._estimate()
        self._on_end(self)

    def _estimate(self) -> Usage | None:
        """Estimates what the caller has used if the server does not report it: limits need it.

        A client may leave a stream before its end, or choose fields of an answer without figures.
        """
        if not self.request.endpoint.generates or (self.record.status or 0) >= 400:
            return None
        answer = self._seen if self._is_stream else int(self._seen / CHARS_PER_TOKEN)
        return Usage(self.request.prompt.tokens, answer_tokens=answer)

    def _let_go(self, outcome: Outcome | None = None, lost: str | None = None) -> None:
        """Frees the slot and records the outcome on the server."""
        server, self._connection = self.server, None
        if server is None or self not in server.active:
            return
        server.active.discard(self)
        if (
            not self.request.endpoint.asks_by_query
        ):  # a GET only looks at the model: it keeps no model running
            server.last_used = time.monotonic()
        status = self.record.status or 0
        if lost is not None:
            if lost != INTERNAL_ERROR:
                server.lost_request()
        elif outcome is Outcome.FAILED:
            server.failed_request(status, self._start)
        elif outcome in (Outcome.OK, Outcome.REFUSED) and status:
            server.breaker.request_succeeded()
            server.learn(self.record)
        self._on_free(self, server)
