"""Pipes in the place of the library's small files, as those who may write there could put them."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from magid.library import job, origins
from magid.library.job import JobStatus
from magid.library.origins import Origin
from magid.library.source import ModelSource
from tests.support.deadlines import DEADLINE_S

SOURCE = ModelSource("org/Repo")
ORIGIN = Origin("https://hub", "org/Repo", "main", "c" * 40, "", "a.gguf", "a" * 64, 1.0)


def at_once(*work: Callable[[], object]) -> list[object]:
    """What each returns, without waiting for another end of a pipe."""
    with ThreadPoolExecutor() as pool:
        return [each.result(DEADLINE_S) for each in [pool.submit(one) for one in work]]


def test_they_are_no_content(tmp_path: Path) -> None:
    model = tmp_path / "a.gguf"
    for path in (tmp_path / job.STATUS, tmp_path / job.LOCK, origins.origin_path(model)):
        os.mkfifo(path)
    assert at_once(
        lambda: job.read_status(tmp_path),
        lambda: job.is_held(tmp_path / job.LOCK),
        lambda: origins.read(model),
    ) == [None, False, None]


def test_a_pipe_that_a_process_may_still_write_to(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / job.STATUS)
    end = os.open(tmp_path / job.STATUS, os.O_RDWR)
    try:
        assert at_once(lambda: job.status_bytes(tmp_path, 100)) == [b""]
    finally:
        os.close(end)


def test_they_are_replaced(tmp_path: Path) -> None:
    model = tmp_path / "a.gguf"
    origin = origins.origin_path(model)
    for path in (tmp_path / f"{job.STATUS}.new", origin, origin.with_name(f"{origin.name}.new")):
        os.mkfifo(path)
    status = JobStatus(SOURCE.job_id, SOURCE, 1.0)
    at_once(
        lambda: job.write_status(tmp_path, status, durably=True),
        lambda: origins.write(model, ORIGIN),
    )
    assert job.read_status(tmp_path) == status
    assert origins.read(model) == ORIGIN
