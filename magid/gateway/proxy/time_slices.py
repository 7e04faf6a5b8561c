"""Runs long work on the event loop in small steps, so that nothing else waits for it.

All jobs share one slice of each turn of the loop: many large requests at once take no more of a
turn than one.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

log = logging.getLogger(__name__)

SLICE_S = 0.005

Steps = Generator[None, None, Any]
Done = Callable[[Any], None]
Failed = Callable[[Exception], None]


class Job:
    """Work in progress. Implements `ActiveRequest`."""

    __slots__ = ("_done", "_failed", "_steps")

    def __init__(self, steps: Steps, done: Done, failed: Failed) -> None:
        self._steps: Steps | None = steps
        self._done, self._failed = done, failed

    def cancel(self) -> None:
        """Neither `done` nor `failed` is called. Idempotent."""
        self._steps = None

    def pause(self, *, paused: bool) -> None:
        """It answers nothing, so there is nothing to hold back."""

    def step(self) -> bool:
        """Whether there is more to do."""
        steps = self._steps
        if steps is None:
            return False
        try:
            try:
                next(steps)
            except StopIteration as end:
                self.cancel()
                self._done(end.value)
        except Exception as error:  # whatever it is, the client must get an answer
            self.cancel()
            self._failed(error)
        return self._steps is not None


class TimeSlices:
    """Lives on the event loop; takes turns between the jobs, oldest first."""

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()

    def begin(self, steps: Steps, done: Done, failed: Failed) -> Job:
        """Later calls `done` with what the steps return, or `failed` with what was raised."""
        job = Job(steps, done, failed)
        self._jobs.append(job)
        if len(self._jobs) == 1:
            asyncio.get_running_loop().call_soon(self._turn)
        return job

    async def run(self, steps: Steps) -> Any:
        """What the steps return. Raises what they raise."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        job = self.begin(steps, partial(_settle, future), partial(_fail, future))
        try:
            return await future
        finally:
            job.cancel()

    def _turn(self) -> None:
        jobs, end = self._jobs, time.monotonic() + SLICE_S
        while jobs and time.monotonic() < end:
            job = jobs[0]
            try:
                has_more = job.step()
            except Exception:  # of `failed`: no harm to the other jobs
                log.exception("a large request cannot be handled")
                has_more = False
            jobs.popleft()
            if has_more:
                jobs.append(job)
        if jobs:
            asyncio.get_running_loop().call_soon(self._turn)


def _settle(future: asyncio.Future[Any], result: Any) -> None:
    if not future.done():  # the waiter may have been cancelled in this very turn
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
