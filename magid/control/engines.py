"""Which of the engines that models have been given are not installed.

The one owner of that. It looks after each change of the models, on request, and every few seconds
while models have engines of their own: an engine may go, or come back, without a word to magid.
Where their folder does not answer, all of them are absent, and what waits for it is one thread.
"""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from magid.control.state import Change, StateStore
from magid.host.shared_reads import LATE_S, SharedRead
from magid.llama.engines import is_installed, is_named

log = logging.getLogger(__name__)

LOOK_S: Final = 5.0


class AbsentEngines:
    """`on_back` is called with the names of engines that were absent and are there now."""

    def __init__(
        self,
        folder: Path,
        store: StateStore,
        on_back: Callable[[frozenset[str]], None],
        late_s: float = LATE_S,
    ) -> None:
        self._store, self._on_back = store, on_back
        self._missing = SharedRead(
            lambda: frozenset(name for name in self._names if not is_installed(folder, name)),
            late_s,
        )
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
        names = self._names
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
        try:
            return await self._missing.result()
        except TimeoutError:
            return names

    @property
    def _names(self) -> frozenset[str]:
        return frozenset(filter(is_named, self._store.snapshot.engines))

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
            try:
                await self.look()
            except Exception:  # whatever it is, the next look may succeed
                log.exception("cannot look which engines are installed; trying again")
