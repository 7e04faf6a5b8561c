"""Scans the model folders for models and broken files.

A bad file never raises an error: it is reported in `Scan.broken`, and the scan goes on. A scan goes
through `roots` (list and read, in worker processes), `header_cache` (skip unchanged files) and
`assembly` (make models of files). Everything blocks, so run it in a thread.
"""

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from time import perf_counter, time_ns
from typing import Any, Final

from msgspec.structs import replace

from magid.discovery import grouping
from magid.discovery.assembly import Assembled, assemble, path_to_open
from magid.discovery.downloads import why_unfinished
from magid.discovery.found import BrokenFile, PendingFile, Scan
from magid.discovery.header_cache import Entries, HeaderCache, Reading, Unusable
from magid.discovery.kinds import companion_kind
from magid.discovery.naming import number, text
from magid.discovery.roots import Roots, why_no_process
from magid.discovery.tiers import Thresholds
from magid.discovery.walker import File, Listing, UnreadableRoot, printable, with_known
from magid.errors import Conflict, RescanFailed
from magid.host.workers import LATE_S

_SETTLED_NS: Final = 20_000_000
"""A file that changed this shortly before the scan may change again within the same tick of the
file system's clock (at most 10 ms), with the same times: the next scan reads it again."""


class Scanner:
    """Scans the model folders repeatedly. Methods block and are thread-safe.

    Worker processes access the folders, so neither a folder that does not answer nor the parsing
    of headers delays this process. The first call reads the cache.
    """

    def __init__(
        self,
        roots: Sequence[Path],
        thresholds: Thresholds,
        cache_path: Path | None,
        *,
        late_s: float = LATE_S,
    ) -> None:
        self._thresholds = thresholds
        self._cache_path = cache_path
        self._lock = threading.Lock()
        self._cache: HeaderCache | None = None
        self._last: Assembled | None = None
        self._marks: frozenset[str] = frozenset()
        self._stopped = False
        self._roots = Roots(roots, late_s)
        self._end = weakref.finalize(self, self._roots.close)

    def first_listing(self) -> tuple[PendingFile, ...]:
        """Lists the models that a scan will have to read, in path order, by their first 16 KiB.

        Takes milliseconds where a scan takes seconds. Leaves out files in the cache, which a scan
        does not read, broken files and companions. Raises as `scan` does.
        """
        with self._lock, _as_refusal():
            self._go_on()
            cache = self._opened_cache()
            listing = self._listing()
            files = [
                file
                for file in listing.files
                if file.path not in listing.unfinished and not cache.get(file)
            ]
            parts = [one for one in grouping.join(files) if one.numbers[0] == 1]
            firsts = {one.files[0].path: one for one in parts}
            with closing(self._roots.begin([one.files[0] for one in parts])) as beginnings:
                listed = [_pending(firsts[file.path], found) for file, found in beginnings if found]
        return tuple(sorted(filter(None, listed), key=lambda pending: pending.path))

    def scan(self, progress: Callable[[int, int], None] | None = None) -> Scan:
        """Lists all files and reads those that are new or have changed. Idempotent.

        Calls `progress` in this thread with the number of files read so far and in total.
        Concurrent calls run one after another. Raises RescanFailed if no process can start, and
        Conflict once it is stopped.
        """
        with self._lock, _as_refusal():
            self._go_on()
            start = perf_counter()
            before = time_ns()
            listing = self._listing()
            last = self._last
            if last is None or not self._is_as_before(last, listing):
                last = self._last = self._read(listing, before, progress)
            self._marks = listing.marks
            self._go_on()
            scan = _report(last, listing, self._roots.late)
            return replace(scan, duration_s=perf_counter() - start)

    def _is_as_before(self, last: Assembled, listing: Listing) -> bool:
        is_same = last.is_lasting and last.files == listing.files
        return is_same and self._marks == listing.marks

    @property
    def has_downloads(self) -> bool:
        """Whether the last scan found files that were still being downloaded. Does not block."""
        return bool(self._marks)

    def has_fewer_downloads(self) -> bool:
        """Whether one of these downloads has ended since. Raises as `scan` does."""
        with self._lock, _as_refusal():
            self._go_on()
            return bool(self._marks - self._listing().marks)

    @property
    def has_news(self) -> bool:
        """Whether a folder that was late has answered since. Does not block."""
        return self._roots.has_news

    def stop(self) -> None:
        """Cancels the current scan, which raises Conflict. Does not block."""
        self._stopped = True
        self._roots.stop()

    def close(self) -> None:
        """Stops, and ends all workers. Idempotent."""
        self.stop()
        with self._lock:
            self._end()

    def tidy(self) -> None:
        """Ends idle workers. Does nothing during a scan."""
        if self._lock.acquire(blocking=False):
            try:
                self._roots.tidy()
            finally:
                self._lock.release()

    def _go_on(self) -> None:
        if self._stopped:
            raise Conflict("cannot finish the scan: magid is shutting down; try again in a moment")

    def _opened_cache(self) -> HeaderCache:
        if self._cache is None:
            self._cache = HeaderCache(self._cache_path)
            self._roots.remember(self._cache.tops)
        return self._cache

    def _listing(self) -> Listing:
        """Lists all folders; for those that do not answer, the files that were known before."""
        known = self._opened_cache().files if self._last is None else self._last.files
        listing = self._roots.listing()
        self._go_on()
        return with_known(listing, known)

    def _read(
        self, listing: Listing, looked_at: int, progress: Callable[[int, int], None] | None
    ) -> Assembled:
        cache = self._opened_cache()
        readings: dict[str, Reading] = {}
        lasting: Entries = {}
        unread: list[File] = []
        for file in listing.files:
            if mark := listing.unfinished.get(file.path):
                readings[file.path] = Unusable(why_unfinished(mark), is_lasting=False)
            elif cached := cache.get(file):
                readings[file.path] = cached
                lasting[file.path] = (file, cached)
            else:
                unread.append(file)
        with closing(self._roots.read(unread)) as fresh:
            for done, (file, reading) in enumerate(fresh, start=1):
                self._go_on()
                readings[file.path] = reading
                if _lasts(file, reading, looked_at):
                    lasting[file.path] = (file, reading)
                if progress is not None:
                    progress(done, len(unread))
        gone = tuple(f"{root.path.rstrip('/')}/" for root in listing.unreadable_roots)
        cache.replace(cache.below(gone) | lasting, self._roots.tops)
        assembled = assemble(listing.files, readings, self._thresholds)
        return replace(assembled, is_lasting=len(lasting) == len(listing.files))


@contextmanager
def _as_refusal() -> Iterator[None]:
    """Translates the OSError of a worker that cannot start into RescanFailed."""
    try:
        yield
    except OSError as error:
        raise RescanFailed(f"cannot read the model folders: {why_no_process(error)}") from error


def _lasts(file: File, reading: Reading, looked_at: int) -> bool:
    """Whether an unchanged key will mean unchanged content. `looked_at`: ns since the epoch."""
    if isinstance(reading, Unusable) and not reading.is_lasting:
        return False
    return file.key[4] < looked_at - _SETTLED_NS


def _report(assembled: Assembled, listing: Listing, late: Sequence[tuple[str, str]]) -> Scan:
    """Makes the result of a scan. `late` includes roots that fell silent while being read."""
    walked = tuple(BrokenFile(path, reason) for path, reason in listing.broken)
    silent = [UnreadableRoot(printable(top), why, is_late=True) for top, why in late]
    mute = (BrokenFile(root.path, root.reason) for root in silent)
    broken = sorted((*assembled.broken, *walked, *mute), key=lambda file: file.path)
    unreadable = [root for root in listing.unreadable_roots if not root.is_late]
    return Scan(
        models=assembled.models,
        broken=tuple(broken),
        companions=assembled.companions,
        unreadable_roots=tuple({root.path: root for root in (*silent, *unreadable)}.values()),
        empty_folders=listing.empty,
    )


def _pending(parts: grouping.Parts, beginning: Any) -> PendingFile | None:
    first = parts.files[0]
    metadata, name = beginning
    if companion_kind(first.name, metadata):
        return None
    architecture = text(metadata, "general.architecture")
    return PendingFile(
        path=path_to_open(parts),
        filename=first.name,
        size_bytes=sum(file.key[2] for file in parts.files),
        architecture=architecture,
        name=name,
        context_length=number(metadata, f"{architecture}.context_length") or None,
    )
