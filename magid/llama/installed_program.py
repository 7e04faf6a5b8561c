"""The llama-server of this machine as the daemon knows it: found, probed once, kept."""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from magid.errors import LlamaServerMissing
from magid.host.workers import LATE_S
from magid.llama.engines import chosen_at, is_named, program_for
from magid.llama.program import FoundProgram, LlamaProgram, find_program, probe
from magid.llama.program_search import Foreign, ProgramSearch, look_here, no_answer

RETRY_S: Final = 10.0


class InstalledProgram:
    """The llama-servers of this machine, each probed again only if its file has changed.

    Call the object for the LlamaProgram of an engine; concurrent callers share one probe. Raises
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
        self._configured, self._search_path = configured, search_path
        self._engines_dir, self._late_s = engines_dir, late_s
        self._search = search or ProgramSearch()
        self._engines: dict[str | None, _EngineProgram] = {}

    async def __call__(self, engine: str | None = None, /) -> LlamaProgram:
        if engine not in self._engines:
            self._engines[engine] = _EngineProgram(
                lambda: program_for(engine, self._configured, self._engines_dir),
                self._search_path, self._search, self._late_s, is_default=not is_named(engine),
            )  # fmt: skip
        return await self._engines[engine]()

    def close(self) -> None:
        """Ends what still waits for a file system. Idempotent."""
        self._search.close()


class _EngineProgram:
    """The llama-server of one engine, or the one that is in use for all models."""

    def __init__(
        self,
        configured: Callable[[], str | None],
        search_path: str,
        search: ProgramSearch,
        late_s: float,
        *,
        is_default: bool,
    ) -> None:
        """`configured` returns the path, and may block and raise LlamaServerMissing."""
        self._configured, self._search_path, self._search = configured, search_path, search
        self._local = LocalSearch(configured, search_path, late_s)
        self._is_default = is_default
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
            return await asyncio.to_thread(self._find_there), False

    def _find_there(self) -> FoundProgram:
        return self._search.find(self._configured(), self._search_path)

    async def _probed(self, found: FoundProgram, is_here: bool) -> LlamaProgram:
        failed = self._failed
        if failed and failed[0] == found and time.monotonic() < failed[1] + RETRY_S:
            raise failed[2]
        try:
            program = await (
                probe(found.path) if is_here else asyncio.to_thread(self._search.probe, found.path)
            )
        except LlamaServerMissing as error:
            self._failed = (found, time.monotonic(), error)
            raise
        if not self._is_default:
            return program
        # For servers without an engine of their own, the choice is a new program too.
        chosen = await asyncio.to_thread(chosen_at, found.path)
        return replace(program, changed_at=max(program.changed_at, chosen))


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
