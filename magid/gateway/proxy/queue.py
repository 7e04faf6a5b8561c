"""Queues of requests that wait for a slot: bounded, fair among clients. Pure."""

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class FairQueue(Generic[T]):
    """The requests that wait for one pool.

    Clients take turns; each one's requests stay in order.
    """

    limit: int
    _lines: "OrderedDict[str, deque[T]]" = field(default_factory=OrderedDict)
    _count: int = 0

    def __len__(self) -> int:
        return self._count

    def enter(self, client: str, item: T) -> bool:
        """Adds the request; returns False if the queue is full."""
        if self._count >= self.limit:
            return False
        self._lines.setdefault(client, deque()).append(item)
        self._count += 1
        return True

    def leave(self, client: str, item: T) -> bool:
        """Removes the request; returns whether it was queued."""
        line = self._lines.get(client)
        if line is None or item not in line:
            return False
        line.remove(item)
        self._count -= 1
        if not line:
            del self._lines[client]
        return True

    def next(self) -> tuple[str, T] | None:
        """Removes and returns the next request and its client; the client goes last."""
        if not self._lines:
            return None
        client, line = self._lines.popitem(last=False)
        item = line.popleft()
        self._count -= 1
        if line:
            self._lines[client] = line
        return client, item

    def put_back(self, client: str, item: T) -> None:
        """Undoes `next`: the request could not be served yet and is next again."""
        self._lines.setdefault(client, deque()).appendleft(item)
        self._lines.move_to_end(client, last=False)
        self._count += 1

    def drain(self, is_over: Callable[[T], bool]) -> list[T]:
        """Removes and returns all requests for which `is_over` is true."""
        over = [(c, i) for c, line in self._lines.items() for i in line if is_over(i)]
        for client, item in over:
            self.leave(client, item)
        return [item for _, item in over]


class FairQueues(Generic[T]):
    """One queue per pool, created on first use. `len` is the number of waiting requests."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rooms: dict[str, FairQueue[T]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def enter(self, pool: str, client: str, item: T) -> bool:
        """Adds the request; returns False if the pool's queue is full."""
        room = self._rooms.get(pool)
        if room is None:
            room = self._rooms[pool] = FairQueue(self._limit)
        has_entered = room.enter(client, item)
        self._count += has_entered
        return has_entered

    def leave(self, pool: str, client: str, item: T) -> None:
        """Removes the request. Idempotent."""
        room = self._rooms.get(pool)
        if room is not None:
            self._count -= room.leave(client, item)

    def lengths(self) -> dict[str, int]:
        """Returns the queue length of each pool. A pool that was used once stays, at 0."""
        return {pool: len(room) for pool, room in self._rooms.items()}

    def serve(self, place: Callable[[T], bool]) -> None:
        """Removes each request for which `place` returns True, in turn.

        The request is not in the queue while `place` runs.
        """
        for room in list(self._rooms.values()):
            while (found := room.next()) is not None:
                client, item = found
                self._count -= 1
                if not place(item):
                    room.put_back(client, item)
                    self._count += 1
                    break

    def drain(self, is_over: Callable[[T], bool]) -> list[T]:
        """Removes and returns all requests for which `is_over` is true."""
        over = [item for room in self._rooms.values() for item in room.drain(is_over)]
        self._count -= len(over)
        return over
