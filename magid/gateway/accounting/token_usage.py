"""Counts requests and tokens by day, caller and model, for bills and limits.

Durable: a file for each day in `usage/` of the state directory, written at most FLUSH_S after a
request has ended; what is younger is lost if magid is killed. A file whose content cannot be used
is set aside, and counting goes on. Days begin at 00:00 UTC.
"""

import asyncio
import logging
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from magid.errors import InvalidInput, MagidError
from magid.files.atomic import cannot_write, discard, discard_leftovers, replace_file
from magid.gateway.accounting.request_log import Usage

log = logging.getLogger(__name__)

DAY_S = 86_400
FLUSH_S = 60.0
KEPT_DAYS = 400  # a year, and a month to look back on it
MAX_ROWS = 20_000  # of one day; what comes on top is counted for OTHER
MAX_SUMS = 5000  # in one answer: about 20 ms of the event loop
MAX_BYTES = 16 * 2**20  # of a file: MAX_ROWS take 4 MiB
OTHER = "other"  # what is not counted one by one
NAME = "usage"
UNUSABLE = ".unreadable"  # in the place of .json
_FILE = re.compile(r"\d{4}-\d{2}-\d{2}\.json")

Key = tuple[str, str]  # the token's name, "" for callers without one; the model's id


_Key = TypeVar("_Key")


class UsageCounts(Struct, rename="camel"):
    """Of requests that reached a server. Tokens are those that the servers have counted."""

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0  # of the prompt tokens, those that did not have to be read again
    answer_tokens: int = 0

    def add(self, more: "UsageCounts") -> None:
        self.requests += more.requests
        self.prompt_tokens += more.prompt_tokens
        self.cached_tokens += more.cached_tokens
        self.answer_tokens += more.answer_tokens


Day = dict[Key, UsageCounts]
_REST: Key = (OTHER, OTHER)
GROUPS = ("day", "token", "model")
SumKey = tuple[str, str, str]  # in the order of GROUPS; "" where the sum is over all


class _Row(UsageCounts, rename="camel", kw_only=True):
    token: str
    model: str


class _File(Struct):
    format: int
    rows: list[_Row]


def day_of(seconds: float) -> str:
    """Returns the UTC day of this time since the epoch, as 2026-11-29."""
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()


def last_days(count: int, today: str) -> list[str]:
    """Returns so many days, oldest first; the last one is `today`."""
    end = date.fromisoformat(today)
    return [(end - timedelta(days=back)).isoformat() for back in range(count - 1, -1, -1)]


class Sums:
    """Sums up days by some of GROUPS. Raises InvalidInput at more than MAX_SUMS of them."""

    def __init__(self, by: Collection[str]) -> None:
        self._by = by
        self.counts: dict[SumKey, UsageCounts] = {}
        self.problems: list[str] = []  # files that cannot be read

    def add(self, day: str, counts: Day) -> None:
        by = self._by
        shown_day = day if "day" in by else ""
        for (token, model), figures in counts.items():
            key = (shown_day, token if "token" in by else "", model if "model" in by else "")
            found = self.counts.get(key)
            if found is None:
                if len(self.counts) >= MAX_SUMS:
                    raise InvalidInput(
                        f"cannot list more than {MAX_SUMS} sums: ask for fewer days, or sum by "
                        "less (by=token, by=model)",
                        field="by",
                    )
                found = self.counts[key] = UsageCounts()
            found.add(figures)


def merge(counts: Day, more: Mapping[Key, UsageCounts]) -> None:
    """Adds `more` to `counts`, which stays bounded."""
    for key, figures in more.items():
        _row_of(counts, key, _REST).add(figures)


def _row_of(rows: dict[_Key, UsageCounts], key: _Key, rest: _Key) -> UsageCounts:
    """Returns the row of this key, or that of `rest` if there is no room for another row."""
    row = rows.get(key)
    if row is None:
        if len(rows) - (rest in rows) >= MAX_ROWS:
            key = rest
        row = rows.setdefault(key, UsageCounts())
    return row


class UsageStore:
    """The one owner of the usage files. Lives on the event loop; what blocks runs in a thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = asyncio.Lock()
        self._new: dict[str, Day] = {}  # by day: not in the files yet
        self.by_token: dict[str, UsageCounts] = {}  # since magid has started; bounded like a day
        self._today, self._begins, self._ends = "", 0.0, 0.0
        self._used_today: dict[str, int] = {}  # tokens by caller; bounded likewise

    def count(self, at: float, token: str, model: str, usage: Usage | None) -> None:
        """Counts a request that came at this time and has ended. Does not block."""
        self._follow_day()
        # Nearly all are of today, and to work out a day takes a microsecond.
        day = self._today if self._begins <= at < self._ends else day_of(at)
        new = self._new.setdefault(day, {})
        rows = _row_of(new, (token, model), _REST), _row_of(self.by_token, token, OTHER)
        prompt = answer = cached = 0
        if usage is not None:
            prompt, answer = usage.prompt_tokens or 0, usage.answer_tokens or 0
            cached = usage.cached_tokens or 0
        for row in rows:
            row.requests += 1
            row.prompt_tokens += prompt
            row.cached_tokens += cached
            row.answer_tokens += answer
        self._use(token, prompt + answer)

    def used_today(self, token: str) -> int:
        """Returns the prompt and answer tokens of this caller since 00:00 UTC."""
        self._follow_day()
        return self._used_today.get(token, 0)

    def _follow_day(self) -> None:
        """Begins a new count where another day has begun."""
        now = time.time()
        if not self._begins <= now < self._ends:
            self._today, self._used_today = day_of(now), {}
            self._begins = now - now % DAY_S
            self._ends = self._begins + DAY_S

    async def load_today(self) -> None:
        """Adds what was counted today before magid has started. Called once."""
        self._follow_day()
        path = self._folder / f"{self._today}.json"
        try:
            async with self._lock:
                found = await asyncio.to_thread(read_file, path)
        except (OSError, ValueError) as error:
            log.warning("cannot read %s: %s; tokens a day are counted from now on", path, error)
            return
        for (token, _model), counts in found.items():
            self._use(token, counts.prompt_tokens + counts.answer_tokens)

    def _use(self, token: str, count: int) -> None:
        self._used_today[token] = self._used_today.get(token, 0) + count

    async def flush(self) -> None:
        """Writes what is new. Raises CannotWrite; nothing is lost then. Idempotent."""
        await asyncio.shield(asyncio.ensure_future(self._flush()))

    async def close(self) -> None:
        """Flushes for the last time; what fails is logged."""
        try:
            await self.flush()
        except MagidError as error:
            log.error("%s; the usage of the last minute is lost", error)

    async def _flush(self) -> None:
        async with self._lock:
            for day, new in list(self._new.items()):
                del self._new[day]
                try:
                    await asyncio.to_thread(add_to_file, self._folder / f"{day}.json", new)
                except BaseException:
                    merge(new, self._new.get(day, {}))
                    self._new[day] = new
                    raise

    async def flush_periodically(self, settle: Callable[[], None]) -> None:
        """Flushes every FLUSH_S, after `settle`; once a day removes files older than KEPT_DAYS."""
        await self.load_today()
        cleaned, failed = "", False
        while True:
            await asyncio.sleep(FLUSH_S)
            settle()
            try:
                await self.flush()
                failed = False
            except MagidError as error:
                if not failed:
                    log.warning("%s; the usage of tokens is kept in memory meanwhile", error)
                failed = True
            today = day_of(time.time())
            if cleaned != today:
                cleaned = today
                await asyncio.to_thread(remove_before, self._folder, last_days(KEPT_DAYS, today)[0])

    async def read(self, days: Sequence[str], by: Collection[str]) -> Sums:
        """Returns the sums of these days, the last minute included. Raises InvalidInput."""
        async with self._lock:
            sums = await asyncio.to_thread(_sums_of, self._folder, days, by)
            for day in days:
                sums.add(day, self._new.get(day, {}))
        return sums


# -- the files: everything here blocks ---------------------------------------------------------


def add_to_file(path: Path, new: Mapping[Key, UsageCounts]) -> None:
    """Adds to the file of a day; durable on return. Sets aside a file that cannot be used.

    Raises CannotWrite, also where the file cannot be read now; then it stays as it was. Only if the
    disk fails behind the rename, `new` may be counted twice.
    """
    try:
        counts = read_file(path)
    except ValueError as error:
        log.warning("cannot use %s: %s; it is set aside as %s", path, error, UNUSABLE)
        counts = {}
        with suppress(OSError):
            path.rename(path.with_suffix(UNUSABLE))
    except OSError as error:
        raise cannot_write(path, error) from None
    merge(counts, new)
    rows = [
        _Row(
            token=token, model=model, requests=c.requests, prompt_tokens=c.prompt_tokens,
            cached_tokens=c.cached_tokens, answer_tokens=c.answer_tokens,
        )
        for (token, model), c in sorted(counts.items())
    ]  # fmt: skip
    content = msgspec.json.format(msgspec.json.encode(_File(1, rows)), indent=1) + b"\n"
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        replace_file(path, content, mode=0o600)
    except OSError as error:
        raise cannot_write(path, error) from None


def read_file(path: Path) -> Day:
    """Returns a day's counts; none where there is no file.

    Raises OSError, and ValueError for content that cannot be used.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return {}
    if len(content) > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES} bytes")
    try:
        found = msgspec.json.decode(content, type=_File)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if found.format != 1:
        raise ValueError(f"its format is {found.format}, and this magid knows format 1")
    day: Day = {}
    for row in found.rows:
        merge(day, {(row.token, row.model): row})
    return day


def _sums_of(folder: Path, days: Iterable[str], by: Collection[str]) -> Sums:
    """One day after the other, so that a year takes no more memory than a day."""
    sums = Sums(by)
    for day in days:
        path = folder / f"{day}.json"
        try:
            sums.add(day, read_file(path))
        except (OSError, ValueError) as error:
            sums.problems.append(f"cannot read {path}: {error}; its counts are left out")
    return sums


def remove_before(folder: Path, first: str) -> None:
    """Removes the files of days before `first`, and what killed writes have left. Never fails."""
    discard_leftovers(folder, ".json")
    with suppress(OSError):
        for path in list(folder.iterdir()):
            if _FILE.fullmatch(path.name) and path.stem < first:
                discard(path)
