"""Server-sent events: the wire form, and the fan-out to any number of watchers.

An event is made into bytes once, whoever listens. A watcher that does not read is dropped with a
`resync` event and costs the others nothing: its queue is bounded and never waited for.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

from pydantic_core import to_json

KEEP_ALIVE_S = 15.0
QUEUE_LIMIT = 256


def event(kind: str, payload: object, event_id: str) -> bytes:
    return event_of(kind, to_json(payload), event_id)


def event_of(kind: str, data: bytes, event_id: str) -> bytes:
    """`data` is JSON already: on one line, whatever text is in it."""
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (event_id.encode(), kind.encode(), data)


def comment() -> bytes:
    """Keeps the connection alive through proxies; clients ignore it."""
    return b": keep-alive\n\n"


class Fanout:
    """One feed of events. `revision` counts them."""

    def __init__(self) -> None:
        self.revision = 0
        self.dropped = 0  # watchers that did not keep up
        self.closed = asyncio.Event()
        self._queues: set[asyncio.Queue[bytes | None]] = set()

    @property
    def is_heard(self) -> bool:
        """Whether anyone watches."""
        return bool(self._queues)

    @property
    def listeners(self) -> int:
        return len(self._queues)

    def publish(self, kind: str, payload: dict[str, object]) -> None:
        """Never blocks."""
        self.revision += 1
        data = event(kind, {"revision": self.revision, **payload}, str(self.revision))
        for queue in list(self._queues):
            if queue.full():
                self.dropped += 1
                self._drop(queue)
            else:
                queue.put_nowait(data)

    def _drop(self, queue: asyncio.Queue[bytes | None]) -> None:
        while not queue.empty():
            queue.get_nowait()
        self._end(queue)

    def _end(self, queue: asyncio.Queue[bytes | None]) -> None:
        self._queues.discard(queue)
        queue.put_nowait(event("resync", {"revision": self.revision}, str(self.revision)))
        queue.put_nowait(None)

    def close(self) -> None:
        """End every stream, so that a drain does not wait for watchers. They still get the rest."""
        self.closed.set()
        for queue in list(self._queues):
            if queue.qsize() > QUEUE_LIMIT - 2:
                self._drop(queue)
            else:
                self._end(queue)

    async def watch(self, first: Callable[[], Awaitable[bytes]]) -> AsyncGenerator[bytes]:
        """`first`, then each event. It subscribes before it looks, so that nothing is missed."""
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(QUEUE_LIMIT)
        self._queues.add(queue)
        if self.closed.is_set():
            self._end(queue)
        try:
            yield await first()
            while True:
                try:
                    async with asyncio.timeout(KEEP_ALIVE_S):
                        item = await queue.get()
                except TimeoutError:
                    yield comment()
                    continue
                if item is None:
                    return
                yield item
        finally:
            self._queues.discard(queue)
