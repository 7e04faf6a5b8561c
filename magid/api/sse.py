"""Server-sent events: the wire form, and the fan-out to any number of watchers.

An event is encoded once for all watchers. A watcher that does not read is dropped with a `resync`
event and does not slow the others: its queue is bounded, and `publish` never waits for it.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

from magid.http.json_text import to_json

KEEP_ALIVE_S = 15.0
QUEUE_LIMIT = 256
QUEUE_BYTES = 2 * 1024 * 1024  # of events queued for one watcher
RETRY = b"retry: 2000\n"  # in the first event: milliseconds until a browser reconnects


def event(kind: str, payload: object, event_id: str) -> bytes:
    return event_of(kind, to_json(payload), event_id)


def event_of(kind: str, data: bytes, event_id: str) -> bytes:
    """Returns an event. `data` is JSON, which is always on one line."""
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (event_id.encode(), kind.encode(), data)


def comment() -> bytes:
    """Returns a comment: it keeps the connection alive through proxies; clients ignore it."""
    return b": keep-alive\n\n"


class _Watcher:
    """The queue of one watcher. Bounded, so that a watcher that does not read costs little."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._bytes = 0
        self._has_end = False

    def put(self, data: bytes) -> bool:
        """Queues an event. Returns False if it is full; a single event is never too large."""
        size = self._queue.qsize()
        if size >= QUEUE_LIMIT or (size and self._bytes + len(data) > QUEUE_BYTES):
            return False
        self._bytes += len(data)
        self._queue.put_nowait(data)
        return True

    async def get(self) -> bytes | None:
        """Returns all queued events as one piece for the socket; None: the stream has ended."""
        parts = [await self._queue.get()]
        while parts[-1] is not None and not self._queue.empty():
            parts.append(self._queue.get_nowait())
        self._bytes = 0
        if parts[-1] is None and len(parts) > 1:
            self._queue.put_nowait(parts.pop())
        return None if parts == [None] else b"".join(part or b"" for part in parts)

    def forget(self) -> None:
        """Discards the queued events, unless the end is queued already."""
        while not self._has_end and not self._queue.empty():
            self._queue.get_nowait()
            self._bytes = 0

    def end(self, last: bytes, *, forget: bool) -> None:
        """Ends the stream with `last`, after the queued events or (`forget`) instead of them."""
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
        self.heard = asyncio.Event()  # set while there are watchers
        self._watchers: set[_Watcher] = set()

    @property
    def is_heard(self) -> bool:
        """Whether there are watchers."""
        return bool(self._watchers)

    @property
    def listeners(self) -> int:
        return len(self._watchers)

    def publish(self, kind: str, payload: dict[str, object]) -> None:
        """Queues an event for every watcher. Never blocks."""
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
        """Ends every stream, so that a drain does not wait for it. Queued events are still sent."""
        self.closed.set()
        for watcher in list(self._watchers):
            self._end(watcher, forget=False)

    async def watch(self, first: Callable[[], Awaitable[bytes]]) -> AsyncGenerator[bytes]:
        """Yields `first`, then each event. Subscribes before calling `first`, so none is missed.

        `first` covers every event up to its return; those published earlier are not repeated.
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
