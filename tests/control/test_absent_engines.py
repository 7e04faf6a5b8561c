"""Engines on a disk that does not answer."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

from magid.control.engines import AbsentEngines
from tests.support.deadlines import DEADLINE_S
from tests.support.mounts import mounted
from tests.support.threads import no_more_threads

NAMES = frozenset({"alpha", "beta"})


class GivenEngines:
    """The part of the state that is asked: models have been given these engines."""

    def __init__(self) -> None:
        self.snapshot = SimpleNamespace(engines=NAMES)
        self.absent_engines: frozenset[str] = frozenset()
        self.tell: Callable[[object], None] = lambda change: None

    def subscribe(self, listener: Callable[[object], None]) -> Callable[[], None]:
        self.tell = listener
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


class Told(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: asyncio.Queue[logging.LogRecord] = asyncio.Queue()

    def emit(self, record: logging.LogRecord) -> None:
        self.records.put_nowait(record)


async def test_a_look_that_fails_is_told_and_is_not_the_last(tmp_path: Path) -> None:
    store, back = GivenEngines(), asyncio.Queue[frozenset[str]]()
    absent = AbsentEngines(tmp_path, store, back.put_nowait)  # type: ignore[arg-type]  # a part of it
    await absent.open()
    assert store.absent_engines == NAMES
    (log := logging.getLogger("magid.control.engines")).addHandler(told := Told())
    try:
        async with asyncio.timeout(DEADLINE_S):
            with no_more_threads():
                store.tell(SimpleNamespace(kind="registry"))
                assert "cannot look" in (await told.records.get()).getMessage()
            (tmp_path / "alpha").mkdir()
            (tmp_path / "alpha/llama-server").touch()
            store.tell(SimpleNamespace(kind="registry"))
            assert await back.get() == {"alpha"}
    finally:
        log.removeHandler(told)
        await absent.close()
