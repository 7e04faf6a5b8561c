"""Sets up magid's own log, and reads it: entries with fields in the journal, else plain text.

Without the journal the last lines are also kept in memory, for the API.
"""

import asyncio
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TextIO

from magid.log.buffer import LogLine, LogRing
from magid.log.events import Event
from magid.systemd.journal import Journal, check_cursor, matches_of
from magid.systemd.journal_socket import JournalSocket
from magid.systemd.unit_names import unit_of_process
from magid.wording.counts import counted

# The fields of an entry that the API shows besides its text.
SHOWN_FIELDS = (
    "PRIORITY",
    "MESSAGE_ID",
    "MAGI_EVENT",
    "MAGI_MODEL",
    "MAGI_UNIT",
    "MAGI_REQUEST_ID",
    "MAGI_CLIENT_REQUEST_ID",
)


class OwnLog(Protocol):
    """Reads magid's own log. Cursors are as in `ServerBackend.logs`."""

    async def last(self, lines: int, after: str | None = None) -> list[LogLine]:
        """Returns the last `lines` entries, oldest first; only those after the cursor `after`."""

    async def wait(self, after: str | None) -> None:
        """Returns when there is an entry after the cursor `after`."""


class RingLog:
    """The last entries, in memory."""

    def __init__(self, ring: LogRing | None = None) -> None:
        self._ring = ring or LogRing()

    async def last(self, lines: int, after: str | None = None) -> list[LogLine]:
        return self._ring.last(lines, after)

    async def wait(self, after: str | None) -> None:
        await self._ring.wait(after)


class JournalLog:
    """The entries of one unit in the journal, including those of earlier runs."""

    def __init__(self, unit: str, journal: Journal | None = None) -> None:
        self._matches = matches_of(unit)
        self._journal = journal or Journal()

    async def last(self, lines: int, after: str | None = None) -> list[LogLine]:
        entries = await self._journal.last(self._matches, lines, after, SHOWN_FIELDS)
        return [LogLine(e.cursor, e.at, e.text, e.fields) for e in entries]

    async def wait(self, after: str | None) -> None:
        check_cursor(after)
        await self._journal.wait(self._matches, after)


def set_up(level: str) -> OwnLog:
    """Installs the log handlers; returns the reader of the log. Call it once per process."""
    root = logging.getLogger()
    root.setLevel(level.upper())
    if not _is_journal(sys.stderr.fileno(), os.environ.get("JOURNAL_STREAM", "")):
        ring = LogRing()
        root.addHandler(TerminalHandler(sys.stderr))
        root.addHandler(RingHandler(ring))
        return RingLog(ring)
    root.addHandler(JournalHandler(JournalSocket(), PrefixHandler(sys.stderr)))
    unit = unit_of_process(Path("/proc/self/cgroup").read_text(), ".service")
    if unit:
        return JournalLog(unit)
    ring = LogRing()  # stderr is another program's stream, so the journal also has its entries
    root.addHandler(RingHandler(ring))
    return RingLog(ring)


def _is_journal(descriptor: int, stream: str) -> bool:
    """Whether it is the journal's stream. JOURNAL_STREAM may be inherited and out of date."""
    status = os.fstat(descriptor)
    return stream == f"{status.st_dev}:{status.st_ino}"


# -- writing -----------------------------------------------------------------------------------


def harmless(text: str) -> str:
    """Escapes characters that could move the cursor, rewrite a line or reverse text. Pure.

    Log lines contain names of models, paths and text from clients. Line ends and tabs stay.
    """
    return "".join(c if c.isprintable() or c in "\n\t" else _escaped(c) for c in text)


def _escaped(sign: str) -> str:
    return sign.encode("unicode_escape").decode("ascii")


def fields_of(record: logging.LogRecord) -> dict[str, str]:
    """Returns the fields from `events.about`; a record with only an exception is a defect."""
    given: Mapping[str, str] = getattr(record, "fields", {})
    if not given and record.exc_info:
        given = {"MESSAGE_ID": Event.DEFECT.value, "MAGI_EVENT": "defect"}
    return {"PRIORITY": str(priority_of(record.levelno)), **given}


def priority_of(level: int) -> int:
    """Returns the priority of syslog(3) for a level of `logging`."""
    return next((number for floor, number in _PRIORITIES if level >= floor), 7)


_PRIORITIES = (
    (logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6),
)  # fmt: skip


class _Harmless(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return harmless(super().format(record))


class TerminalHandler(logging.StreamHandler[TextIO]):
    """Writes time, level, module and text, to a terminal or a file."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.setFormatter(_Harmless("%(asctime)s %(levelname)s %(name)s: %(message)s"))


class PrefixHandler(logging.StreamHandler[TextIO]):
    """Writes to a stream that the journal reads: lines start with their level, see sd-daemon(3)."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.setFormatter(_Harmless())

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{priority_of(record.levelno)}>"
        return "\n".join(prefix + line for line in super().format(record).splitlines())


class JournalHandler(logging.Handler):
    """Sends each record to the journal as one entry; to `otherwise` if there is no journal.

    Never waits: while the journal accepts nothing, entries are dropped and counted.
    """

    def __init__(self, journal: JournalSocket, otherwise: logging.Handler) -> None:
        super().__init__()
        self._journal, self._otherwise = journal, otherwise
        self._lost = 0
        self.setFormatter(_Harmless())

    def emit(self, record: logging.LogRecord) -> None:
        try:
            entry = self._entry(record)
            self._report_lost()
            self._journal.send(entry)
        except BlockingIOError:
            self._lost += 1
        except OSError:
            self._otherwise.handle(record)
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        self._journal.close()
        super().close()

    def _entry(self, record: logging.LogRecord) -> dict[str, str]:
        return {
            "MESSAGE": self.format(record),
            "SYSLOG_IDENTIFIER": "magid",
            "LOGGER": record.name,
            "CODE_FILE": record.pathname,
            "CODE_LINE": str(record.lineno),
            "CODE_FUNC": record.funcName or "",
            **fields_of(record),
        }

    def _report_lost(self) -> None:
        if self._lost:
            what = counted(self._lost, "log entry is", "log entries are")
            text = f"{what} missing here: the journal accepted none"
            fields = {"MESSAGE": text, "PRIORITY": "4", "SYSLOG_IDENTIFIER": "magid"}
            self._journal.send(fields)
            self._lost = 0


class RingHandler(logging.Handler):
    """Adds entries to the ring, which belongs to the event loop; threads may log too."""

    def __init__(self, ring: LogRing) -> None:
        super().__init__()
        self._ring = ring
        self._loop: asyncio.AbstractEventLoop | None = None
        self.setFormatter(_Harmless())

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._add(self.format(record), fields_of(record))
        except Exception:
            self.handleError(record)

    def _add(self, *entry: Any) -> None:
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:  # a thread
            if self._loop is not None and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._ring.add, *entry)
                return
        self._ring.add(*entry)
