"""Requests that wait for a free slot: bounded, fair among clients, each with a deadline. Pure."""

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class Room(Generic[T]):
    """Those who wait for one pool. Clients take turns, each one's requests stay in order."""

    limit: int
    _lines: "OrderedDict[str, deque[T]]" = field(default_factory=OrderedDict)
    _count: int = 0

    def __len__(self) -> int:
        return self._count

    def enter(self, client: str, item: T) -> bool:
        """False if the room is full."""
        if self._count >= self.limit:
            return False
        self._lines.setdefault(client, deque()).append(item)
        self._count += 1
        return True

    def leave(self, client: str, item: T) -> bool:
        """Whether it was here."""
        line = self._lines.get(client)
        if line is None or item not in line:
            return False
        line.remove(item)
        self._count -= 1
        if not line:
            del self._lines[client]
        return True

    def next(self) -> T | None:
        """Whose turn it is; the client goes to the end of the round."""
        if not self._lines:
            return None
        client, line = self._lines.popitem(last=False)
        item = line.popleft()
        self._count -= 1
        if line:
            self._lines[client] = line
        return item

    def put_back(self, client: str, item: T) -> None:
        """Undo `next`: it could not be served yet, and is the next one again."""
        self._lines.setdefault(client, deque()).appendleft(item)
        self._lines.move_to_end(client, last=False)
        self._count += 1

    def drain(self, is_over: Callable[[T], bool]) -> list[T]:
        """Take out all of which it is so."""
        over = [(c, i) for c, line in self._lines.items() for i in line if is_over(i)]
        for client, item in over:
            self.leave(client, item)
        return [item for _, item in over]
