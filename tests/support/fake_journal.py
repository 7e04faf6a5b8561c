"""A journal of a test's own, as python-systemd's Reader shows one: entries in memory."""

import os
import threading
from dataclasses import dataclass, field


def cursor(number: int, *, sequence: str = "a" * 32, at: int | None = None) -> str:
    time = number if at is None else at
    return f"s={sequence};i={number:x};b={'b' * 32};m=1;t={time:x};x=1"


@dataclass
class FakeJournal:
    """`add` makes every reader's descriptor readable, as inotify does."""

    entries: list[dict[str, bytes]] = field(default_factory=list)
    cursors: list[str] = field(default_factory=list)
    readers: list["FakeReader"] = field(default_factory=list)
    opened: threading.Event = field(default_factory=threading.Event)

    def add(self, text: str, at_cursor: str | None = None, **fields: str) -> str:
        known = {"MESSAGE": text.encode()} | {k: v.encode() for k, v in fields.items()}
        self.entries.append(known)
        self.cursors.append(at_cursor or cursor(len(self.entries)))
        for reader in self.readers:
            reader.wake()
        return self.cursors[-1]

    def open(self) -> "FakeReader":
        self.readers.append(FakeReader(self))
        self.opened.set()
        return self.readers[-1]


class FakeReader:
    """The part of systemd.journal.Reader that magid uses; matches: any group, all of its fields."""

    data_threshold = 0

    def __init__(self, journal: FakeJournal) -> None:
        self._journal = journal
        self._groups: list[list[str]] = [[]]
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._reading, False)
        self._at = 0
        self.is_open = True
        self._lock = threading.Lock()  # the test adds, the journal's thread closes

    def add_match(self, match: str) -> None:
        self._groups[-1].append(match)

    def add_disjunction(self) -> None:
        self._groups.append([])

    def seek_tail(self) -> None:
        self._at = len(self._journal.entries)

    def _previous(self) -> bool:
        while self._at > 0:
            self._at -= 1
            if self._matches(self._journal.entries[self._at]):
                return True
        return False

    def _matches(self, entry: dict[str, bytes]) -> bool:
        pairs = {f"{name}={value.decode(errors='replace')}" for name, value in entry.items()}
        return any(pairs.issuperset(group) for group in self._groups)

    def _get(self, field: str) -> bytes:
        return self._journal.entries[self._at][field]

    def _get_cursor(self) -> str:
        return self._journal.cursors[self._at]

    def _get_realtime(self) -> int:
        return self._at * 1_000_000

    def fileno(self) -> int:
        return self._reading

    def process(self) -> int:
        try:
            os.read(self._reading, 4096)
        except BlockingIOError:
            return 0
        return 1

    def wake(self) -> None:
        with self._lock:
            if self.is_open:
                os.write(self._writing, b"x")

    def close(self) -> None:
        with self._lock:
            self.is_open = False
            os.close(self._reading)
            os.close(self._writing)
