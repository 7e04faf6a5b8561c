"""Scans the model folders: at start, on request, and again after a failure.

A failed scan and a folder that does not answer are reported for as long as the problem lasts, and
retried. `Scans` keeps the counts. Runs on the event loop; the scanner runs in threads.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from magid.catalog import registry
from magid.config.settings import Config
from magid.control import transitions
from magid.control.snapshot import Snapshot
from magid.control.state import Change, StateStore
from magid.control.transitions import Rescan, Transition
from magid.discovery.found import Scan
from magid.discovery.scanner import Scanner
from magid.errors import CannotWrite, MagidError, RescanFailed
from magid.host.mounts import MountWatch
from magid.log.events import Event, about
from magid.wording.counts import counted

log = logging.getLogger(__name__)


_FIRST_PAUSE_S: Final = 5.0  # before a failed scan is retried
_LONGEST_PAUSE_S: Final = 60.0
_LOOK_S: Final = 0.5  # between checks whether a folder has answered
_TIDY_S: Final = 60.0
_DOWNLOADS_S: Final = 5.0  # between checks whether a download has ended


class Scanning:
    """Runs one scan at a time and stores the result in the StateStore."""

    def __init__(self, config: Config, scanner: Scanner, store: StateStore) -> None:
        self.scans = Scans()
        self.problem = ""  # why the folders' content is still unknown
        self._known = False  # one scan has succeeded
        self._failed = ""  # error of the last scan
        self._config = config
        self._scanner = scanner
        self._store = store
        self._lock = asyncio.Lock()
        self._first_over = asyncio.Event()
        self._first: Rescan | None = None  # result of the first scan, if it has succeeded
        self._ended = asyncio.Event()
        self._is_remounted = False  # a disk has come or gone since the last scan began
        self._mounts = MountWatch(self._folders, self._note_mounts)

    async def first(self) -> None:
        """Does a quick listing, then a scan. Errors are logged, reported and retried."""
        try:
            self._mounts.open()
            await self._list_and_scan()
        finally:
            self._first_over.set()

    async def _list_and_scan(self) -> None:
        try:
            pending = await asyncio.to_thread(self._scanner.first_listing)
        except Exception as error:  # any: it would go unnoticed otherwise
            self._note_failure(error)
            return
        if pending:
            disk = self._store.snapshot.disk
            self._store.note_disk(replace(disk, pending=pending, listed=True))
        with suppress(Exception):  # recorded by `_scan`
            self._first = await self._scan()

    def close(self) -> None:
        """Stops watching mounts. Idempotent."""
        self._mounts.close()

    async def rescan(self) -> Rescan:
        """Reads the model folders again. Running servers are untouched.

        During the first scan it waits for that one, and counts what that one has found too.
        Raises RescanFailed if no folder could be read, CannotWrite if the result cannot be saved.
        The result takes effect even then: a full disk must not keep models from starting.
        """
        is_early = not self._first_over.is_set()
        await self._first_over.wait()
        result = await self._scan()
        return transitions.joined(self._first, result) if is_early and self._first else result

    async def _scan(self) -> Rescan:
        async with self._lock:
            self._is_remounted = False
            try:
                scan = await asyncio.to_thread(self._scanner.scan)
                self._need_something(scan)
                result = await self._take_in(scan)
            except CannotWrite:
                self._note_success(None)
                raise
            except Exception as error:  # any: it is reported and retried
                self._note_failure(error)
                raise
            finally:
                self._ended.set()
        self._note_success(result.duration_s)
        log.info(
            "scan: %s, %d added, %d removed, %s, %.0f ms",
            counted(result.found, "model"), len(result.added), len(result.removed),
            counted(len(result.broken), "broken file"), result.duration_s * 1000,
            extra=about(Event.SCANNED),
        )  # fmt: skip
        return result

    def _note_success(self, took_s: float | None) -> None:
        self.problem, self._failed, self._known = "", "", True
        self.scans.note(took_s)

    def _note_failure(self, error: Exception) -> None:
        code = error.code if isinstance(error, MagidError) else type(error).__name__
        why = f"cannot scan, because of an internal error: {error!r}"
        if isinstance(error, MagidError):
            why = error.message
        self.scans.note(None)
        if not self._known:
            self.problem = f"{why} (tried again by itself)"
        if why != self._failed:
            trace = None if isinstance(error, MagidError) else error
            log.error("%s", why, extra=about(Event.SCAN_FAILED, error=code), exc_info=trace)
        self._failed = why
        self._store.notify(Change("phase"))

    def _need_something(self, scan: Scan) -> None:
        """Raises RescanFailed if no folder could be read."""
        if scan.models or len(scan.unreadable_roots) < len(self._config.model_paths):
            return
        disk = replace(self._store.snapshot.disk, unreadable_roots=scan.unreadable_roots)
        self._store.note_disk(disk)
        first = scan.unreadable_roots[0]
        raise RescanFailed(
            f"cannot read any model folder: {first.path}: {first.reason}; create it, or "
            "set model_paths in magid.yaml (MODEL_SCAN_PATH)"
        )

    async def _take_in(self, scan: Scan) -> Rescan:
        results: list[Rescan] = []

        def take(now: Snapshot) -> Transition:
            keep = timedelta(days=self._config.removed_model_days)
            after, result = transitions.scanned(now, scan, registry.utc_now(), keep)
            results.append(result)
            return after

        await self._store.change(take)
        return results[-1]

    # -- what is in the way ----------------------------------------------------------------

    @property
    def late(self) -> tuple[str, ...]:
        """The folders that do not answer."""
        roots = self._store.snapshot.disk.unreadable_roots
        return tuple(root.path for root in roots if root.is_late)

    async def keep_looking(self, taken_in: Callable[[], Awaitable[None]]) -> None:
        """Retries failed scans and unresponsive folders; takes up what has been downloaded.

        Never returns.

        Awaits `taken_in` after each scan. A disk that is mounted or unmounted near the model
        folders causes one.
        """
        pause_s = _FIRST_PAUSE_S
        while True:
            if not (self._failed or self.late):
                pause_s = _FIRST_PAUSE_S
                has_downloads = self._scanner.has_downloads
                limit_s = _DOWNLOADS_S if has_downloads else _TIDY_S
                if await self._until(lambda: self._is_remounted, limit_s):
                    await taken_in()
                elif self._is_remounted:
                    log.info("a disk was mounted or unmounted: the model folders are read again")
                    with suppress(Exception):  # recorded by `_scan`
                        await self.rescan()
                elif has_downloads:
                    await self._take_up_downloads()
                else:
                    await asyncio.to_thread(self._scanner.tidy)
            elif await self._until(lambda: self._scanner.has_news or self._is_remounted, pause_s):
                await taken_in()
            else:
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                with suppress(Exception):  # recorded by `_scan`
                    await self.rescan()

    async def _take_up_downloads(self) -> None:
        """Scans if a download has ended since the last scan."""
        with suppress(Exception):  # recorded by `_scan`
            if await asyncio.to_thread(self._scanner.has_fewer_downloads):
                await self.rescan()

    def _folders(self) -> set[str]:
        """Returns the model folders, and those of known models: a folder may be a link."""
        entries = self._store.snapshot.registry.models.values()
        known = {entry.path.rpartition("/")[0] for entry in entries}
        return known | {str(path) for path in self._config.model_paths}

    def _note_mounts(self) -> None:
        self._is_remounted = True

    async def _until(self, is_due: Callable[[], bool], limit_s: float) -> bool:
        """Waits for the end of a scan, for `is_due`, or for `limit_s` seconds.

        Returns whether a scan has ended.
        """
        deadline = asyncio.get_running_loop().time() + limit_s
        while not self._ended.is_set():
            left_s = deadline - asyncio.get_running_loop().time()
            if left_s <= 0 or is_due():
                return False
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left_s, _LOOK_S)):
                    await self._ended.wait()
        self._ended.clear()
        return True


class Scans(Struct):
    """Counts of scans, and figures of the last one."""

    done: int = 0
    failed: int = 0
    last_failed: bool = False
    last_at: float | None = None  # end of the last successful scan; seconds since the epoch
    last_duration_s: float = 0.0

    def note(self, took_s: float | None) -> None:
        """Records a scan that has just ended. `took_s` is its duration; None: it failed."""
        self.last_failed = took_s is None
        if took_s is None:
            self.failed += 1
        else:
            self.done += 1
            self.last_at, self.last_duration_s = time.time(), took_s
