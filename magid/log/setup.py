"""magid's own log: entries with fields in the journal, plain text anywhere else, and reading both.

Under systemd the log is the journal's. Elsewhere the last lines are kept in memory as well, so that
they can be read over the API in the same way.
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

# Of an entry, what the API shows beside its text.
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
    """Reads what magid has written. Cursors as of `ServerBackend.logs`."""

    async def last(self, lines: int, after: str | None = None) -> list[LogLine]:
        """The last `lines` entries, oldest first; of those behind `after` if it is given."""

    async def wait(self, after: str | None) -> None:
        """Return when there is an entry behind `after`."""


class RingLog:
    """What is in memory."""

    def __init__(self, ring: LogRing | None = None) -> None:
        self._ring = ring or LogRing()

    async def last(self, lines: int, after: str | None = None) -> list[LogLine]:
        return self._ring.last(lines, after)

    async def wait(self, after: str | None) -> None:
        await self._ring.wait(after)


class JournalLog:
    """What the journal has of one unit, of this start and of earlier ones."""

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
    """Where the log goes from now on, and how to read it. Once per process."""
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
    ring = LogRing()  # someone else's stream into the journal: none of the entries is ours alone
    root.addHandler(RingHandler(ring))
    return RingLog(ring)


def _is_journal(descriptor: int, stream: str) -> bool:
    """Whether it leads to the journal: JOURNAL_STREAM is inherited, but descriptors change."""
    status = os.fstat(descriptor)
    return stream == f"{status.st_dev}:{status.st_ino}"


# -- writing -----------------------------------------------------------------------------------


def harmless(text: str) -> str:
    """Nothing in it moves a cursor, rewrites a line or turns the direction of reading. Pure.

    Names of models, paths and the words of clients are in log lines. Line ends and tabs stay.
    """
    return "".join(c if c.isprintable() or c in "\n\t" else _escaped(c) for c in text)


def _escaped(sign: str) -> str:
    return sign.encode("unicode_escape").decode("ascii")


def fields_of(record: logging.LogRecord) -> dict[str, str]:
    """Fields that the caller gave with `messages.about`; an exception by itself is a defect."""
    given: Mapping[str, str] = getattr(record, "fields", {})
    if not given and record.exc_info:
        given = {"MESSAGE_ID": Event.DEFECT.value, "MAGI_EVENT": "defect"}
    return {"PRIORITY": str(priority_of(record.levelno)), **given}


def priority_of(level: int) -> int:
    """syslog(3)'s number for a level of logging."""
    return next((number for floor, number in _PRIORITIES if level >= floor), 7)


_PRIORITIES = (
    (logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6),
)  # fmt: skip


class _Harmless(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return harmless(super().format(record))


class TerminalHandler(logging.StreamHandler[TextIO]):
    """Time, level, module and text, for a person or a file."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.setFormatter(_Harmless("%(asctime)s %(levelname)s %(name)s: %(message)s"))


class PrefixHandler(logging.StreamHandler[TextIO]):
    """For a stream that the journal reads: each line begins with its level, as in sd-daemon(3)."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.setFormatter(_Harmless())

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{priority_of(record.levelno)}>"
        return "\n".join(prefix + line for line in super().format(record).splitlines())


class JournalHandler(logging.Handler):
    """One entry for each record, however many lines its text has. `otherwise`: without a journal.

    While the journal takes nothing, entries are left out and counted: magid does not wait for it.
    """

    def __init__(self, journal: JournalSocket, otherwise: logging.Handler) -> None:
        super().__init__()
        self._journal, self._otherwise = journal, otherwise
        self._lost = 0
        self.setFormatter(_Harmless())

    def emit(self, record: logging.LogRecord) -> None:
        try:
            entry = self._entry(record)
            self._tell_lost()
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

    def _tell_lost(self) -> None:
        if self._lost:
            text = f"{self._lost} entries of the log are missing here: the journal took none"
            fields = {"MESSAGE": text, "PRIORITY": "4", "SYSLOG_IDENTIFIER": "magid"}
            self._journal.send(fields)
            self._lost = 0


class RingHandler(logging.Handler):
    """Keeps entries for the API. Threads log too, and the ring belongs to the event loop."""

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
