"""Model folders -> what is in them: models with all that is known of them, and what is broken.

Files are data, never errors: whatever is wrong with one is reported beside the models and stops
nothing. All of it blocks and belongs in a thread; see `Scanner`.
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
"""A file that changed less than this before it was looked at may change again within the same
tick of the file system's clock (at most 10 ms) and look the same: it is not taken as unchanged."""


class Scanner:
    """Scans folders, again and again. Every method blocks, and may be called from any thread.

    What touches the folders happens in processes of their own, so that neither a folder that does
    not answer nor the parsing of headers holds up the rest of this process. The cache is read
    with the first call.
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
        """The models that a scan will have to read, by the first 16 KiB of each, in path order.

        Takes milliseconds where a scan takes seconds. Files in the cache are left out (their scan
        takes no time), and so is what turns out to be broken or a companion. Raises as `scan`.
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
        """Look at every file and read the new and the changed ones. Idempotent.

        `progress` is called in this thread with the files read so far and all to be read. Scans at
        the same time come one after another. Raises RescanFailed where no process can be made for
        it, and Conflict once it is stopped.
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
        """Whether files were still being downloaded when it scanned last. Does not block."""
        return bool(self._marks)

    def has_fewer_downloads(self) -> bool:
        """Whether one of these has ended since. Raises as `scan`."""
        with self._lock, _as_refusal():
            self._go_on()
            return bool(self._marks - self._listing().marks)

    @property
    def has_news(self) -> bool:
        """A folder that was late has answered since. Does not block."""
        return self._roots.has_news

    def stop(self) -> None:
        """End the scan under way, which raises Conflict. From any thread; does not block."""
        self._stopped = True
        self._roots.stop()

    def close(self) -> None:
        """Stop, and end all processes. Idempotent."""
        self.stop()
        with self._lock:
            self._end()

    def tidy(self) -> None:
        """End processes that are not needed at present; does nothing while a scan is under way."""
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
        """What is there; of folders that do not answer, what is known to have been there."""
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
    """A process that cannot be made is reported as a failed scan."""
    try:
        yield
    except OSError as error:
        raise RescanFailed(f"cannot read the model folders: {why_no_process(error)}") from error


def _lasts(file: File, reading: Reading, looked_at: int) -> bool:
    """Whether the same key will mean the same content. `looked_at` is in ns since the epoch."""
    if isinstance(reading, Unusable) and not reading.is_lasting:
        return False
    return file.key[4] < looked_at - _SETTLED_NS


def _report(assembled: Assembled, listing: Listing, late: Sequence[tuple[str, str]]) -> Scan:
    """`late` are also the roots that fell silent while their files were read."""
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
