"""Reads the folder of downloads, in a process of its own: its mount may not answer.

`python -m magid.library.downloads.reader` is the other end.
"""

import asyncio
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from magid.errors import NotReady
from magid.host.workers import LATE_S, Silent, Worker, WorkerEnded, serve
from magid.library import job, origins
from magid.library.job import JobStatus

_MODULE: Final = "magid.library.downloads.reader"
_TRIES: Final = 2
_MOST_JOBS: Final = 1000


class LibraryReader:
    """Asks one worker, which is started when it is needed. Thread-safe."""

    def __init__(self, library: Path) -> None:
        self._library = library
        self._worker: Worker | None = None
        self._turn = threading.Lock()

    async def jobs(self) -> dict[str, tuple[JobStatus, bool]]:
        """Returns id -> status, and whether a process is at work on it. Raises NotReady."""
        answer = await asyncio.to_thread(self._ask, ["jobs", str(self._library)])
        found = {}
        for body, is_alive in answer:
            with suppress(ValueError, TypeError, KeyError):
                status = job.status_in(body)
                found[status.id] = (status, bool(is_alive))
        return found

    async def origin(self, path: str) -> Mapping[str, Any] | None:
        """Returns where a model's file was downloaded from, if it was. Raises NotReady."""
        answer = await asyncio.to_thread(self._ask, ["origin", path])
        return answer if isinstance(answer, dict) and answer else None

    def close(self) -> None:
        """Ends the worker, which is started again when it is needed. Blocks for milliseconds."""
        with self._turn:
            self._drop(is_stuck=False)

    def _ask(self, request: list[str]) -> Any:
        with self._turn:
            for _ in range(_TRIES):
                try:
                    self._worker = self._worker or Worker(_MODULE)
                    self._worker.submit([request])
                    return self._worker.receive(LATE_S)
                except Silent:
                    self._drop(is_stuck=True)
                    break
                except (WorkerEnded, OSError):
                    self._drop(is_stuck=False)
        raise NotReady(
            f"cannot read {self._library}: the disk or mount does not answer; try again later"
        )

    def _drop(self, *, is_stuck: bool) -> None:
        if self._worker is not None:
            self._worker.end(is_stuck=is_stuck)
        self._worker = None


# -- in the worker ---------------------------------------------------------------------------


def _answer(request: list[str]) -> Any:
    match request:
        case ["jobs", library]:
            return _jobs(job.jobs_folder(Path(library)))
        case ["origin", path]:
            found = origins.read(Path(path))
            return asdict(found) if found else {}
        case _:
            return {}


def _jobs(folder: Path) -> list[Any]:
    try:
        names = sorted(os.listdir(folder))[:_MOST_JOBS]  # noqa: PTH208 - no Path for each name
    except OSError:
        return []
    found = []
    for name in names:
        # Alive is asked first: a process that ends in between has written its last status.
        is_alive = job.is_held(folder / name / job.LOCK)
        status = job.read_status(folder / name)
        if status is not None and status.id == name:
            found.append([asdict(status), is_alive])
    return found


if __name__ == "__main__":
    serve(_answer)
