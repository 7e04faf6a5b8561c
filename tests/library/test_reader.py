"""The reader of downloads: of a disk that hangs, and of statuses that others have written."""

import asyncio
import gc
import json
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest

from magid.errors import NotReady
from magid.library import job
from magid.library.downloads.reader import FoundJobs, LibraryReader
from magid.library.job import JobStatus, PlannedFile
from magid.library.source import ModelSource
from tests.support.deadlines import PATIENCE_S
from tests.support.mounts import mounted

T = TypeVar("T")
MOST_BYTES = 4 << 20  # of all statuses together


def write_job(library: Path, name: str, files: int) -> str:
    """Writes a job of so many files, and returns its id."""
    source = ModelSource(f"org/{name}")
    status = JobStatus(source.job_id, source, 1.0, "paused")
    status.files = [PlannedFile(f"{n:05d}.gguf", 1, "0" * 64) for n in range(files)]
    folder = job.jobs_folder(library) / source.job_id
    folder.mkdir(parents=True)
    (folder / job.STATUS).write_text(json.dumps(asdict(status)))
    return source.job_id


def sizes_of_all(library: Path) -> list[int]:
    return [path.stat().st_size for path in library.rglob(job.STATUS)]


async def test_all_statuses_together_have_a_bound(tmp_path: Path) -> None:
    """Long ones give way to short ones, whatever their names are."""
    for n in range(10):
        write_job(tmp_path, f"a{n}", 6_500)
    sizes = sizes_of_all(tmp_path)
    assert max(sizes) < job.MAX_STATUS_BYTES
    assert sum(sizes) > MOST_BYTES
    short = write_job(tmp_path, "z", 1)
    reader = LibraryReader(tmp_path)
    try:
        found = (await reader.jobs()).jobs
    finally:
        await reader.close()
    assert short in found
    kept = sum(len(json.dumps(asdict(status))) for status, _ in found.values())
    assert MOST_BYTES / 2 < kept <= MOST_BYTES


class CountingPool(ThreadPoolExecutor):
    """Counts the calls that hold a thread.

    The number of threads tells less: a call may get a new one while the last one's is not idle yet.
    """

    def __init__(self) -> None:
        super().__init__(8)
        self._lock, self._now, self.most = threading.Lock(), 0, 0

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        return super().submit(self._count, partial(fn, *args, **kwargs))

    def _count(self, call: Callable[[], T]) -> T:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            return call()
        finally:
            with self._lock:
                self._now -= 1


@pytest.mark.slow
async def test_a_library_that_hangs_holds_one_thread(tmp_path: Path) -> None:
    library = tmp_path / "net"
    library.mkdir()
    pool = CountingPool()
    asyncio.get_running_loop().set_default_executor(pool)
    async with AsyncExitStack() as held:
        reader = LibraryReader(library)
        held.push_async_callback(reader.close)
        mount = held.enter_context(mounted(library))
        mount.hang()
        async with asyncio.timeout(PATIENCE_S):
            asked = [reader.jobs() for _ in range(20)]
            origins = reader.origins([f"{library}/x.gguf"])
            answers = await asyncio.gather(*asked, origins, return_exceptions=True)
        assert {type(answer) for answer in answers} == {NotReady}
        assert pool.most == 1
        mount.thaw()
        async with asyncio.timeout(PATIENCE_S):
            while True:  # until the worker that waits for the mount has heard of it
                try:
                    assert await reader.jobs() == FoundJobs()
                    break
                except NotReady:
                    await asyncio.sleep(0)


@pytest.mark.slow
async def test_a_look_that_nobody_waits_for_may_fail(tmp_path: Path) -> None:
    """As when magid ends while the library hangs: its log has no defect."""
    defects: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, found: defects.append(found))
    library = tmp_path / "net"
    library.mkdir()
    async with AsyncExitStack() as held:
        reader = LibraryReader(library)
        held.push_async_callback(reader.close)
        held.enter_context(mounted(library)).hang()
        asked = asyncio.create_task(reader.jobs())
        await asyncio.sleep(0)
        asked.cancel()
        await asyncio.wait({asked})
        with pytest.raises(NotReady):
            await reader.jobs()
    del asked
    gc.collect()
    assert not defects
