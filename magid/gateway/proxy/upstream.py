"""Connections to llama-servers, and the reading of their answers.

llama-server 0.7.0 closes a connection after every streamed answer although it advertises
keep-alive, after 100 requests, and after 5 s idle. So the connection of a chunked answer is never
used again, idle ones are young, and a request that met a closing connection and got no byte is sent
once more.
"""

import asyncio
import logging
import select
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol, cast

from magid.errors import MagidError
from magid.gateway.routing.fleet import Backend
from magid.gateway.routing.outline import Body, Buffer
from magid.http.framing import ChunkReader, ProtocolError, ReplyHead, reply_head
from magid.http.limits import HEAD_S, MAX_CHUNKS, MAX_HEAD_BYTES, MAX_INTERIM, PAUSE_S
from magid.llama.connection import TRIES, Watch

log = logging.getLogger(__name__)

# Connections per server that wait for their next request. Used ones do no harm; of those that were
# opened and never used, 16 made llama-server stall for 5 s, so there is at most one of them.
MAX_IDLE = 32
IDLE_S = 4.0  # llama-server ends them after 5
CONNECT_S = 5.0  # to a server of this machine
INTERNAL_ERROR = "magid failed with an internal error; its log has the trace"
ENDED = "its connection ended before the answer did"  # also how a stopped server looks


class ResponseHandler(Protocol):
    """Receives an answer. After `ended` or `failed` nothing more comes."""

    def begins(self, head: ReplyHead, first: bytes) -> None:
        """The head, with the bytes of the body that came in the same segment."""

    def goes_on(self, data: bytes) -> None: ...

    def ended(self) -> None: ...

    def failed(self, why: str, *, is_stale: bool) -> None:
        """`is_stale`: a kept connection had ended before a byte came; worth another try."""

    def refused(self, error: MagidError) -> None:
        """The answer is more than its client may have, which is not the server's fault."""


_START = b"HTTP/1."


class UpstreamConnection(asyncio.Protocol):
    """One connection to one server: one request at a time."""

    __slots__ = (
        "_buffer", "_chunks", "_head", "_held", "_interim", "_is_reading", "_is_reused",
        "_is_whole", "_keep", "_left", "_poll", "_pool", "_timer", "handler", "idle_since",
        "is_paused", "transport",
    )  # fmt: skip

    def __init__(self, pool: "ConnectionPool") -> None:
        self._pool = pool
        self.transport: asyncio.Transport | None = None
        self.handler: ResponseHandler | None = None
        self.idle_since = 0.0
        self.is_paused = False  # by its client
        self._is_reading = True
        self._is_reused = False
        self._buffer = b""  # of a head that is not whole
        self._interim = 0
        self._held = b""  # of a body, for a later turn of the loop
        self._is_whole = False
        self._timer: asyncio.TimerHandle | None = None  # for the rest of a head, or of what is held
        self._poll: select.poll | None = None
        self._head: ReplyHead | None = None
        self._chunks: ChunkReader | None = None
        self._left = 0
        self._keep = False

    def send(
        self, message: bytes, handler: ResponseHandler, pieces: Sequence[Body | Buffer] = ()
    ) -> None:
        """Send a whole request, the last pieces of which may come apart. It must be idle."""
        self.handler, self._head, self._interim = handler, None, 0
        assert self.transport is not None
        self.transport.write(message)
        if pieces:
            self.transport.writelines(pieces)

    @property
    def is_silent(self) -> bool:
        """Whether nothing has come that no request asked for, and the server has not ended it."""
        if self._poll is None:
            assert self.transport is not None
            self._poll = select.poll()
            self._poll.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
        return not self._poll.poll(0)

    def drop(self) -> None:
        """End it at once: llama-server stops working on the request."""
        self.handler = None
        self._forget()
        if self.transport is not None:
            self.transport.abort()

    def _forget(self) -> None:
        self._buffer = self._held = b""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def pause(self, *, paused: bool) -> None:
        """Take no more bytes while the client does not: the server's socket fills up."""
        if self.transport is None or self.is_paused == paused or self.transport.is_closing():
            return
        self.is_paused = paused
        if self._held and not paused:
            self._take_up_later()
        self._read_or_wait(self.transport)

    def _read_or_wait(self, transport: asyncio.Transport) -> None:
        is_reading = not self.is_paused and not self._held
        if is_reading == self._is_reading or transport.is_closing():
            return
        self._is_reading = is_reading
        if is_reading:
            transport.resume_reading()
        else:
            transport.pause_reading()

    # -- asyncio.Protocol ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by class

    def data_received(self, data: bytes) -> None:
        handler = self.handler
        if handler is None:
            self.drop()  # it sends bytes before a request
        else:
            self._take(data, handler)

    def _take(self, data: bytes, handler: ResponseHandler) -> None:
        try:
            if self._head is None:
                self._begin(data, handler)
            else:
                self._go_on(data, handler)
        except ProtocolError as error:
            self.drop()
            handler.failed(f"its answer is malformed: {error}", is_stale=False)
        except MagidError as error:
            self.drop()
            handler.refused(error)
        except Exception:
            log.exception("passing on an answer of port %d failed", self._pool.port)
            self.drop()
            handler.failed(INTERNAL_ERROR, is_stale=False)

    def connection_lost(self, _error: Exception | None) -> None:
        handler, self.handler = self.handler, None
        has_begun = bool(self._buffer)
        self._forget()
        self.transport = None
        self._pool.lost(self)
        if handler is None:
            return
        head = self._head
        if head is not None and head.length is None and not head.is_chunked:
            handler.ended()
        else:
            is_stale = self._is_reused and head is None and not has_begun
            handler.failed(ENDED, is_stale=is_stale)

    # -- the answer ------------------------------------------------------------------------

    def _begin(self, data: bytes, handler: ResponseHandler) -> None:
        if self._buffer:
            data = self._buffer + data
        while True:
            end = data.find(b"\r\n\r\n")
            if end < 0 or end > MAX_HEAD_BYTES:
                self._wait_for_head(data)
                return
            head, data = reply_head(data[:end]), data[end + 4 :]
            if head.status >= 200:
                break
            self._interim += 1
            if self._interim > MAX_INTERIM:
                raise ProtocolError("it has too many interim answers")
        self._forget()
        self._head = head
        self._keep = head.keeps_alive and not head.is_chunked and head.length is not None
        self._chunks = ChunkReader(keep=False) if head.is_chunked else None
        self._left = head.length or 0
        body = self._count(data)
        handler.begins(head, body)
        if self._is_whole and self.handler is handler:
            self._end(handler)

    def _wait_for_head(self, data: bytes) -> None:
        """Keeps a partial head. Raises ProtocolError if it cannot become one."""
        if len(data) > MAX_HEAD_BYTES:
            raise ProtocolError("its head is too long")
        if not _START.startswith(data[: len(_START)]) or b"\n\n" in data:
            raise ProtocolError("it is not HTTP")
        self._buffer = data
        if data and self._timer is None:
            self._timer = self._pool.loop.call_later(HEAD_S, self._is_slow)

    def _is_slow(self) -> None:
        self._timer, handler = None, self.handler
        if handler is not None:
            self.drop()
            handler.failed("its answer is malformed: its head takes too long", is_stale=False)

    def _go_on(self, data: bytes, handler: ResponseHandler) -> None:
        chunks = self._chunks
        if chunks is not None and chunks.takes_one(data):  # nearly always
            handler.goes_on(data)
            return
        data = self._count(data)
        handler.goes_on(data)
        if self._is_whole and self.handler is handler:
            self._end(handler)

    def _count(self, data: bytes) -> bytes:
        """Returns the bytes to pass on now; notes whether the answer is complete.

        Raises ProtocolError if bytes follow its end. Of many small chunks some are held back.
        """
        chunks = self._chunks
        if chunks is not None:
            used = chunks.feed(data, MAX_CHUNKS)
            self._is_whole = chunks.done
            if used == len(data):
                return data
            if chunks.done:
                raise ProtocolError("there is more behind its end")
            self._hold(data[used:])
            return data[:used]
        assert self._head is not None
        if self._head.length is None:
            self._is_whole = False
            return data
        self._left -= len(data)
        if self._left < 0:
            raise ProtocolError("it is longer than it said")
        self._is_whole = self._left == 0
        return data

    # -- many small chunks: the loop is not theirs alone -----------------------------------

    def _hold(self, rest: bytes) -> None:
        """Go on with this after a pause, and read nothing until then."""
        self._held = rest
        self._take_up_later()
        if self.transport is not None:
            self._read_or_wait(self.transport)

    def _take_up_later(self) -> None:
        if self._timer is None:
            self._timer = self._pool.loop.call_later(PAUSE_S, self._take_up)

    def _take_up(self) -> None:
        self._timer, handler = None, self.handler
        if handler is None or self.is_paused or not self._held:
            return
        rest, self._held = self._held, b""
        self._take(rest, handler)
        if self.transport is not None:
            self._read_or_wait(self.transport)

    @property
    def is_inside_chunk(self) -> bool:
        return self._chunks is not None and self._chunks.is_inside

    def _end(self, handler: ResponseHandler) -> None:
        self.handler = None
        # A server that answers before it was asked in full still reads of this request.
        if self._keep and self.transport is not None and not self.transport.get_write_buffer_size():
            self._is_reused = True
            self.pause(paused=False)
            self._pool.give_back(self)
        elif self.transport is not None:
            self.transport.abort()
        handler.ended()


class ConnectionPool:
    """The connections to one server. Everything happens on the event loop."""

    def __init__(self, backend: Backend) -> None:
        self._host, self.port = backend.address.connect_host, backend.port
        self._watch = Watch(self._host, self.port, backend.uid)
        self._idle: deque[UpstreamConnection] = deque()
        self.loop = asyncio.get_running_loop()
        self._closed = False
        self._connecting: asyncio.Task[None] | None = None

    def take(self) -> UpstreamConnection | None:
        """An idle connection, the youngest, if there is one that the server has not ended."""
        oldest = self.loop.time() - IDLE_S
        while self._idle:
            connection = self._idle.pop()
            if connection.transport is not None and not connection.transport.is_closing():
                if connection.idle_since > oldest and connection.is_silent:
                    return connection
                connection.drop()
        return None

    async def connect(self) -> UpstreamConnection:
        """Opens a connection to the server, never to another program on its port.

        OSError, TimeoutError.
        """
        async with asyncio.timeout(CONNECT_S):
            for _ in range(TRIES):
                self._watch.check()
                _, connection = await self.loop.create_connection(
                    lambda: UpstreamConnection(self), self._host, self.port
                )
                if self._reaches_server(connection):
                    return connection
                connection.drop()
        raise self._watch.stranger

    def _reaches_server(self, connection: UpstreamConnection) -> bool:
        """Before anything is sent. OSError if the server has ended the connection already."""
        # None too for a transport that has not heard yet of the end.
        peer = (
            None
            if connection.transport is None
            else connection.transport.get_extra_info("peername")
        )
        if peer is not None and not connection.is_silent:
            connection.drop()
            raise ConnectionAbortedError("it ended the connection, or speaks before it is asked")
        try:
            return self._watch.has_reached(peer and peer[:2])
        except ConnectionResetError:
            connection.drop()
            raise

    def prepare(self) -> asyncio.Task[None] | None:
        """Have one connection ready for the next request: a streamed one has used up its own."""
        if not self._idle and self._connecting is None and not self._closed:
            self._connecting = self.loop.create_task(self._prepare())
        return self._connecting

    async def _prepare(self) -> None:
        with suppress(OSError, TimeoutError):
            self.give_back(await self.connect())
        self._connecting = None

    def give_back(self, connection: UpstreamConnection) -> None:
        if self._closed or len(self._idle) >= MAX_IDLE:
            connection.drop()
            return
        connection.idle_since = self.loop.time()
        self._idle.append(connection)

    def lost(self, connection: UpstreamConnection) -> None:
        with suppress(ValueError):
            self._idle.remove(connection)

    def close(self) -> None:
        """End the idle connections; those in use end with their requests. Idempotent."""
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
        while self._idle:
            self._idle.pop().drop()
