"""Which of the engines that models have been given are not installed.

The one owner of that. It looks after each change of the models, on request, and every few seconds
while models have engines of their own: an engine may go, or come back, without a word to magid.
Where their folder does not answer, all of them are absent, and what waits for it is one thread.
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from magid.control.state import Change, StateStore
from magid.llama.engines import is_installed, is_named

log = logging.getLogger(__name__)

LOOK_S: Final = 5.0
LATE_S: Final = 5.0  # without an answer for so long, a disk counts as hung


class AbsentEngines:
    """`on_back` is called with the names of engines that were absent and are there now."""

    def __init__(
        self,
        folder: Path,
        store: StateStore,
        on_back: Callable[[frozenset[str]], None],
        late_s: float = LATE_S,
    ) -> None:
        self._folder, self._store, self._on_back = folder, store, on_back
        self._late_s = late_s
        self._late: asyncio.Future[frozenset[str]] | None = None  # its thread waits for the disk
        self._unsubscribe: Callable[[], None] = lambda: None
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Returns when what is absent is known; goes on looking."""
        self._unsubscribe = self._store.subscribe(self._on_change)
        await self.look()
        self._task = asyncio.create_task(self._run())

    async def look(self) -> None:
        """Looks at the disk now. Idempotent."""
        names = frozenset(filter(is_named, self._store.snapshot.engines))
        absent = await self._absent(names) if names else names
        before = self._store.absent_engines
        if absent != before:
            self._store.note_absent_engines(absent)
            for name in sorted(absent - before):
                log.error(
                    "the engine %r, which models have been given, is not installed, or its disk "
                    "does not answer",
                    name,
                )
            if back := before - absent:
                self._on_back(back)

    async def _absent(self, names: frozenset[str]) -> frozenset[str]:
        """Returns those that are not installed; all of them while the disk does not answer."""
        if self._late is not None and not self._late.done():
            return names
        found: asyncio.Future[frozenset[str]] = asyncio.get_running_loop().create_future()
        # A thread of the pool could not be left behind: magid would wait for it at its end.
        threading.Thread(target=_look, args=(self._folder, names, found), daemon=True).start()
        await asyncio.wait({found}, timeout=self._late_s)
        if found.done():
            return found.result()
        self._late = found
        return names

    async def close(self) -> None:
        """Idempotent."""
        self._unsubscribe()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _on_change(self, change: Change) -> None:
        if change.kind == "registry":
            self._changed.set()

    async def _run(self) -> None:
        while True:
            limit_s = LOOK_S if self._store.snapshot.engines else None
            try:
                async with asyncio.timeout(limit_s):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()
            await self.look()


def _look(folder: Path, names: frozenset[str], found: "asyncio.Future[frozenset[str]]") -> None:
    """Runs in a thread. The loop may have been closed by the time that it is done."""
    absent = frozenset(name for name in names if not is_installed(folder, name))
    with suppress(RuntimeError):
        found.get_loop().call_soon_threadsafe(found.set_result, absent)
