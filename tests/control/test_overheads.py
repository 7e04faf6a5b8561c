"""What a driver takes beside a prediction is learned from starts that nothing disturbed."""

import asyncio
import gc
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from magid.control.engine_devices import EngineDevices
from magid.control.overhead_cache import (
    MOST,
    NAME,
    KeptOverheads,
    OverheadVersions,
    read_overheads,
    write_overheads,
)
from magid.control.overheads import Overheads
from magid.control.placing import Placing
from magid.control.wishes import FileFacts
from magid.errors import DoesNotFit
from magid.llama.placement import Placement
from magid.llama.program import LlamaProgram
from magid.llama.spec import ServerSpec
from magid.servers.backend import ServerState
from tests.support import placing_launchers
from tests.support.deadlines import PATIENCE_S
from tests.support.recording_backend import StillLauncher, all_quiet

MIB = 1 << 20
NEED, TOTAL = 1000, 10_000
FLAGS = frozenset({"--fit", "-lv", "--device", "--ctx-size", "--n-gpu-layers", "--tensor-split"})


class Driver(StillLauncher):
    """One GPU, on which each server takes `context` MiB more than was predicted."""

    def __init__(self) -> None:
        super().__init__()
        self.context = 300
        self.others = 0
        self.version = "1"  # of llama-server
        self.versions: dict[str | None, str] = {}  # of engines with another one

    async def list_devices(self, engine: str | None = None) -> str:
        self.listings += 1
        ready = [s for s in self.observed().values() if s.state is ServerState.READY]
        free = TOTAL - self.others - len(ready) * (NEED + self.context)
        self._wake()
        return f"Available devices:\n  CUDA0: card ({TOTAL} MiB, {free} MiB free)\n"

    async def predict_memory(
        self, spec: ServerSpec, placement: Placement | None = None, *, for_start: bool = False
    ) -> str:
        row = f"|   - CUDA0 (card) | 9 = 9 + ({NEED} = {NEED} + 0 + 0) + 0 |"
        return json.dumps(
            {"why": "done", "status": -9, "lines": ["| memory breakdown [MiB] |", row]}
        )


@pytest.fixture
def driver() -> Driver:
    return Driver()


@asynccontextmanager
async def opened(driver: Driver, path: Path) -> AsyncIterator[Placing]:
    async def program(engine: str | None = None, /) -> LlamaProgram:
        version = driver.versions.get(engine, driver.version)
        return LlamaProgram(Path("/llama"), version, FLAGS, 5.0)

    devices = EngineDevices(driver, lambda: None)
    async with placing_launchers.opened(
        driver, devices, lambda _: FileFacts(), program=program, overheads=path
    ) as made:
        yield made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / NAME


@pytest.fixture
async def placing(driver: Driver, path: Path) -> AsyncIterator[Placing]:
    async with opened(driver, path) as made:
        yield made


def spec(name: str, port: int) -> ServerSpec:
    return ServerSpec(name, 0, port, "127.0.0.1", f"/{name}.gguf", ctx_size=512)


async def begun(driver: Driver, placing: Placing, port: int, engine: str | None = None) -> int:
    """Starts a server; returns the MiB that were counted for it."""
    wanted = replace(spec(f"m{port}", port), engine=engine)
    placement = await placing.place(wanted)
    await driver.start(wanted, placement)
    placing.release(port)
    assert placement is not None
    return placement.devices[0].need // MIB


async def ready(driver: Driver, port: int) -> None:
    listings = driver.listings
    driver.show(port, ServerState.READY)
    await driver.wait_for(lambda: driver.listings > listings)
    await measured()
    await all_quiet()


async def measured() -> None:
    """Waits for what is measured and kept: a later list, and threads, are no turns of the loop."""
    names = [f"{Overheads.__name__}.{name}" for name in ("_open", "_measure")]
    tasks = [
        one for one in asyncio.all_tasks() if getattr(one.get_coro(), "__qualname__", "") in names
    ]
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*tasks)


async def test_the_next_start_counts_it(driver: Driver, placing: Placing) -> None:
    assert await begun(driver, placing, 8080) == NEED + 3
    await ready(driver, 8080)
    assert await begun(driver, placing, 8081) == NEED + 3 + 297
    (room,) = placing.holders.capacity((await placing._devices.of(None).fresh(5.0)).gpus).devices
    assert room.overhead == 297 * MIB
    await ready(driver, 8081)
    driver.context = 900
    assert await begun(driver, placing, 8082) == NEED + 300, "the median of two low ones"


async def test_it_can_be_too_much(driver: Driver, placing: Placing) -> None:
    driver.others = 7000
    await placing._devices.refresh()
    await begun(driver, placing, 8080)
    await ready(driver, 8080)
    driver.others = TOTAL - 2 * (NEED + driver.context) + 50
    await placing._devices.refresh()
    with pytest.raises(DoesNotFit, match=r"it needs 1\.3 GiB"):
        await placing.place(spec("m", 8081))


async def test_a_start_that_was_disturbed_says_nothing(driver: Driver, placing: Placing) -> None:
    await begun(driver, placing, 8080)
    await begun(driver, placing, 8081)
    await ready(driver, 8080)
    await ready(driver, 8081)
    assert await begun(driver, placing, 8082) == NEED + 3
    driver.show(8082, ServerState.FAILED)
    await all_quiet()
    assert await begun(driver, placing, 8083) == NEED + 3


async def test_a_start_beside_one_that_loads_says_nothing(driver: Driver, placing: Placing) -> None:
    """What the other one allocates meanwhile changes no state of it."""
    driver.adopt(spec("other", 8070), ServerState.LOADING)
    await begun(driver, placing, 8080)
    driver.others = 200
    await ready(driver, 8080)
    assert await begun(driver, placing, 8081) == NEED + 3


async def test_one_that_loaded_before_magid_began_counts_as_loading(
    driver: Driver, path: Path
) -> None:
    driver.adopt(spec("other", 8070), ServerState.LOADING)
    async with opened(driver, path) as placing:
        await begun(driver, placing, 8080)
        driver.others = 200
        await ready(driver, 8080)
        assert await begun(driver, placing, 8081) == NEED + 3


async def test_two_servers_that_are_ready_at_once_are_not_measured(
    driver: Driver, placing: Placing, caplog: pytest.LogCaptureFixture
) -> None:
    await begun(driver, placing, 8080)
    driver.show(8080, ServerState.READY)
    driver.adopt(spec("other", 8081), ServerState.READY)
    await all_quiet()
    gc.collect()  # an error that no task has reported is logged now
    assert not caplog.records
    assert await begun(driver, placing, 8082) == NEED + 3


async def test_what_another_program_took_is_not_learned(driver: Driver, placing: Placing) -> None:
    await begun(driver, placing, 8080)
    driver.others = 3000
    await ready(driver, 8080)
    assert await begun(driver, placing, 8081) == NEED + 3


async def test_a_start_by_another_way_is_not_measured(driver: Driver, placing: Placing) -> None:
    """A server that a person has put onto the processor in part."""
    partial = replace(spec("m", 8080), n_gpu_layers=3)
    placement = await placing.place(partial)
    assert placement is not None
    assert placement.extent == "own"
    await driver.start(partial, placement)
    placing.release(8080)
    await ready(driver, 8080)
    assert await begun(driver, placing, 8081) == NEED + 3


async def test_it_outlives_magid(driver: Driver, path: Path) -> None:
    async with opened(driver, path) as before:
        await begun(driver, before, 8080)
        await ready(driver, 8080)
    async with opened(driver, path) as after:
        assert await begun(driver, after, 8081) == NEED + 3 + 297


async def test_another_llama_server_begins_at_zero(driver: Driver, path: Path) -> None:
    """Whether magid was restarted meanwhile or not."""
    async with opened(driver, path) as before:
        await begun(driver, before, 8080)
        await ready(driver, 8080)
        driver.version = "2"
        assert await begun(driver, before, 8081) == NEED + 3
    other = Driver()
    other.version, other.context = "2", 100
    async with opened(other, path) as after:
        assert await begun(other, after, 8080) == NEED + 3
        await ready(other, 8080)
        assert await begun(other, after, 8081) == NEED + 100, "and it learns"


KEPT = {"default": KeptOverheads(OverheadVersions("1", 5.0, "a driver"), {"CUDA": (1, 2)})}


async def test_each_engine_has_its_own(driver: Driver, path: Path) -> None:
    """Also in the file: a new llama-server of one engine leaves the figures of another alone."""
    driver.versions = {"other": "7"}
    async with opened(driver, path) as before:
        await begun(driver, before, 8080, "other")
        await ready(driver, 8080)
        assert await begun(driver, before, 8081) == NEED + 3, "nothing is known of this engine"
        await ready(driver, 8081)
        driver.context = 400
        assert await begun(driver, before, 8082, "other") == NEED + 300
    driver.version = "2"
    async with opened(driver, path) as after:
        assert await begun(driver, after, 8083, "other") == NEED + 300
        assert await begun(driver, after, 8084) == NEED + 3
    assert read_overheads(path).keys() == {"other", "default"}


def test_what_is_written_is_read(path: Path) -> None:
    write_overheads(path, KEPT)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_overheads(path) == KEPT
    many = {f"e{number}": KEPT["default"] for number in range(70)}
    write_overheads(path, many)
    assert list(read_overheads(path)) == [f"e{number}" for number in range(6, 70)]


def damaged(**changes: object) -> bytes:
    engine = {
        "versions": {"llama_server": "1", "changed_at": 5.0, "drivers": "a driver"},
        "seen": {"CUDA": [1, 2]},
    }
    schema = changes.pop("schema", 2)
    return json.dumps({"schema": schema, "engines": {"default": engine | changes}}).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        damaged()[:-1],
        damaged(schema=1),
        b'{"schema": 2, "engines": []}',
        damaged(seen={"CUDA": []}),
        damaged(seen={"CUDA": [-1]}),
        damaged(seen={"CUDA": [MOST + 1]}),
        damaged(seen={"CUDA": ["1"]}),
        damaged(seen={f"CUDA{number}": [1] for number in range(33)}),
        damaged(versions=[]),
        damaged() + b" " * 270_000,
        b"[" * 60_000,
        b"\xff\xfe",
    ],
)
def test_a_bad_file_counts_as_none(path: Path, content: bytes) -> None:
    path.write_bytes(damaged())
    assert read_overheads(path) == KEPT
    path.write_bytes(content)
    assert read_overheads(path) == {}


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to(path)])
async def test_what_is_no_file_holds_nothing(
    driver: Driver, path: Path, make: Callable[[Path], None]
) -> None:
    make(path)
    async with opened(driver, path) as placing:
        assert await begun(driver, placing, 8080) == NEED + 3
        await ready(driver, 8080)
        assert await begun(driver, placing, 8081) == NEED + 3 + 297


async def test_a_folder_that_is_missing(driver: Driver, tmp_path: Path) -> None:
    async with opened(driver, tmp_path / "missing" / NAME) as placing:
        await begun(driver, placing, 8080)
        await ready(driver, 8080)
        assert await begun(driver, placing, 8081) == NEED + 3 + 297
