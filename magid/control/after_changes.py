"""Work that is to be done again after changes of the state."""

import asyncio
from collections.abc import Awaitable, Callable

from magid.control.snapshot import Disk
from magid.control.state import Change, StateStore


class AfterChanges:
    """Calls `work` once it is open, and after each change of these kinds, in a task of its own.

    One call at a time; what changes during a call leads to one more. `work` handles its errors: one
    that it raises ends the task.
    """

    def __init__(
        self, store: StateStore, kinds: frozenset[str], work: Callable[[], Awaitable[None]]
    ) -> None:
        self._store, self._kinds, self._work = store, kinds, work
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._unsubscribe: Callable[[], None] | None = None

    def again(self) -> None:
        """Has the work done once more, soon."""
        self._changed.set()

    def open(self) -> None:
        """Subscribes before the first call, so that no change is missed."""
        self._unsubscribe = self._store.subscribe(self._on_change)
        self._changed.set()
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Cancels a call in progress. Idempotent."""
        if self._unsubscribe is not None:
            self._unsubscribe()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _on_change(self, change: Change) -> None:
        if change.kind in self._kinds:
            self._changed.set()

    async def _run(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self._work()


def after_scans(disk: Callable[[], Disk], work: Callable[[], None]) -> Callable[[Change], None]:
    """Returns a listener that calls `work` after each scan, also one that could read no folder.

    A scan has ended when `disk` returns another value than before; `work` must not block.
    """
    seen = disk()

    def on_change(_change: Change) -> None:
        nonlocal seen
        before, seen = seen, disk()
        if seen is not before:
            work()

    return on_change
