"""Server-sent events: the wire form, and the fan-out to any number of watchers.

An event is made into bytes once, whoever listens. A watcher that does not read is dropped with a
`resync` event and costs the others nothing: its queue is bounded and never waited for.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

from pydantic_core import to_json

KEEP_ALIVE_S = 15.0
QUEUE_LIMIT = 256
QUEUE_BYTES = 2 * 1024 * 1024  # of events that wait for one watcher
RETRY = b"retry: 2000\n"  # in the first event: milliseconds until a browser comes back


def event(kind: str, payload: object, event_id: str) -> bytes:
    return event_of(kind, to_json(payload), event_id)


def event_of(kind: str, data: bytes, event_id: str) -> bytes:
    """`data` is JSON already: on one line, whatever text is in it."""
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (event_id.encode(), kind.encode(), data)


def comment() -> bytes:
    """Keeps the connection alive through proxies; clients ignore it."""
    return b": keep-alive\n\n"


class _Watcher:
    """What one watcher has still to read. Bounded, so that one who does not read costs little."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._bytes = 0
        self._has_end = False

    def put(self, data: bytes) -> bool:
        """False: it has not read for too long. One event alone is never too large."""
        size = self._queue.qsize()
        if size >= QUEUE_LIMIT or (size and self._bytes + len(data) > QUEUE_BYTES):
            return False
        self._bytes += len(data)
        self._queue.put_nowait(data)
        return True

    async def get(self) -> bytes | None:
        """All that waits, as one piece for the socket; None: there will be no more."""
        parts = [await self._queue.get()]
        while parts[-1] is not None and not self._queue.empty():
            parts.append(self._queue.get_nowait())
        self._bytes = 0
        if parts[-1] is None and len(parts) > 1:
            self._queue.put_nowait(parts.pop())
        return None if parts == [None] else b"".join(part or b"" for part in parts)

    def forget(self) -> None:
        """Let go of what waits, unless it is the end."""
        while not self._has_end and not self._queue.empty():
            self._queue.get_nowait()
            self._bytes = 0

    def end(self, last: bytes, *, forget: bool) -> None:
        """`last` is the last it gets, behind what waits for it or in its place."""
        if forget:
            self.forget()
        self._has_end = True
        self._queue.put_nowait(last)
        self._queue.put_nowait(None)


class Fanout:
    """One feed of events. `revision` counts them."""

    def __init__(self) -> None:
        self.revision = 0
        self.dropped = 0  # watchers that did not keep up
        self.closed = asyncio.Event()
        self.heard = asyncio.Event()  # while anyone watches
        self._watchers: set[_Watcher] = set()

    @property
    def is_heard(self) -> bool:
        """Whether anyone watches."""
        return bool(self._watchers)

    @property
    def listeners(self) -> int:
        return len(self._watchers)

    def publish(self, kind: str, payload: dict[str, object]) -> None:
        """Never blocks."""
        self.revision += 1
        data = event(kind, {"revision": self.revision, **payload}, str(self.revision))
        for watcher in list(self._watchers):
            if not watcher.put(data):
                self.dropped += 1
                self._end(watcher, forget=True)

    def _end(self, watcher: _Watcher, *, forget: bool) -> None:
        self._remove(watcher)
        last = event("resync", {"revision": self.revision}, str(self.revision))
        watcher.end(last, forget=forget)

    def _remove(self, watcher: _Watcher) -> None:
        self._watchers.discard(watcher)
        if not self._watchers:
            self.heard.clear()

    def close(self) -> None:
        """End every stream, so that a drain does not wait for watchers. They still get the rest."""
        self.closed.set()
        for watcher in list(self._watchers):
            self._end(watcher, forget=False)

    async def watch(self, first: Callable[[], Awaitable[bytes]]) -> AsyncGenerator[bytes]:
        """`first`, then each event. It subscribes before it looks, so that nothing is missed.

        `first` holds everything up to its return; what was published before that is not repeated.
        """
        watcher = _Watcher()
        self._watchers.add(watcher)
        self.heard.set()
        if self.closed.is_set():
            self._end(watcher, forget=False)
        try:
            everything = await first()
            watcher.forget()
            yield everything
            while True:
                try:
                    async with asyncio.timeout(KEEP_ALIVE_S):
                        item = await watcher.get()
                except TimeoutError:
                    yield comment()
                    continue
                if item is None:
                    return
                yield item
        finally:
            self._remove(watcher)
