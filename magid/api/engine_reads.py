"""What lies in the folder of engines, for handlers: read by one thread for all who ask."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from magid.errors import NotReady
from magid.host.shared_reads import SharedRead
from magid.llama import engines

if TYPE_CHECKING:  # it is imported with the first question: no start waits for tar and zip
    from magid.library.engine_store import Engine


class EngineFolder(NamedTuple):
    """What is known of engines, by name; the names that have a program; the one of all servers."""

    listed: "list[Engine]"
    installed: frozenset[str]
    default: str | None


class EngineReads:
    """Looks at the folder of engines. Lives on the event loop."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._look = SharedRead(lambda: _look(folder))

    async def look(self) -> EngineFolder:
        """Returns what is there now. Raises NotReady where the disk does not answer."""
        try:
            return await self._look.result()
        except TimeoutError:
            raise NotReady(
                f"cannot look at the engines in {self._folder}: the disk or mount does not answer; "
                "try again later"
            ) from None


def _look(folder: Path) -> EngineFolder:
    """Blocks."""
    from magid.library import engine_store

    return EngineFolder(
        engine_store.listed(folder), engines.installed(folder), engines.default_engine(folder)
    )
