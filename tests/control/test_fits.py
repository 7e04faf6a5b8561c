"""Whether models fit is known for all of them, and asks llama-server for nothing."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from magid.control.daemon import Daemon
from magid.control.fits import LOADING_S, SETTLE_S, ModelFit, pause_s
from magid.gpus.fitting import Fits
from magid.llama.program import LlamaProgram
from magid.servers.backend import ServerState
from tests.support.daemons import ALPHA, BETA, ONLY_FAST, House, until
from tests.support.recording_backend import StillLauncher, all_quiet
from tests.support.values import observed, spec

MIB = 1 << 20
FLAGS = frozenset({"--fit", "-lv", "--device", "--ctx-size", "--n-gpu-layers", "--parallel"})
GPU = "Available devices:\n  CUDA0: card (8192 MiB, 8000 MiB free)\n"


def table(need: int) -> str:
    rows = [
        f"|   - CUDA0 (card) | 9 = 9 + (6 = {need} + 2 + 3) + 0 |",
        "|   - Host | 5 = 5 + 0 + 0 |",
    ]
    return json.dumps({"why": "done", "status": -9, "lines": ["| memory breakdown [MiB] |", *rows]})


async def program(_engine: str | None = None, /) -> LlamaProgram:
    return LlamaProgram(Path("/llama"), "1", FLAGS, 5.0)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    launcher = StillLauncher(prompt=True)
    launcher.devices, launcher.memory = GPU, table(1000)
    found = House(tmp_path, launcher, program=program)
    found.write_profile("test", ONLY_FAST)
    yield found
    await found.close()


def is_known(daemon: Daemon, model_id: str) -> bool:
    return daemon.gpus.fits.of(model_id).source == "predicted"


async def test_what_is_predicted_already(house: House) -> None:
    daemon = await house.running()
    await until(daemon, lambda: "runs with" in daemon.gpus.fits.of(ALPHA).why)
    count = len(house.launcher.predicted)
    assert daemon.gpus.fits.of(ALPHA) == ModelFit(
        Fits.YES, "a server of it runs with these settings on CUDA0",
        1005 * MIB, 5 * MIB, "predicted",
    )  # fmt: skip
    await daemon.stop(ALPHA)
    await until(daemon, lambda: "would start" in daemon.gpus.fits.of(ALPHA).why)
    assert daemon.gpus.fits.of(BETA).source == "estimated"
    assert await daemon.gpus.fits.now(daemon.model(BETA)) == daemon.gpus.fits.of(BETA)
    assert len(house.launcher.predicted) == count, "nothing was asked for it"


async def test_it_follows_the_settings_and_the_gpus(house: House) -> None:
    daemon = await house.running()
    await until(daemon, lambda: is_known(daemon, ALPHA))
    await daemon.stop(ALPHA)
    await until(daemon, lambda: "would start" in daemon.gpus.fits.of(ALPHA).why)
    house.launcher.devices = GPU.replace("8000", "1500")
    before = daemon.gpus.fits.revision
    await daemon.gpus.devices.refresh()
    await until(daemon, lambda: daemon.gpus.fits.of(ALPHA).fits is Fits.NO)
    assert daemon.gpus.fits.of(ALPHA).why.startswith("it needs 1008.0 MiB; CUDA0 has room for 476")
    assert daemon.gpus.fits.revision > before, "answers that were made before are out of date"
    await daemon.set_settings(ALPHA, {"offload": "cpu", "device": "none"})
    await until(daemon, lambda: daemon.gpus.fits.of(ALPHA).fits is Fits.YES)


async def test_without_llama_server(tmp_path: Path) -> None:
    house = House(tmp_path)
    try:
        daemon = await house.running()
        await until(daemon, lambda: "cannot find" in daemon.gpus.fits.of(ALPHA).why)
        found = await daemon.gpus.fits.now(daemon.model(ALPHA))
        assert found == ModelFit(Fits.UNKNOWN, "cannot find llama-server")
    finally:
        await house.close()


async def test_a_machine_whose_gpus_are_not_listed_yet(house: House) -> None:
    house.launcher.hold("devices", 0)
    daemon = house.daemon()
    await daemon.open()
    await until(daemon, lambda: bool(daemon.snapshot.models))
    await all_quiet()
    found = await daemon.gpus.fits.now(daemon.model(BETA))
    assert found == ModelFit(Fits.UNKNOWN, "the GPUs are not listed yet")
    house.launcher.release("devices", 0)


async def test_one_that_cannot_be_predicted(house: House) -> None:
    """It runs where llama-server has put it; why is said then, and when it is stopped."""
    house.launcher.memory = "error: cannot load this file"
    daemon = await house.running()
    why = "cannot predict the memory: error: cannot load this file"
    runs = f"a server of it runs with these settings, where llama-server has put it: {why}"
    await until(daemon, lambda: daemon.gpus.fits.of(ALPHA).why == runs)
    await daemon.set_settings(ALPHA, {"device": "CUDA0"})  # the header alone says no more then
    await daemon.restart(ALPHA)
    await until(daemon, lambda: daemon.gpus.fits.of(ALPHA).why == runs)
    await daemon.stop(ALPHA)
    await until(daemon, lambda: daemon.gpus.fits.of(ALPHA).why.startswith(why))
    assert daemon.gpus.fits.of(ALPHA).fits is Fits.UNKNOWN


@pytest.mark.parametrize("state", list(ServerState))
def test_loads_are_disturbed_less(state: ServerState) -> None:
    loads = state in (ServerState.STARTING, ServerState.LOADING)
    servers = [observed(spec(), ServerState.READY), observed(spec(port=8081), state)]
    assert pause_s(servers) == (LOADING_S if loads else SETTLE_S)
