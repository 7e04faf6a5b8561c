"""Engines on a disk that does not answer."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

from magid.control.engines import AbsentEngines
from tests.support.deadlines import DEADLINE_S
from tests.support.mounts import mounted

NAMES = frozenset({"alpha", "beta"})


class GivenEngines:
    """The part of the state that is asked: models have been given these engines."""

    def __init__(self) -> None:
        self.snapshot = SimpleNamespace(engines=NAMES)
        self.absent_engines: frozenset[str] = frozenset()

    def subscribe(self, listener: Callable[[object], None]) -> Callable[[], None]:
        return lambda: None

    def note_absent_engines(self, names: frozenset[str]) -> None:
        self.absent_engines = names


async def test_a_disk_that_hangs_holds_up_no_start_and_comes_back(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net/llama-server").touch()
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines/alpha").symlink_to(tmp_path / "net")
    store, back = GivenEngines(), asyncio.Queue[frozenset[str]]()
    with mounted(tmp_path / "net") as mount:
        mount.hang()
        absent = AbsentEngines(tmp_path / "engines", store, back.put_nowait, late_s=0.1)  # type: ignore[arg-type]  # a part of it
        try:
            async with asyncio.timeout(DEADLINE_S):
                await absent.open()
                await absent.look()
                assert store.absent_engines == NAMES
                mount.thaw()
                while back.empty():
                    await absent.look()
                    await asyncio.sleep(0.01)
            assert back.get_nowait() == {"alpha"}
            assert store.absent_engines == {"beta"}
        finally:
            mount.thaw()
            await absent.close()
