"""The last lines of a server's output, in memory, bounded in number and in size."""

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from sys import getsizeof

from msgspec import Struct, field

from magid.errors import InvalidInput

MAX_LINES = 256  # of a server's output, likewise


# -- a server's output
MAX_LINE_BYTES = 8 * 1024  # a longer line is kept as several
MAX_LOG_LINES = 2_000
MAX_LOG_BYTES = 4 * 1024 * 1024  # of memory that the lines take


class LogLine(Struct, frozen=True):
    """One line of a server's log."""

    cursor: str  # opaque; `logs(after=cursor)` goes on behind it
    at: float  # seconds since the epoch
    text: str  # of one entry: it may have several lines
    fields: Mapping[str, str] = field(default_factory=dict)  # what the journal keeps beside it
    run: str = ""  # id of the process start that it belongs to; empty if unknown


class LogRing:
    """The last lines of one server, across restarts of its process.

    A cursor is the ring's epoch and a running number, so cursors grow with the lines. One of
    another epoch (magid was restarted) is older than all lines here.
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
        """The last `lines` lines, oldest first; of those behind `after` if it is given."""
        missed = min(self._behind(after), len(self._lines), max(lines, 0))
        return list(self._lines)[len(self._lines) - missed :]

    async def wait(self, after: str | None) -> None:
        """Return when there is a line behind `after`."""
        while not self._behind(after):
            await self._added.wait()

    def _behind(self, cursor: str | None) -> int:
        """How many lines there have been behind `cursor`, those no longer kept among them."""
        if cursor is None:
            return self._count
        epoch, _, number = cursor.partition(".")
        if len(cursor) > 40 or not (number.isascii() and number.isdigit()):
            raise InvalidInput(
                f"cannot go on behind log line {cursor[:40]!r}: that is not a cursor of this log; "
                "leave it out to begin with the last lines",
                field="after",
            )
        return max(self._count - int(number), 0) if epoch == self._epoch else self._count
