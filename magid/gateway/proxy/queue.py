"""Queues of requests that wait for a slot: bounded, fair among clients. Pure."""

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Generic, TypeVar

from msgspec import Struct, field

T = TypeVar("T")


class FairQueue(Struct, Generic[T]):
    """The requests that wait for one pool.

    Clients take turns; each one's requests stay in order.
    """

    limit: int
    _by_client: "OrderedDict[str, deque[T]]" = field(default_factory=OrderedDict)
    _count: int = 0

    def __len__(self) -> int:
        return self._count

    def enter(self, client: str, item: T) -> bool:
        """Adds the request; returns False if the queue is full."""
        if self._count >= self.limit:
            return False
        self._by_client.setdefault(client, deque()).append(item)
        self._count += 1
        return True

    def leave(self, client: str, item: T) -> bool:
        """Removes the request; returns whether it was queued."""
        waiting = self._by_client.get(client)
        if waiting is None or item not in waiting:
            return False
        waiting.remove(item)
        self._count -= 1
        if not waiting:
            del self._by_client[client]
        return True

    def next(self) -> tuple[str, T] | None:
        """Removes and returns the next request and its client; the client goes last."""
        if not self._by_client:
            return None
        client, waiting = self._by_client.popitem(last=False)
        item = waiting.popleft()
        self._count -= 1
        if waiting:
            self._by_client[client] = waiting
        return client, item

    def put_back(self, client: str, item: T) -> None:
        """Undoes `next`: the request could not be served yet and is next again."""
        self._by_client.setdefault(client, deque()).appendleft(item)
        self._by_client.move_to_end(client, last=False)
        self._count += 1

    def drain(self, is_over: Callable[[T], bool]) -> list[T]:
        """Removes and returns all requests for which `is_over` is true."""
        over = [(c, i) for c, waiting in self._by_client.items() for i in waiting if is_over(i)]
        for client, item in over:
            self.leave(client, item)
        return [item for _, item in over]


class FairQueues(Generic[T]):
    """One queue per pool, created on first use. `len` is the number of waiting requests."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._queues: dict[str, FairQueue[T]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def enter(self, pool: str, client: str, item: T) -> bool:
        """Adds the request; returns False if the pool's queue is full."""
        queue = self._queues.get(pool)
        if queue is None:
            queue = self._queues[pool] = FairQueue(self._limit)
        has_entered = queue.enter(client, item)
        self._count += has_entered
        return has_entered

    def leave(self, pool: str, client: str, item: T) -> None:
        """Removes the request. Idempotent."""
        queue = self._queues.get(pool)
        if queue is not None:
            self._count -= queue.leave(client, item)

    def lengths(self) -> dict[str, int]:
        """Returns the queue length of each pool. A pool that was used once stays, at 0."""
        return {pool: len(queue) for pool, queue in self._queues.items()}

    def serve(self, place: Callable[[T], bool]) -> None:
        """Removes each request for which `place` returns True, in turn.

        The request is not in the queue while `place` runs.
        """
        for queue in list(self._queues.values()):
            while (found := queue.next()) is not None:
                client, item = found
                self._count -= 1
                if not place(item):
                    queue.put_back(client, item)
                    self._count += 1
                    break

    def drain(self, is_over: Callable[[T], bool]) -> list[T]:
        """Removes and returns all requests for which `is_over` is true."""
        over = [item for queue in self._queues.values() for item in queue.drain(is_over)]
        self._count -= len(over)
        return over
