"""Memory is predicted before anybody asks, once for each server that is wanted."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from magid.control.daemon import Daemon
from magid.errors import Busy
from magid.llama.program import LlamaProgram
from tests.support.daemons import ONLY_FAST, SIZES, House
from tests.support.recording_backend import StillLauncher, all_quiet

FLAGS = frozenset({"--fit", "-lv", "--device", "--ctx-size", "--n-gpu-layers", "--parallel"})
GPU = "Available devices:\n  CUDA0: card (8192 MiB, 8000 MiB free)\n"
TABLE = (
    '{"why": "done", "status": -9, "lines": ["| memory breakdown [MiB] |", '
    '"|   - CUDA0 (card) | 9 = 9 + (6 = 1 + 2 + 3) + 0 |"]}\n'
)


async def program(_engine: str | None = None, /) -> LlamaProgram:
    return LlamaProgram(Path("/llama"), "1", FLAGS, 5.0)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    launcher = StillLauncher(prompt=True)
    launcher.devices, launcher.memory = GPU, TABLE
    found = House(tmp_path, launcher, program=program)
    yield found
    await found.close()


def asked(daemon: Daemon, launcher: StillLauncher) -> bool:
    wanted = {spec.model_id for spec in daemon.snapshot.wanted.specs}
    return {spec.model_id for spec in launcher.predicted} == wanted


async def test_each_wanted_server_once(house: House) -> None:
    launcher = house.launcher
    daemon = await house.running()
    await launcher.wait_for(lambda: asked(daemon, launcher))
    await all_quiet()
    count = len(launcher.predicted)
    assert count == len(SIZES), "the same prediction serves its start"
    first = next(iter(daemon.snapshot.models))
    await daemon.set_settings(first, {"parallel": 3})
    await launcher.wait_for(lambda: len(launcher.predicted) > count)
    assert launcher.predicted[-1].model_id == first


async def test_one_that_is_put_off_is_made_after_the_next_change(house: House) -> None:
    launcher = house.launcher
    launcher.memory = Busy("cannot predict it now: a start waits")
    daemon = await house.running()
    await launcher.wait_for(lambda: asked(daemon, launcher))
    await all_quiet()
    launcher.memory = TABLE
    launcher.predicted.clear()
    await daemon.set_settings(next(iter(daemon.snapshot.models)), {"parallel": 3})
    await launcher.wait_for(lambda: asked(daemon, launcher))


async def test_none_without_a_gpu(house: House) -> None:
    """Of what surely fits into the memory of the machine, however little others leave of it."""
    house.launcher.devices = "Available devices:\n  (none)\n"
    house.write_profile("test", ONLY_FAST)
    await house.running()
    await all_quiet()
    assert house.launcher.predicted == []
