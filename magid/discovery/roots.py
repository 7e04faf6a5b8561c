"""The model folders, each behind a worker of its own, so that one that hangs delays no other.

A root that says nothing for `late_s` is late. Its worker is left behind and stays the watch on it:
it goes on as soon as the mount answers. Now and then another one tries as well, because a mount
can be replaced by one that answers while the first worker never comes back.
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
from magid.discovery.walker import NO_ANSWER, File, Listing, Look, is_below, join, printable
from magid.host.workers import LATE_S, Silent, Worker, WorkerEnded

log = logging.getLogger(__name__)

_AGAIN_S: Final = 30.0  # between two workers for a root that is late
_MOST_STUCK: Final = 3  # workers of one root
_IDLE_S: Final = 30.0  # for which a worker is kept: scans often come in a row

_MANY: Final = 16
"""From this many files on further processes are worth their 60 ms to start."""

_TRIES: Final = 2  # of a walk whose process ends: an upgrade may exchange its files as it starts
_PROCESSES: Final = 2  # more gain nothing on one disk, and cost an event loop its core


class Root:
    """One folder. Its methods block and belong to one thread at a time, but for `has_news`."""

    def __init__(self, configured: str, late_s: float, is_over: Callable[[], bool]) -> None:
        self.configured = configured
        self.top = configured  # links resolved, as last known
        self.late_reason = ""  # "" while it answers
        self._late_s = late_s
        self._is_over = is_over
        self._worker: Worker | None = None
        self._used_at = 0.0
        self._stuck: list[Worker] = []
        self._hung: dict[str, Worker] = {}  # by the link that it follows

    @property
    def has_news(self) -> bool:
        """It was late, and has answered since."""
        return bool(self.late_reason) and any(one.has_news for one in tuple(self._stuck))

    # -- asking --------------------------------------------------------------------------

    def look(self, others: Sequence[str]) -> Look:
        """What is below it, links not followed. Raises OSError where no process can be made."""
        if self.late_reason and not self._may_answer(others):
            return self._late_look()
        for _ in range(_TRIES):
            try:
                answer = self._ask([["walk", self.configured, others]]).hear(
                    self._late_s, self._is_over
                )
                break
            except Silent:
                return self._late_look()
            except WorkerEnded:
                self.close()
        else:
            return Look(self.top, reason="cannot be read: its reader ended")
        self.top, files, links, marks, main, broken, reason, is_absent, empty = answer
        found = [as_file(file) for file in files]
        revisions = [(folder, commit) for folder, commit in main]
        told = [(path, why) for path, why in broken]
        return Look(self.top, found, links, marks, revisions, told, reason, is_absent, empty=empty)

    def follow(
        self, links: Sequence[str], within: Sequence[str], late: Sequence[str]
    ) -> Generator[File | tuple[str, str], None, None]:
        """What each link leads to, in order. One that hangs is not tried while it does."""
        for link in [link for link, one in self._hung.items() if one.has_news]:
            self._hung.pop(link).end()
        left = [link for link in links if link not in self._hung]
        yield from ((link, NO_ANSWER) for link in links if link in self._hung)
        while left and len(self._hung) < _MOST_STUCK:
            worker = self._ask([["follow", link, within, late] for link in left])
            try:
                while left:
                    answer = worker.hear(self._late_s, self._is_over)
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
        """The reading of each path, in order; of those that got no answer it is not lasting."""
        for answer in self._answers([["read", path] for path in paths]):
            if answer is None:
                reason = self.late_reason or "cannot be read: its reader ended"
                yield Unusable(reason, is_lasting=False)
                continue
            is_lasting, content = answer
            reading = unpacked(content)
            yield Unusable(reading.reason, is_lasting) if isinstance(reading, Unusable) else reading

    def begin(self, paths: Sequence[str]) -> Generator[Any, None, None]:
        """The first pairs of each file, or nothing."""
        yield from self._answers([["begin", path] for path in paths])

    def _answers(self, requests: Sequence[Any]) -> Generator[Any, None, None]:
        """The answer to each request, in order; None once the root is late or the reader ended."""
        done = 0
        if requests and not self.late_reason:
            workers = self._workers_for(requests)
            try:
                while done < len(requests):
                    answer = workers[done % len(workers)].hear(self._late_s, self._is_over)
                    done += 1
                    yield answer
            except Silent:
                self._forsake(*workers)
            except WorkerEnded:
                pass
            finally:
                # One that still has something to answer cannot be asked anything else.
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
                workers[-1].say([["be nice"], *requests[first::_PROCESSES]])
                workers[-1].send()
        except OSError:
            self._drop(*workers)
            raise
        return workers

    def _ask(self, requests: Sequence[Any]) -> Worker:
        if self._worker is not None and self._worker.has_news:  # idle, so it has ended
            self._drop(self._worker)
        if self._worker is None:
            self._worker = Worker("magid.discovery.header_workers")
        self._used_at = monotonic()
        self._worker.say(requests)
        return self._worker

    # -- a root that is late -------------------------------------------------------------

    def _late_look(self) -> Look:
        if self._worker is not None:
            self._forsake(self._worker)
        return Look(self.top, reason=self.late_reason or "is not read: magid ends", is_late=True)

    def _forsake(self, *workers: Worker) -> None:
        """It is late: one of these stays as the watch on it, in the place of an earlier one."""
        for worker in workers:
            if worker is self._worker:
                self._worker = None
            self._stuck.append(worker)
        if self._is_over():
            return
        if not self.late_reason:
            log.warning("the model folder %s does not answer", printable(self.top))
        self.late_reason = f"has not answered for {self._late_s:g} s; magid keeps trying"

    def _may_answer(self, others: Sequence[str]) -> bool:
        """Whether it is worth waiting for; begins another try where the last one is old."""
        if not self._stuck or self.has_news:
            self._end_stuck()
            self.late_reason = ""
            return True
        if monotonic() - self._stuck[-1].made_at > _AGAIN_S and len(self._stuck) < _MOST_STUCK:
            another = Worker("magid.discovery.header_workers")
            another.say([["walk", self.configured, others]])
            another.send()
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
        """End all processes, those that hang as soon as they can be. Idempotent."""
        self._end_stuck()
        for worker in self._hung.values():
            worker.end(is_stuck=True)
        self._hung = {}
        if self._worker is not None:
            self._drop(self._worker)


class Roots:
    """All of them. Every method blocks, for a few times `late_s` at most while one is silent.

    Not locked: one thread at a time, but for `has_news` and `stop`.
    """

    def __init__(self, folders: Sequence[Path], late_s: float = LATE_S) -> None:
        self._stopped = False
        configured = dict.fromkeys(str(folder) for folder in folders)
        self._roots = [Root(one, late_s, lambda: self._stopped) for one in configured]

    @property
    def has_news(self) -> bool:
        """One that was late has answered."""
        return any(root.has_news for root in self._roots)

    @property
    def tops(self) -> dict[str, str]:
        """As configured -> links resolved, as last known."""
        return {root.configured: root.top for root in self._roots}

    def remember(self, tops: Mapping[str, str]) -> None:
        for root in self._roots:
            root.top = tops.get(root.configured, root.top)

    def listing(self) -> Listing:
        """Walk them side by side. Raises OSError where no process can be made."""
        if not self._roots:
            return Listing()
        with ThreadPoolExecutor(len(self._roots), "magid-roots") as threads:
            looks = list(threads.map(self._look_at, self._roots))
        late = [look.top for look in looks if look.is_late]
        within = [look.top for look in looks]
        linked: list[File | tuple[str, str]] = []
        for root, look in zip(self._roots, looks, strict=True):
            linked += root.follow(sorted(look.links), within, late)
        return join(looks, linked)

    def _look_at(self, root: Root) -> Look:
        others = {one for other in self._roots for one in (other.configured, other.top)}
        return root.look(sorted(others - {root.configured, root.top}))

    def read(self, files: Sequence[File]) -> Generator[tuple[File, Reading], None, None]:
        """The reading of each file, root by root. Closing the iterator ends its processes."""
        for root, below in self._sorted(files):
            yield from zip(below, root.read([file.real for file in below]), strict=True)

    def begin(self, files: Sequence[File]) -> Generator[tuple[File, Any], None, None]:
        """What each file begins with; see `Root.begin`."""
        for root, below in self._sorted(files):
            yield from zip(below, root.begin([file.real for file in below]), strict=True)

    def _sorted(self, files: Sequence[File]) -> list[tuple[Root, list[File]]]:
        """By the root that a file's content is in: of nested ones, the innermost."""
        sorted_in: dict[Root, list[File]] = {}
        inner_first = sorted(self._roots, key=lambda root: -len(root.top))
        for file in files:
            home = next(root for root in inner_first if is_below(file.real, [root.top]))
            sorted_in.setdefault(home, []).append(file)
        return list(sorted_in.items())

    @property
    def late(self) -> tuple[tuple[str, str], ...]:
        """Top and reason of each that does not answer."""
        return tuple((root.top, root.late_reason) for root in self._roots if root.late_reason)

    def stop(self) -> None:
        """Call off every wait, now and later; from any thread."""
        self._stopped = True

    def tidy(self) -> None:
        """Ends the processes that have been idle for a while."""
        for root in self._roots:
            root.tidy()

    def close(self) -> None:
        """After `stop`: end all processes, those that hang as soon as they can be. Idempotent."""
        self._stopped = True
        for root in self._roots:
            root.close()


def why_no_process(error: OSError) -> str:
    """Why a reader could not be made, in words of what to do about it."""
    why = {
        errno.EAGAIN: "the limit of tasks is used up (TasksMax=, ulimit -u)",
        errno.EMFILE: "the limit of open files is used up (LimitNOFILE=, ulimit -n)",
    }.get(error.errno or 0, error.strerror or str(error))
    failed = os.strerror(error.errno or 0)
    return f"cannot start a process of magid.discovery.header_workers: {failed}: {why}"
