"""Accesses the model folders, each through its own workers: one that hangs delays no other.

A root that is silent for `late_s` is late. Its worker is abandoned, and answers as soon as the
mount does. From time to time another worker is started, because a mount can be replaced by one
that answers while the first worker hangs forever. `header_workers` is the other end.
"""

import errno
import logging
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Any, Final

from magid.discovery.header_cache import Reading, Unusable, unpacked
from magid.discovery.header_workers import as_file
from magid.discovery.walker import NO_ANSWER, File, Listing, RootListing, is_below, join, printable
from magid.host.workers import LATE_S, Silent, Worker, WorkerEnded

log = logging.getLogger(__name__)

_AGAIN_S: Final = 30.0  # between two workers for a root that is late
_MOST_STUCK: Final = 3  # workers of one root
_IDLE_S: Final = 30.0  # after which a worker is ended: scans often follow each other

_MANY: Final = 16
"""For at least this many files further processes are worth the 60 ms of their start."""

_TRIES: Final = 2  # for a walk whose process ends: an upgrade may replace its files as it starts
_PROCESSES: Final = 2  # more gain nothing on one disk, and take cores from the event loop


class Root:
    """One folder. Its methods block and are not thread-safe, except for `has_news`."""

    def __init__(self, configured: str, late_s: float, is_cancelled: Callable[[], bool]) -> None:
        self.configured = configured
        self.top = configured  # links resolved, as last known
        self.late_reason = ""  # "" while it answers
        self._late_s = late_s
        self._is_cancelled = is_cancelled
        self._worker: Worker | None = None
        self._used_at = 0.0
        self._stuck: list[Worker] = []
        self._hung: dict[str, Worker] = {}  # by the link that it follows

    @property
    def has_news(self) -> bool:
        """Whether the folder was late and has answered since."""
        return bool(self.late_reason) and any(one.has_news for one in tuple(self._stuck))

    # -- requests ------------------------------------------------------------------------

    def walk(self, others: Sequence[str]) -> RootListing:
        """Lists the folder without following links. Raises OSError if no process can start."""
        if self.late_reason and not self._may_answer(others):
            return self._late_listing()
        for _ in range(_TRIES):
            try:
                answer = self._ask([["walk", self.configured, others]]).receive(
                    self._late_s, self._is_cancelled
                )
                break
            except Silent:
                return self._late_listing()
            except WorkerEnded:
                self.close()
        else:
            return RootListing(self.top, reason="cannot be read: its reader ended")
        self.top, files, links, marks, main, broken, reason, is_absent, empty = answer
        found = [as_file(file) for file in files]
        revisions = [(folder, commit) for folder, commit in main]
        unusable = [(path, why) for path, why in broken]
        return RootListing(
            self.top, found, links, marks, revisions, unusable, reason, is_absent, empty=empty
        )

    def follow(
        self, links: Sequence[str], within: Sequence[str], late: Sequence[str]
    ) -> Generator[File | tuple[str, str], None, None]:
        """Yields the target of each link, in order. Skips links that are known to hang."""
        for link in [link for link, one in self._hung.items() if one.has_news]:
            self._hung.pop(link).end()
        left = [link for link in links if link not in self._hung]
        yield from ((link, NO_ANSWER) for link in links if link in self._hung)
        while left and len(self._hung) < _MOST_STUCK:
            worker = self._ask([["follow", link, within, late] for link in left])
            try:
                while left:
                    answer = worker.receive(self._late_s, self._is_cancelled)
                    yield as_file(answer) if len(answer) > 2 else (answer[0], answer[1])
                    del left[0]
            except Silent:
                self._worker, self._hung[left[0]] = None, worker
                yield left.pop(0), NO_ANSWER
            except WorkerEnded:
                self._drop(worker)
                break
        yield from ((link, NO_ANSWER) for link in left)

    def read(self, paths: Sequence[str]) -> Generator[Reading, None, None]:
        """Yields the reading of each path, in order; without an answer it is not lasting."""
        for answer in self._answers([["read", path] for path in paths]):
            if answer is None:
                reason = self.late_reason or "cannot be read: its reader ended"
                yield Unusable(reason, is_lasting=False)
                continue
            is_lasting, content = answer
            reading = unpacked(content)
            yield Unusable(reading.reason, is_lasting) if isinstance(reading, Unusable) else reading

    def begin(self, paths: Sequence[str]) -> Generator[Any, None, None]:
        """Yields the first pairs of each file, or nothing."""
        yield from self._answers([["begin", path] for path in paths])

    def _answers(self, requests: Sequence[Any]) -> Generator[Any, None, None]:
        """Yields each answer, in order; None once the root is late or the worker ended."""
        done = 0
        if requests and not self.late_reason:
            workers = self._workers_for(requests)
            try:
                while done < len(requests):
                    answer = workers[done % len(workers)].receive(self._late_s, self._is_cancelled)
                    done += 1
                    yield answer
            except Silent:
                self._abandon(*workers)
            except WorkerEnded:
                pass
            finally:
                # A worker that still owes answers cannot be reused.
                has_more = done < len(requests)
                self._drop(*(one for one in workers if has_more or one is not self._worker))
        yield from (None for _ in range(len(requests) - done))

    def _workers_for(self, requests: Sequence[Any]) -> list[Worker]:
        if len(requests) < _MANY:
            return [self._ask(requests)]
        workers: list[Worker] = []
        try:
            for first in range(_PROCESSES):
                workers.append(Worker("magid.discovery.header_workers"))
                workers[-1].submit([["be nice"], *requests[first::_PROCESSES]])
                workers[-1].flush()
        except OSError:
            self._drop(*workers)
            raise
        return workers

    def _ask(self, requests: Sequence[Any]) -> Worker:
        if self._worker is not None and self._worker.has_news:  # it was idle, so it has ended
            self._drop(self._worker)
        if self._worker is None:
            self._worker = Worker("magid.discovery.header_workers")
        self._used_at = monotonic()
        self._worker.submit(requests)
        return self._worker

    # -- a root that is late -------------------------------------------------------------

    def _late_listing(self) -> RootListing:
        if self._worker is not None:
            self._abandon(self._worker)
        return RootListing(
            self.top, reason=self.late_reason or "is not read: magid is stopping", is_late=True
        )

    def _abandon(self, *workers: Worker) -> None:
        """Marks the folder as late; keeps its workers, to notice when the folder answers."""
        for worker in workers:
            if worker is self._worker:
                self._worker = None
            self._stuck.append(worker)
        if self._is_cancelled():
            return
        if not self.late_reason:
            log.warning("the model folder %s does not answer", printable(self.top))
        self.late_reason = f"has not answered for {self._late_s:g} s; magid keeps trying"

    def _may_answer(self, others: Sequence[str]) -> bool:
        """Whether the folder may answer again. Starts another worker if the last is old."""
        if not self._stuck or self.has_news:
            self._end_stuck()
            self.late_reason = ""
            return True
        if monotonic() - self._stuck[-1].made_at > _AGAIN_S and len(self._stuck) < _MOST_STUCK:
            another = Worker("magid.discovery.header_workers")
            another.submit([["walk", self.configured, others]])
            another.flush()
            self._stuck.append(another)
        return False

    def _end_stuck(self) -> None:
        for worker in self._stuck:
            worker.end(is_stuck=True)
        self._stuck = []

    # -- ends ------------------------------------------------------------------------------

    def _drop(self, *workers: Worker) -> None:
        for worker in workers:
            if worker is self._worker:
                self._worker = None
            if worker not in self._stuck:
                worker.end()

    def tidy(self) -> None:
        if self._worker is not None and monotonic() - self._used_at > _IDLE_S:
            self._drop(self._worker)

    def close(self) -> None:
        """Ends all workers; one that hangs ends when its mount answers. Idempotent."""
        self._end_stuck()
        for worker in self._hung.values():
            worker.end(is_stuck=True)
        self._hung = {}
        if self._worker is not None:
            self._drop(self._worker)


class Roots:
    """All model folders. Methods block, at most a few times `late_s` if a folder is silent.

    Not thread-safe, except for `has_news` and `stop`.
    """

    def __init__(self, folders: Sequence[Path], late_s: float = LATE_S) -> None:
        self._stopped = False
        configured = dict.fromkeys(str(folder) for folder in folders)
        self._roots = [Root(one, late_s, lambda: self._stopped) for one in configured]

    @property
    def has_news(self) -> bool:
        """Whether a folder that was late has answered."""
        return any(root.has_news for root in self._roots)

    @property
    def tops(self) -> dict[str, str]:
        """Folders as configured -> with links resolved, as last known."""
        return {root.configured: root.top for root in self._roots}

    def remember(self, tops: Mapping[str, str]) -> None:
        for root in self._roots:
            root.top = tops.get(root.configured, root.top)

    def listing(self) -> Listing:
        """Walks all folders in parallel. Raises OSError if no process can start."""
        if not self._roots:
            return Listing()
        with ThreadPoolExecutor(len(self._roots), "magid-roots") as threads:
            listings = list(threads.map(self._walk, self._roots))
        late = [listing.top for listing in listings if listing.is_late]
        within = [listing.top for listing in listings]
        linked: list[File | tuple[str, str]] = []
        for root, listing in zip(self._roots, listings, strict=True):
            linked += root.follow(sorted(listing.links), within, late)
        return join(listings, linked)

    def _walk(self, root: Root) -> RootListing:
        others = {one for other in self._roots for one in (other.configured, other.top)}
        return root.walk(sorted(others - {root.configured, root.top}))

    def read(self, files: Sequence[File]) -> Generator[tuple[File, Reading], None, None]:
        """Yields the reading of each file, root by root. Closing the iterator ends its workers."""
        for root, below in self._sorted(files):
            yield from zip(below, root.read([file.real for file in below]), strict=True)

    def begin(self, files: Sequence[File]) -> Generator[tuple[File, Any], None, None]:
        """Yields the first pairs of each file; see `Root.begin`."""
        for root, below in self._sorted(files):
            yield from zip(below, root.begin([file.real for file in below]), strict=True)

    def _sorted(self, files: Sequence[File]) -> list[tuple[Root, list[File]]]:
        """Groups files by the root that contains their content: the innermost of nested ones."""
        sorted_in: dict[Root, list[File]] = {}
        inner_first = sorted(self._roots, key=lambda root: -len(root.top))
        for file in files:
            home = next(root for root in inner_first if is_below(file.real, [root.top]))
            sorted_in.setdefault(home, []).append(file)
        return list(sorted_in.items())

    @property
    def late(self) -> tuple[tuple[str, str], ...]:
        """Top and reason of each folder that does not answer."""
        return tuple((root.top, root.late_reason) for root in self._roots if root.late_reason)

    def stop(self) -> None:
        """Cancels all waits, current and future. Thread-safe."""
        self._stopped = True

    def tidy(self) -> None:
        """Ends workers that have been idle for a while."""
        for root in self._roots:
            root.tidy()

    def close(self) -> None:
        """Stops, and ends all workers; one that hangs ends when its mount answers. Idempotent."""
        self._stopped = True
        for root in self._roots:
            root.close()


def why_no_process(error: OSError) -> str:
    """Returns why a worker could not be started, and which limit to raise."""
    why = {
        errno.EAGAIN: "the limit of tasks is used up (TasksMax=, ulimit -u)",
        errno.EMFILE: "the limit of open files is used up (LimitNOFILE=, ulimit -n)",
    }.get(error.errno or 0, error.strerror or str(error))
    failed = os.strerror(error.errno or 0)
    return f"cannot start a process of magid.discovery.header_workers: {failed}: {why}"
