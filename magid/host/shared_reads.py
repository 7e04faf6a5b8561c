"""Reads of a disk that may not answer: one thread for all who ask, and a deadline for each.

A system call on such a disk cannot be interrupted. In asyncio's pool each caller would hold one of
the few threads, and the program's end would wait for them. So it runs in a daemon thread, of which
there is one for each `SharedRead`.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")

LATE_S: Final = 5.0  # without an answer for so long, a disk counts as hung


class SharedRead(Generic[T]):
    """Calls `read` in a thread for those who ask. Lives on the event loop.

    Those who ask while it runs share the next run, which sees all that was there when they asked.
    """

    def __init__(self, read: Callable[[], T], late_s: float = LATE_S) -> None:
        self._read, self._late_s = read, late_s
        self._running: asyncio.Future[T] | None = None  # what its thread will tell
        self._next: asyncio.Task[T] | None = None  # has not begun
        self._is_late = False

    async def result(self) -> T:
        """Returns what `read` returns. Raises what it raises, TimeoutError, RuntimeError.

        The first who ask wait for the deadline; from then on callers are refused at once, until
        the disk has answered.
        """
        if self._is_late:
            raise TimeoutError
        if self._next is None:
            self._next = asyncio.create_task(self._run())
            self._next.add_done_callback(retrieve)
        done, _ = await asyncio.wait({task := self._next}, timeout=self._late_s)
        if not done:
            self._is_late = self._running is not None
            raise TimeoutError
        return task.result()

    async def _run(self) -> T:
        if self._running is not None:
            await asyncio.wait({self._running})
        self._next = None
        own: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._running = own
        try:  # the machine may allow no more threads
            threading.Thread(target=_work, args=(self._read, own), daemon=True).start()
            return await own
        finally:
            if self._running is own:
                self._running, self._is_late = None, False


def _work(read: Callable[[], T], told: "asyncio.Future[T]") -> None:
    """Runs in the thread. The loop may have been closed by the time that it is done."""
    try:
        tell: Callable[[], None] = partial(told.set_result, read())
    except Exception as error:  # whatever it is, it is for those who wait
        tell = partial(told.set_exception, error)
    with suppress(RuntimeError):
        told.get_loop().call_soon_threadsafe(_if_wanted, told, tell)


def _if_wanted(told: "asyncio.Future[T]", tell: Callable[[], None]) -> None:
    if not told.done():
        tell()


def retrieve(task: "asyncio.Task[Any]") -> None:
    """A callback: those who wait may all have left before it fails, which is no defect to log."""
    if not task.cancelled():
        task.exception()
