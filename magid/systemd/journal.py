"""Reads units' logs in systemd's journal: the last lines, and waiting for new ones.

Blocking work is done in one dedicated thread, because only the thread that opened a reader may use
it (sd_journal_open(3)). Opening one takes a millisecond, so none is kept.
"""

import asyncio
import importlib
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, Final, Protocol, TypeVar

from msgspec import Struct, field

from magid.errors import InvalidInput, NotReady
from magid.systemd import journald_conf

MAX_LINES: Final = 10_000
_MAX_LINE_BYTES: Final = 8 * 1024  # longer lines are truncated
_COREDUMP: Final = "fc2e22bc6ee647b6b90729ab34a250b1"  # SD_MESSAGE_COREDUMP of sd-messages.h
_CURSOR = re.compile(
    r"s=(?P<sequence>[0-9a-f]{32});i=(?P<number>[0-9a-f]{1,16});b=[0-9a-f]{32};m=[0-9a-f]{1,16};"
    r"t=(?P<time>[0-9a-f]{1,16});x=[0-9a-f]{1,16}"
)

T = TypeVar("T")
Matches = tuple[tuple[str, ...], ...]  # an OR of groups, each an AND of fields


class JournalEntry(Struct, frozen=True):
    """One entry of the journal."""

    cursor: str
    at: float  # seconds since the epoch
    text: str
    pid: int  # of the process that wrote it; 0 if unknown
    fields: Mapping[str, str] = field(default_factory=dict)  # those that were requested


class _JournalReader(Protocol):
    """The part of systemd.journal.Reader that is used (python-systemd 235).

    The methods with an underscore return raw bytes; the others convert every field.
    """

    data_threshold: int

    def add_match(self, match: str) -> None: ...
    def add_disjunction(self) -> None: ...
    def seek_tail(self) -> None: ...
    def _previous(self) -> bool: ...
    def _get(self, field: str) -> bytes: ...
    def _get_cursor(self) -> str: ...
    def _get_realtime(self) -> int: ...
    def fileno(self) -> int: ...
    def process(self) -> int: ...
    def close(self) -> None: ...


# -- matches and cursors; pure ---------------------------------------------------------------


def matches_of(unit: str) -> Matches:
    """Returns the matches of `journalctl -u UNIT`: the unit's lines, and PID 1's and root's on it.

    Source: add_matches_for_unit in systemd's logs-show.c.
    """
    return (
        (f"_SYSTEMD_UNIT={unit}",),
        (f"MESSAGE_ID={_COREDUMP}", "_UID=0", f"COREDUMP_UNIT={unit}"),
        ("_PID=1", f"UNIT={unit}"),
        ("_UID=0", f"OBJECT_SYSTEMD_UNIT={unit}"),
    )


def matches_of_run(invocation_id: str) -> Matches:
    """Returns the matches of one run of a unit: its lines, and those of PID 1 about it."""
    return (
        (f"_SYSTEMD_INVOCATION_ID={invocation_id}",),
        ("_PID=1", f"INVOCATION_ID={invocation_id}"),
    )


RUN_FIELDS: Final = ("_SYSTEMD_INVOCATION_ID", "INVOCATION_ID")  # in lines of the unit; of PID 1


def run_of(entry: JournalEntry) -> str:
    """Returns the invocation id of the unit that an entry of `matches_of` is about; "" if none.

    The entry must have been read with RUN_FIELDS.
    """
    own, about = (entry.fields.get(name, "") for name in RUN_FIELDS)
    return about or own


def check_cursor(cursor: str | None) -> None:
    """Raises InvalidInput if it is not a cursor of the journal."""
    if cursor is not None and not _CURSOR.fullmatch(cursor):
        raise InvalidInput(
            f"cannot continue after {cursor[:40]!r}: that is not a cursor of this log; "
            "leave it out to start with the last lines",
            field="after",
        )


def is_behind(cursor: str, after: str | None) -> bool:
    """Whether `cursor` is later than `after`: by number, or by time if the journals differ."""
    if after is None:
        return True
    this, that = _CURSOR.fullmatch(cursor), _CURSOR.fullmatch(after)
    if this is None or that is None:
        return cursor != after
    by = "number" if this["sequence"] == that["sequence"] else "time"
    return int(this[by], 16) > int(that[by], 16)


# -- reading ---------------------------------------------------------------------------------


class Journal:
    """The system's journal. Methods raise NotReady if it cannot be read, or has no storage."""

    def __init__(
        self,
        open_reader: Callable[[], Any] | None = None,
        storage: Callable[[], str] = journald_conf.storage,
    ) -> None:
        self._open = open_reader or _open_system_journal
        self._storage = storage
        self._thread = ThreadPoolExecutor(1, "journal")

    def close(self) -> None:
        """Ends the thread, without waiting for a read in progress."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def last(
        self, matches: Matches, lines: int, after: str | None = None, fields: tuple[str, ...] = ()
    ) -> list[JournalEntry]:
        """Returns the last `lines` entries, oldest first; only those after the cursor `after`.

        Each has those of `fields` that exist.
        """
        check_cursor(after)
        wanted = max(0, min(lines, MAX_LINES))
        return await self._run(lambda: self._last(matches, wanted, after, fields))

    async def wait(self, matches: Matches, after: str | None) -> None:
        """Returns when there is an entry after the cursor `after`."""
        check_cursor(after)
        opened: list[_JournalReader] = []
        try:
            await self._run(lambda: opened.append(self._reader(matches)))
            reader = opened[0]
            # Checked after the descriptor is watched, so no entry is missed.
            descriptor = await self._run(reader.fileno)
            while not await self._run(lambda: _has_news(reader, after)):
                await _readable(descriptor)
        finally:
            # Closed in the reader's thread, after any read that was cancelled.
            self._submit(lambda: _close(opened))

    def _last(
        self, matches: Matches, lines: int, after: str | None, fields: tuple[str, ...]
    ) -> list[JournalEntry]:
        with closing(self._reader(matches)) as reader:
            entries = list(_backwards(reader, lines, after, fields))
        return entries[::-1]

    def _reader(self, matches: Matches) -> Any:
        if self._storage() == journald_conf.NONE:
            # Otherwise the log would just look empty.
            raise NotReady(
                "cannot show logs: systemd's journal keeps none (Storage=none in journald.conf); "
                "`magictl doctor` has the commands that change it"
            )
        reader: _JournalReader = self._open()
        reader.data_threshold = _MAX_LINE_BYTES
        for number, group in enumerate(matches):
            if number:
                reader.add_disjunction()
            for match in group:
                reader.add_match(match)
        return reader

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except OSError as error:
            raise NotReady(
                f"cannot read the journal: {error.strerror or error}; magid's user has to be in "
                "the group systemd-journal"
            ) from error

    def _submit(self, work: Callable[[], None]) -> None:
        try:
            self._thread.submit(work)
        except RuntimeError:  # closed: the thread has ended or is about to
            return


def _open_system_journal() -> Any:
    try:
        # By name, because mypy has no types for it: Debian's python3-systemd is not in the venv.
        journal = importlib.import_module("systemd.journal")
    except ImportError as error:
        raise NotReady(
            "cannot read the journal: Python's systemd module is missing; install python3-systemd"
        ) from error
    return journal.Reader(journal.LOCAL_ONLY | journal.SYSTEM_ONLY)


def _backwards(
    reader: _JournalReader, lines: int, after: str | None, fields: tuple[str, ...]
) -> Iterator[JournalEntry]:
    reader.seek_tail()
    for _ in range(lines):
        if not reader._previous() or not is_behind(reader._get_cursor(), after):
            return
        yield _entry(reader, fields)


def _has_news(reader: _JournalReader, after: str | None) -> bool:
    reader.process()  # takes in new entries and new files
    reader.seek_tail()
    return bool(reader._previous()) and is_behind(reader._get_cursor(), after)


def _entry(reader: _JournalReader, fields: tuple[str, ...]) -> JournalEntry:
    pid = _field(reader, "_PID")
    return JournalEntry(
        cursor=reader._get_cursor(),
        at=reader._get_realtime() / 1e6,
        text=_field(reader, "MESSAGE").decode(errors="replace"),
        pid=int(pid) if pid.isdigit() else 0,
        fields={
            name: value.decode(errors="replace")
            for name in fields
            if (value := _field(reader, name))
        },
    )


def _close(readers: list[_JournalReader]) -> None:
    for reader in readers:
        reader.close()


def _field(reader: _JournalReader, name: str) -> bytes:
    try:
        return bytes(reader._get(name))
    except KeyError:
        return b""


async def _readable(descriptor: int) -> None:
    """Returns when the descriptor is readable; does not close it."""
    loop, is_readable = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, is_readable.set)
    try:
        await is_readable.wait()
    finally:
        loop.remove_reader(descriptor)
