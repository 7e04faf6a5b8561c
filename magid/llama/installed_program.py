"""The llama-server of this machine as the daemon knows it: found, probed once, kept."""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from magid.errors import LlamaServerMissing
from magid.host.workers import LATE_S
from magid.llama.engines import default_program
from magid.llama.program import FoundProgram, LlamaProgram, find_program, probe
from magid.llama.program_search import Foreign, ProgramSearch, look_here, no_answer

RETRY_S: Final = 10.0


class InstalledProgram:
    """The llama-server of this machine; it is probed again only if its file has changed.

    Call the object for the LlamaProgram; concurrent callers share one probe. Raises
    LlamaServerMissing; the next call searches again. A program that failed is not run again for
    RETRY_S unless its file changes, because a dashboard calls this every second. The event loop
    never waits for the program's file system: see `LocalSearch` and `ProgramSearch`.
    """

    def __init__(
        self,
        configured: str | None,
        search_path: str,
        search: ProgramSearch | None = None,
        late_s: float = LATE_S,
        engines_dir: Path | None = None,
    ) -> None:
        """`engines_dir` has the engines; the default one of them is used if none is configured."""
        self._fixed, self._engines = configured, engines_dir
        self._search_path = search_path
        self._local = LocalSearch(self._configured, search_path, late_s)
        self._search = search or ProgramSearch()
        self._lock = asyncio.Lock()
        self._known: tuple[FoundProgram, LlamaProgram] | None = None
        self._failed: tuple[FoundProgram, float, LlamaServerMissing] | None = None

    async def __call__(self) -> LlamaProgram:
        async with self._lock:
            found, is_here = await self._found()
            if self._known is None or self._known[0] != found:
                self._known = (found, await self._probed(found, is_here))
            return self._known[1]

    async def _found(self) -> tuple[FoundProgram, bool]:
        """Returns the program, and whether it is on a disk of this machine."""
        try:
            return await self._local.find(), True
        except Foreign:
            return await asyncio.to_thread(
                self._search.find, self._configured(), self._search_path
            ), False

    def _configured(self) -> str | None:
        if self._fixed is not None or self._engines is None:
            return self._fixed
        program = default_program(self._engines)
        return None if program is None else str(program)

    async def _probed(self, found: FoundProgram, is_here: bool) -> LlamaProgram:
        failed = self._failed
        if failed and failed[0] == found and time.monotonic() < failed[1] + RETRY_S:
            raise failed[2]
        try:
            if is_here:
                return await probe(found.path)
            return await asyncio.to_thread(self._search.probe, found.path)
        except LlamaServerMissing as error:
            self._failed = (found, time.monotonic(), error)
            raise

    def close(self) -> None:
        """Ends what still waits for a file system. Idempotent."""
        self._search.close()


class LocalSearch:
    """Runs `find_program` in a thread, where no other machine is waited for.

    A disk of this machine can hang too, and then it holds the thread and not the event loop. A
    process would not: but on such a disk it would cost more than all else, with each look. A thread
    that does not return within `late_s` is left behind; until it does, each call fails at once, and
    the kernel keeps magid from ending. For one caller at a time.
    """

    def __init__(
        self, configured: Callable[[], str | None], search_path: str, late_s: float
    ) -> None:
        self._configured, self._search_path, self._late_s = configured, search_path, late_s
        self._running: asyncio.Future[FoundProgram] | None = None
        self._is_late = False
        self._path = ""  # at which the thread looks

    async def find(self) -> FoundProgram:
        """Is `find_program`. Raises Foreign where another machine may be waited for."""
        running = self._running
        if running is None or running.done():
            running = self._running = asyncio.get_running_loop().create_future()
            self._is_late = False
            try:
                threading.Thread(target=self._run, args=(running,), daemon=True).start()
            except RuntimeError:  # the limit of tasks is used up
                self._running = None
                return self._find()
        if not self._is_late:
            await asyncio.wait({running}, timeout=self._late_s)
            self._is_late = not running.done()
        if self._is_late:
            raise no_answer(self._path, None)  # to ask for the mount might hang too
        return running.result()

    def _run(self, result: "asyncio.Future[FoundProgram]") -> None:
        """Runs in the thread. The loop may have been closed by the time that it is done."""
        found: FoundProgram | Exception
        try:
            found = self._find()
        except Exception as error:  # it is raised where the result is awaited
            found = error
        with suppress(RuntimeError):
            result.get_loop().call_soon_threadsafe(_settle, result, found)

    def _find(self) -> FoundProgram:
        found = find_program(self._configured(), self._search_path, self._look)
        with suppress(OSError), found.path.open("rb") as file:
            file.read(1)  # where this does not hang, starting the program will not
        return found

    def _look(self, program: Path) -> FoundProgram | None:
        self._path = str(program)
        return look_here(program)


def _settle(result: "asyncio.Future[FoundProgram]", found: FoundProgram | Exception) -> None:
    if isinstance(found, Exception):
        result.set_exception(found)
        result.exception()  # it counts as retrieved, also where its caller has left
    else:
        result.set_result(found)
