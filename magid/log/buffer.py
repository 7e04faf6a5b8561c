"""The last lines of a server's output, in memory, bounded in number and in size."""

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from sys import getsizeof

from msgspec import Struct, field

from magid.errors import InvalidInput

MAX_LINES = 256  # of a process's output
MAX_LINE_BYTES = 8 * 1024  # a longer line is split
MAX_LOG_LINES = 2_000
MAX_LOG_BYTES = 4 * 1024 * 1024  # of memory, for the lines


class LogLine(Struct, frozen=True):
    """One line of a server's log."""

    cursor: str  # opaque; `logs(after=cursor)` continues after this line
    at: float  # seconds since the epoch
    text: str  # one entry, which may have several lines
    fields: Mapping[str, str] = field(default_factory=dict)  # further fields of the entry
    run: str = ""  # id of the run of the process that wrote it; empty if unknown


class LogRing:
    """The last lines of one server, across restarts of its process.

    A cursor is the ring's epoch and a sequence number, so cursors are in the order of the lines.
    One with another epoch, from before a restart of magid, is older than all lines here.
    """

    def __init__(self, capacity: int = MAX_LOG_LINES, most_bytes: int = MAX_LOG_BYTES) -> None:
        self._epoch = f"{time.time_ns():016x}"
        self._count = 0
        self._lines: deque[LogLine] = deque()
        self._capacity, self._most_bytes = capacity, most_bytes
        self._bytes = 0  # of memory, for the texts
        self._added = asyncio.Event()

    def add(self, text: str, fields: Mapping[str, str] | None = None, run: str = "") -> None:
        self._count += 1
        cursor = f"{self._epoch}.{self._count:012d}"
        self._lines.append(LogLine(cursor, time.time(), text, fields or {}, run))
        self._bytes += getsizeof(text)  # up to four bytes for a character
        while len(self._lines) > self._capacity or self._bytes > self._most_bytes:
            self._bytes -= getsizeof(self._lines.popleft().text)
        self._added.set()
        self._added = asyncio.Event()

    def last(self, lines: int, after: str | None = None) -> list[LogLine]:
        """Returns the last `lines` lines, oldest first; only those after the cursor `after`."""
        missed = min(self._behind(after), len(self._lines), max(lines, 0))
        return list(self._lines)[len(self._lines) - missed :]

    async def wait(self, after: str | None) -> None:
        """Returns when there is a line after the cursor `after`."""
        while not self._behind(after):
            await self._added.wait()

    def _behind(self, cursor: str | None) -> int:
        """Returns how many lines were added after `cursor`, including those no longer kept."""
        if cursor is None:
            return self._count
        epoch, _, number = cursor.partition(".")
        if len(cursor) > 40 or not (number.isascii() and number.isdigit()):
            raise InvalidInput(
                f"cannot continue after {cursor[:40]!r}: that is not a cursor of this log; "
                "leave it out to start with the last lines",
                field="after",
            )
        return max(self._count - int(number), 0) if epoch == self._epoch else self._count
