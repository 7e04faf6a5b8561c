"""What a driver takes beside a prediction is learned from starts that nothing disturbed."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from magid.config.settings import Config
from magid.control.engine_devices import EngineDevices
from magid.control.placing import Placing
from magid.control.predictions import Predictions
from magid.control.wishes import FileFacts
from magid.errors import DoesNotFit
from magid.llama.placement import Placement
from magid.llama.program import LlamaProgram
from magid.llama.spec import ServerSpec
from magid.servers.backend import ServerState
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

    async def list_devices(self, engine: str | None = None) -> str:
        self.listings += 1
        ready = [s for s in self.observed().values() if s.state is ServerState.READY]
        free = TOTAL - self.others - len(ready) * (NEED + self.context)
        self._wake()
        return f"Available devices:\n  CUDA0: card ({TOTAL} MiB, {free} MiB free)\n"

    async def predict_memory(self, spec: ServerSpec, placement: Placement | None = None) -> str:
        row = f"|   - CUDA0 (card) | 9 = 9 + ({NEED} = {NEED} + 0 + 0) + 0 |"
        return json.dumps(
            {"why": "done", "status": -9, "lines": ["| memory breakdown [MiB] |", row]}
        )


@pytest.fixture
def driver() -> Driver:
    return Driver()


@pytest.fixture
async def placing(driver: Driver) -> AsyncIterator[Placing]:
    async def program(_engine: str | None = None, /) -> LlamaProgram:
        return LlamaProgram(Path("/llama"), "1", FLAGS, 5.0)

    devices = EngineDevices(driver, lambda: None)
    made = Placing(
        Config(gpu_reserve=0), driver, devices, Predictions(driver), program,
        lambda model_id: FileFacts(),
    )  # fmt: skip
    made.open()
    devices.open()
    yield made
    await made.close()
    await devices.close()


def spec(name: str, port: int) -> ServerSpec:
    return ServerSpec(name, 0, port, "127.0.0.1", f"/{name}.gguf", ctx_size=512)


async def begun(driver: Driver, placing: Placing, port: int) -> int:
    """Starts a server; returns the MiB that were counted for it."""
    wanted = spec(f"m{port}", port)
    placement = await placing.place(wanted)
    await driver.start(wanted, placement)
    placing.release(port)
    assert placement is not None
    return placement.devices[0].need // MIB


async def ready(driver: Driver, port: int) -> None:
    listings = driver.listings
    driver.show(port, ServerState.READY)
    await driver.wait_for(lambda: driver.listings > listings)
    await all_quiet()


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
