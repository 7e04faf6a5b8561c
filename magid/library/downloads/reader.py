"""Reads the folder of downloads, in a process of its own: its mount may not answer.

`python -m magid.library.downloads.reader` is the other end.
"""

import asyncio
import errno
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from magid.errors import NotReady
from magid.host.shared_reads import retrieve
from magid.host.workers import LATE_S, Heartbeat, Silent, Unanswered, Worker, WorkerEnded, serve
from magid.library import job, origins
from magid.library.job import JobStatus
from magid.library.origins import Origin
from magid.library.shared_files import read_at_once
from magid.library.turns import Turns

_MODULE: Final = "magid.library.downloads.reader"
_TRIES: Final = 2
_MOST_JOBS: Final = 1000
_AT_ONCE: Final = 100  # origins that are read before the worker answers
_MOST_BYTES: Final = 4 << 20
"""All statuses together: that of a job has a kilobyte, and of a model in 100 shards 30 of them."""

# Of a status: there is none, or none that a job has written. Other errors may pass.
_NO_STATUS: Final = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO)


@dataclass(frozen=True, slots=True)
class FoundJobs:
    """What a look has found: by id, each status, and whether a process is at work on it.

    `folder` names the folder of jobs by device and inode, so it differs between a mount point and
    what is mounted there later; "" if there is no folder. `is_whole` is false if a status could not
    be read.
    """

    jobs: Mapping[str, tuple[JobStatus, bool]] = field(default_factory=dict)
    folder: str = ""
    is_whole: bool = True


class LibraryReader:
    """Asks one worker, which is started when it is needed, in one thread at a time.

    Lives on the event loop. A library that hangs costs one caller the time of LATE_S; others are
    told at once until it answers, or another worker tries it after a minute.
    """

    def __init__(self, library: Path) -> None:
        self._library = library
        self._worker: Worker | None = None
        self._unanswered = Unanswered()
        self._turns = Turns()
        self._coming: asyncio.Task[Any] | None = None  # a look that has not begun
        self._is_closed = False

    async def jobs(self) -> FoundJobs:
        """Returns all jobs. Raises NotReady if the folder of jobs is there and cannot be read.

        Those who ask while a look is under way share the next one, which sees all that was written
        before they asked.
        """
        if self._coming is None:
            self._coming = asyncio.create_task(self._turns.take(self._look))
            self._coming.add_done_callback(retrieve)
        answer = await asyncio.shield(self._coming)
        if why := answer.get("error"):
            raise NotReady(
                f"cannot read {job.jobs_folder(self._library)}: {why}; check that disk or mount, "
                "and who may read the folder"
            )
        found = {}
        for body, is_alive in answer["jobs"]:
            with suppress(ValueError, TypeError, KeyError):
                status = job.status_in(body)
                found[status.id] = (status, bool(is_alive))
        return FoundJobs(found, answer["folder"], answer["isWhole"])

    async def origins(self, paths: Sequence[str]) -> dict[str, Origin]:
        """Returns where the files were downloaded from, by path, if they were. Raises NotReady."""
        found: dict[str, Origin] = {}
        for at in range(0, len(paths), _AT_ONCE):
            asked = paths[at : at + _AT_ONCE]
            work = partial(asyncio.to_thread, self._ask, ["origins", *asked])
            answers = await self._turns.take(work)
            found |= {p: Origin(**o) for p, o in zip(asked, answers, strict=True) if o}
        return found

    async def rest(self) -> None:
        """Ends the worker, which is started again when it is needed."""
        await self._turns.take(lambda: asyncio.to_thread(self._drop))

    async def close(self) -> None:
        """Ends the worker for good; does not wait for a library that hangs. Idempotent."""
        self._is_closed = True
        with suppress(NotReady):
            await self.rest()
        self._unanswered.close()

    async def _look(self) -> Any:
        self._coming = None
        return await asyncio.to_thread(self._ask, ["jobs", str(self._library)])

    def _ask(self, request: list[str]) -> Any:
        for _ in range(_TRIES):
            if self._is_closed or str(self._library) in self._unanswered:
                break
            try:
                self._worker = self._worker or Worker(_MODULE)
                self._worker.submit([request])
                return self._worker.receive(LATE_S, lambda: self._is_closed)
            except Silent:
                self._give_up()
            except (WorkerEnded, OSError):
                self._drop()
        raise NotReady(
            f"cannot read {self._library}: the disk or mount does not answer; try again later"
        )

    def _give_up(self) -> None:
        """Leaves the worker waiting for its mount: what it says then tells that it answers."""
        worker, self._worker = self._worker, None
        if worker is not None:
            self._unanswered.add(str(self._library), worker)

    def _drop(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.end()


# -- in the worker ---------------------------------------------------------------------------


def _answer(request: list[str]) -> Any:
    match request:
        case ["jobs", library]:
            return _jobs(job.jobs_folder(Path(library)))
        case ["origins", *paths]:
            known = (origins.read(Path(path)) for path in paths)
            return [asdict(origin) if origin else None for origin in known]
        case _:
            return {}


def _jobs(folder: Path) -> dict[str, Any]:
    """Returns what `FoundJobs` holds, or the error for which the folder cannot be read."""
    try:
        name, entries = _listed(folder)
    except FileNotFoundError:  # no download yet, or a mount point without its disk
        return {"jobs": [], "folder": "", "isWhole": True}
    except OSError as error:
        return {"error": error.strerror or type(error).__name__}
    jobs, is_whole = _read(folder, entries)
    return {"jobs": jobs, "folder": name, "isWhole": is_whole}


def _listed(folder: Path) -> tuple[str, list[str]]:
    """Returns device and inode of the folder, and the names in it. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        names = sorted(os.listdir(descriptor))[:_MOST_JOBS]  # noqa: PTH208 - of a descriptor
        return f"{found.st_dev}:{found.st_ino}", names
    finally:
        os.close(descriptor)


def _read(folder: Path, names: Sequence[str]) -> tuple[list[Any], bool]:
    """Returns the jobs, and whether all statuses could be read.

    Those with the shortest one come first: a few long ones displace no others. Anyone who may write
    to the library may have written any of them.
    """
    found = []
    is_whole = True
    left = _MOST_BYTES
    beat = Heartbeat()
    for name in sorted(names, key=lambda name: _size(folder / name / job.STATUS)):
        beat()
        # Alive is asked first: a process that ends in between has written its last status.
        is_alive = job.is_held(folder / name / job.LOCK)
        content = _status_bytes(folder / name, min(left, job.MAX_STATUS_BYTES))
        if content is None:
            is_whole = False
            continue
        left -= len(content)
        status = job.parsed_status(content)
        if status is not None and status.id == name:
            found.append([asdict(status), is_alive])
    return found, is_whole


def _status_bytes(folder: Path, most: int) -> bytes | None:
    """Returns at most so many bytes of the job's status; None if it cannot be read at present."""
    try:
        return read_at_once(folder / job.STATUS, most)
    except OSError as error:
        return b"" if error.errno in _NO_STATUS else None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


if __name__ == "__main__":
    serve(_answer)
