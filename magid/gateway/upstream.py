"""Connections to llama-servers, and the reading of their answers.

llama-server 0.7.0 closes a connection after every streamed answer although it advertises
keep-alive, after 100 requests, and after 5 s idle. So the connection of a chunked answer is never
used again, idle ones are young, and a request that met a closing connection and got no byte is sent
once more.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol, cast

from magid.gateway.fleet import Backend
from magid.gateway.framing import ChunkReader, ReplyHead, reply_head
from magid.gateway.outline import Body, Buffer
from magid.listeners import Listener, listener_at
from magid.llama import Garbled

log = logging.getLogger(__name__)

# Connections per server that wait for their next request. Used ones do no harm; of those that were
# opened and never used, 16 made llama-server stall for 5 s, so there is at most one of them.
MAX_IDLE = 32
IDLE_S = 4.0  # llama-server ends them after 5
CONNECT_S = 5.0  # to a server of this machine
_TRIES = 3  # connections, while the listener on the port changes
MAX_HEAD_BYTES = 32 * 1024
MISTAKE = "magid made a mistake; its log has the trace"


class Taker(Protocol):
    """Who waits for an answer. After `ended` or `failed` nothing more comes."""

    def begins(self, head: ReplyHead, first: bytes) -> None:
        """The head, with the bytes of the body that came in the same segment."""

    def goes_on(self, data: bytes) -> None: ...

    def ended(self) -> None: ...

    def failed(self, why: str, *, is_stale: bool) -> None:
        """`is_stale`: a kept connection had ended before a byte came; worth another try."""


class Line(asyncio.Protocol):
    """One connection to one server: one request at a time."""

    __slots__ = (
        "_buffer", "_chunks", "_ends", "_head", "_is_reused", "_keep", "_left", "_pool",
        "idle_since", "is_paused", "taker", "transport",
    )  # fmt: skip

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        self.transport: asyncio.Transport | None = None
        self.taker: Taker | None = None
        self.idle_since = 0.0
        self.is_paused = False
        self._is_reused = False
        self._buffer = b""
        self._head: ReplyHead | None = None
        self._chunks: ChunkReader | None = None
        self._left = 0
        self._keep = False

    def ask(self, request: bytes, taker: Taker, pieces: Sequence[Body | Buffer] = ()) -> None:
        """Send a whole request, the last pieces of which may come apart. It must be idle."""
        self.taker, self._head, self._buffer = taker, None, b""
        assert self.transport is not None
        self.transport.write(request)
        if pieces:
            self.transport.writelines(pieces)

    def drop(self) -> None:
        """End it at once: llama-server stops working on the request."""
        self.taker = None
        if self.transport is not None:
            self.transport.abort()

    def pause(self, *, paused: bool) -> None:
        """Take no more bytes while the client does not: the server's socket fills up."""
        if self.transport is None or self.is_paused == paused or self.transport.is_closing():
            return
        self.is_paused = paused
        if paused:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    # -- asyncio.Protocol ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by class

    def data_received(self, data: bytes) -> None:
        taker = self.taker
        if taker is None:
            self.drop()  # it speaks without being asked
            return
        try:
            if self._head is None:
                self._begin(data, taker)
            else:
                self._go_on(data, taker)
        except Garbled as error:
            self.drop()
            taker.failed(f"its answer is malformed: {error}", is_stale=False)
        except Exception:
            log.exception("passing on an answer of port %d failed", self._pool.port)
            self.drop()
            taker.failed(MISTAKE, is_stale=False)

    def connection_lost(self, _error: Exception | None) -> None:
        taker, self.taker = self.taker, None
        self.transport = None
        self._pool.lost(self)
        if taker is None:
            return
        head = self._head
        if head is not None and head.length is None and not head.is_chunked:
            taker.ended()
        else:
            is_stale = self._is_reused and head is None and not self._buffer
            taker.failed("its connection ended before the answer did", is_stale=is_stale)

    # -- the answer ------------------------------------------------------------------------

    def _begin(self, data: bytes, taker: Taker) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found:
            if len(self._buffer) > MAX_HEAD_BYTES:
                raise Garbled("its head is too long")
            return
        parsed = reply_head(head)
        self._buffer = b""
        if parsed.status < 200:
            if body:
                self._begin(body, taker)
            return
        self._head = parsed
        self._keep = parsed.keeps_alive and not parsed.is_chunked and parsed.length is not None
        self._chunks = ChunkReader(keep=False) if parsed.is_chunked else None
        self._left = parsed.length or 0
        is_last = self._count(body)
        taker.begins(parsed, body)
        if is_last and self.taker is taker:
            self._end(taker)

    def _go_on(self, data: bytes, taker: Taker) -> None:
        is_last = self._count(data)
        taker.goes_on(data)
        if is_last and self.taker is taker:
            self._end(taker)

    def _count(self, data: bytes) -> bool:
        """Whether the answer is whole with these bytes. Raises Garbled if it is more than whole."""
        if self._chunks is not None:
            used = self._chunks.feed(data)
            if used != len(data):
                raise Garbled("there is more behind its end")
            return self._chunks.done
        assert self._head is not None
        if self._head.length is None:
            return False
        self._left -= len(data)
        if self._left < 0:
            raise Garbled("it is longer than it said")
        return self._left == 0

    @property
    def is_inside_chunk(self) -> bool:
        return self._chunks is not None and self._chunks.is_inside

    def _end(self, taker: Taker) -> None:
        self.taker = None
        if self._keep:
            self._is_reused = True
            self.pause(paused=False)
            self._pool.give_back(self)
        elif self.transport is not None:
            self.transport.abort()
        taker.ended()


class Pool:
    """The connections to one server. Everything happens on the event loop."""

    def __init__(self, backend: Backend) -> None:
        self._host, self.port, self._uid = backend.address.connect_host, backend.port, backend.uid
        self._listener: Listener | None = None  # the server's, as the kernel had it last
        self._idle: deque[Line] = deque()
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._connecting: asyncio.Task[None] | None = None

    def take(self) -> Line | None:
        """An idle connection, the youngest, if there is one that the server has not ended."""
        oldest = self._loop.time() - IDLE_S
        while self._idle:
            line = self._idle.pop()
            if line.transport is not None and not line.transport.is_closing():
                if line.idle_since > oldest:
                    return line
                line.drop()
        return None

    async def connect(self) -> Line:
        """A new one, to the server and to nobody who has taken its port. OSError, TimeoutError."""
        async with asyncio.timeout(CONNECT_S):
            for _ in range(_TRIES):
                _, line = await self._loop.create_connection(
                    lambda: Line(self), self._host, self.port
                )
                if self._reaches_server(line):
                    return line
                line.drop()
        raise ConnectionAbortedError(f"another program has port {self.port}")

    def _reaches_server(self, line: Line) -> bool:
        """Whether who took the connection is the server, before anything is sent.

        OSError if it has ended it already, as a server does that is killed at this moment.
        The listener has to be of the server's user now, and the one that was seen before the
        connection was made: else somebody may have taken it and gone. The first one is not used.
        """
        # None too for a transport that has not heard yet of the end.
        peer = None if line.transport is None else line.transport.get_extra_info("peername")
        if peer is None:
            line.drop()
            raise ConnectionResetError("it ended the connection at once")
        if self._uid is None:
            return True
        host, port, *_ = peer
        try:
            found = listener_at(host, port)
        except OSError as error:
            log.warning("cannot see who listens on port %d: %s", port, error.strerror)
            self._uid = None
            return True
        before, self._listener = self._listener, found
        return found is not None and found.uid == self._uid and found == before

    def prepare(self) -> asyncio.Task[None] | None:
        """Have one connection ready for the next request: a streamed one has used up its own."""
        if not self._idle and self._connecting is None and not self._closed:
            self._connecting = self._loop.create_task(self._prepare())
        return self._connecting

    async def _prepare(self) -> None:
        with suppress(OSError, TimeoutError):
            self.give_back(await self.connect())
        self._connecting = None

    def give_back(self, line: Line) -> None:
        if self._closed or len(self._idle) >= MAX_IDLE:
            line.drop()
            return
        line.idle_since = self._loop.time()
        self._idle.append(line)

    def lost(self, line: Line) -> None:
        with suppress(ValueError):
            self._idle.remove(line)

    def close(self) -> None:
        """End the idle connections; those in use end with their requests. Idempotent."""
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
        while self._idle:
            self._idle.pop().drop()
