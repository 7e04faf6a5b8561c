"""Several engines: which are there, which GPUs each lists, and what one leaves to another."""

import asyncio
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
from tests.support.deadlines import PATIENCE_S
from tests.support.placing_launchers import roomy
from tests.support.recording_backend import StillLauncher

MIB = 1 << 20
FLAGS = frozenset({"--fit", "-lv", "--device", "--ctx-size", "--n-gpu-layers"})
UUID = "GPU-01234567-0123-0123-0123-0123456789ab"
LISTS = {
    None: f"ggml_cuda_init: found 1 CUDA devices:\n  Device 0: card, ID: {UUID}\n"
    "Available devices:\n  CUDA0: card (1000 MiB, 900 MiB free)\n",
    "vulkan": "Available devices:\n  Vulkan0: card (1000 MiB, 900 MiB free)\n",
    "cpu": "Available devices:\n",
}


class EngineLauncher(StillLauncher):
    """Each engine lists the one GPU by a name of its own, but for one that finds none."""

    def __init__(self) -> None:
        super().__init__(prompt=True)
        self.asked: list[str | None] = []
        self.silent: set[str | None] = set()
        self.lists = dict(LISTS)

    async def list_devices(self, engine: str | None = None) -> str:
        if engine in self.silent:
            await asyncio.Event().wait()
        self.asked.append(engine)
        return self.lists[engine]

    async def predict_memory(
        self, spec: ServerSpec, placement: Placement | None = None, *, for_start: bool = False
    ) -> str:
        self.predicted.append(spec)
        on = [device.name for device in placement.devices] if placement else []
        rows = [f"|   - {name} (card) | 9 = 9 + (600 = 600 + 0 + 0) + 0 |" for name in on]
        lines = ["| memory breakdown [MiB] |", *rows, "|   - Host | 1 = 1 + 0 + 0 |"]
        return json.dumps({"why": "done", "status": -9, "lines": lines})


@pytest.fixture
def launcher() -> EngineLauncher:
    return EngineLauncher()


@pytest.fixture
async def devices(launcher: EngineLauncher) -> AsyncIterator[EngineDevices]:
    made = EngineDevices(launcher, lambda: None)
    made.open()
    yield made
    await made.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.fixture
async def placing(
    launcher: EngineLauncher, devices: EngineDevices
) -> AsyncIterator[tuple[Placing, dict[str | None, int]]]:
    asked: dict[str | None, int] = {}

    async def program(engine: str | None = None, /) -> LlamaProgram:
        asked[engine] = asked.get(engine, 0) + 1
        return LlamaProgram(Path(f"/{engine}/llama-server"), "1", FLAGS, 5.0)

    made = Placing(
        Config(gpu_reserve=0), launcher, devices, Predictions(launcher), program,
        lambda _: FileFacts(None, 5), roomy,
    )  # fmt: skip
    made.open()
    yield made, asked
    await made.close()


def spec(name: str, port: int, engine: str | None) -> ServerSpec:
    made = ServerSpec(name, 0, port, "127.0.0.1", f"/{name}.gguf", ctx_size=600)
    return replace(made, engine=engine)


async def test_a_list_for_each_engine_in_use(
    launcher: EngineLauncher, devices: EngineDevices
) -> None:
    await devices.refresh()
    assert set(launcher.asked) == {None}
    devices.keep({"vulkan", "cpu"})
    listed = await devices.refresh()
    assert set(launcher.asked) == {None, "vulkan", "cpu"}
    assert [gpu.names for gpu in listed.gpus] == [("CUDA0", "Vulkan0")]
    (gpu,) = devices.of("vulkan").present.gpus
    assert (gpu.device.name, gpu.device.id) == ("Vulkan0", UUID)
    assert not devices.of("cpu").present.gpus
    assert devices.of("default") is devices.of(None)
    devices.keep(set())
    assert [gpu.names for gpu in (await devices.refresh()).gpus] == [("CUDA0",)]


async def test_a_model_goes_by_the_list_of_its_engine(
    launcher: EngineLauncher, placing: tuple[Placing, dict[str | None, int]]
) -> None:
    """And what another engine's server holds of the GPU is not there a second time."""
    made, asked = placing
    first = await made.place(spec("a", 8080, "vulkan"))
    assert first is not None
    assert first.device_option == "Vulkan0"
    assert asked.keys() - {None} == {"vulkan"}, "None is asked for what drivers take"
    launcher.silent = {"vulkan"}
    await launcher.start(spec("a", 8080, "vulkan"), first)
    made.release(8080)
    with pytest.raises(DoesNotFit, match=r"CUDA0 has room for 397\.0 MiB of 1000\.0 MiB \(a 603"):
        await made.place(spec("b", 8081, None))
    assert await made.place(spec("c", 8082, "cpu")) is None


async def test_memory_that_comes_back_is_looked_for_in_the_list_of_the_engine(
    launcher: EngineLauncher, placing: tuple[Placing, dict[str | None, int]]
) -> None:
    """One that gives no list holds up no start of another engine's model."""
    made, _ = placing
    await launcher.start(spec("a", 8080, "vulkan"), await made.place(spec("a", 8080, "vulkan")))
    made.release(8080)
    launcher.silent = {"vulkan"}
    launcher.lists[None] = launcher.lists[None].replace("900 MiB free", "1000 MiB free")
    await launcher.stop(8080)
    async with asyncio.timeout(PATIENCE_S):
        placement = await made.place(spec("b", 8081, None))
    assert placement is not None
    assert placement.device_option == "CUDA0"


async def test_a_prediction_is_kept_for_each_engine(
    launcher: EngineLauncher, placing: tuple[Placing, dict[str | None, int]]
) -> None:
    made, _ = placing
    for port, engine in enumerate((None, "vulkan", None, "vulkan"), 8080):
        await made.decided(replace(spec("a", port, engine), stamp="of the same file"))
    assert [one.engine for one in launcher.predicted] == [None, "vulkan"]
