"""The llama-server of this machine as the daemon knows it: found, probed once, kept."""

import asyncio
import time
from typing import Final

from magid.errors import LlamaServerMissing
from magid.llama.program import FoundProgram, LlamaProgram, find_program, probe
from magid.llama.program_search import Foreign, ProgramSearch, look_here

RETRY_S: Final = 10.0


class InstalledProgram:
    """The llama-server of this machine; it is probed again only if its file has changed.

    Call the object for the LlamaProgram; concurrent callers share one probe. Raises
    LlamaServerMissing; the next call searches again. A program that failed is not run again for
    RETRY_S unless its file changes, because a dashboard calls this every second. The event loop
    never waits for the program's file system: see `ProgramSearch`.
    """

    def __init__(
        self, configured: str | None, search_path: str, search: ProgramSearch | None = None
    ) -> None:
        self._configured = configured
        self._search_path = search_path
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
            return find_program(self._configured, self._search_path, look_here), True
        except Foreign:
            return await asyncio.to_thread(
                self._search.find, self._configured, self._search_path
            ), False

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
