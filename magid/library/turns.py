"""Work of which one runs at a time, also when callers leave in the middle of it."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from magid.host.shared_reads import retrieve

T = TypeVar("T")


class Turns:
    """Gives one turn after another. Lives on the event loop.

    For work that cannot be ended, as that of a thread or of the launcher. A lock alone would let a
    client that asks and hangs up, again and again, start any number of it.
    """

    def __init__(self) -> None:
        self._free = asyncio.Lock()
        self._task: asyncio.Task[Any] | None = None

    async def take(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Returns what the work returns, when its turn has come.

        A caller that is cancelled leaves the queue, or the work, which then keeps the turn.
        """
        await self._free.acquire()
        task = self._task = asyncio.create_task(work())
        task.add_done_callback(self._end_turn)
        return await asyncio.shield(task)

    def _end_turn(self, task: "asyncio.Task[Any]") -> None:
        self._free.release()
        retrieve(task)

    async def close(self) -> None:
        """Cancels the work. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await self._task
