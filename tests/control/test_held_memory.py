"""Of which kinds the memory on GPUs is, found again among the predictions that are kept."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from magid.control.daemon import Daemon
from magid.control.held_memory import needs_in, questions
from magid.gpus.device import Device, Gpu
from magid.gpus.memory_table import DeviceNeed, Estimate, Need
from magid.gpus.placing import Question
from magid.llama.placement import PlacedDevice, Placement
from tests.control.test_fits import GPU, MIB, program, table
from tests.support.daemons import ALPHA, ONLY_FAST, House, until
from tests.support.recording_backend import StillLauncher

ONE = Placement((PlacedDevice("CUDA1", "GPU-1", 9),), 0, "all", pins_devices=True, ctx_size=8)
TWO = Placement(
    (PlacedDevice("CUDA0", "a", 9), PlacedDevice("CUDA1", "b", 9)), 0, "all", pins_devices=True,
    shares=(1, 2),
)  # fmt: skip


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    launcher = StillLauncher(prompt=True)
    launcher.devices, launcher.memory = GPU, table(1000)
    found = House(tmp_path, launcher, program=program)
    found.write_profile("test", ONLY_FAST)
    yield found
    await found.close()


def kinds(daemon: Daemon) -> list[tuple[int, int, int]]:
    server = next(one for one in daemon.observed().values() if one.model_id == ALPHA)
    held = daemon.gpus.held.of(server).values()
    return [(one.model // MIB, one.context // MIB, one.compute // MIB) for one in held]


async def test_a_running_server(house: House) -> None:
    daemon = await house.running()
    await until(daemon, lambda: kinds(daemon) == [(1000, 2, 3)])
    count = len(house.launcher.predicted)
    await daemon.set_settings(ALPHA, {"parallel": 3})  # what runs has its older settings
    await until(daemon, lambda: kinds(daemon) == [(1000, 2, 3)])
    assert len(house.launcher.predicted) == count, "nothing was asked for it"


async def test_it_is_found_again_after_a_restart(house: House) -> None:
    daemon = await house.running()
    await until(daemon, lambda: kinds(daemon) != [])
    await house.close()
    again = await house.running()
    await until(again, lambda: kinds(again) == [(1000, 2, 3)])


def test_what_may_have_been_predicted() -> None:
    gpus = [Gpu(Device(f"CUDA{at}", "CUDA", "card")) for at in (0, 1)]
    assert Question(("CUDA0",), 8) in set(questions(ONE, gpus))
    assert list(questions(TWO, gpus)) == [Question(("CUDA0", "CUDA1"), None, (1, 2))]
    own = Placement(ONE.devices, 0, "own")
    assert list(questions(own, gpus)) == [Question(is_own=True)]
    part = Placement(ONE.devices, 0, "part", pins_devices=True)
    assert list(questions(part, gpus)) == []


def test_needs_go_by_name_or_to_the_one_device() -> None:
    both = Estimate((DeviceNeed("CUDA0", "", Need(1, 2, 3)), DeviceNeed("CUDA1", "", Need(4))))
    assert needs_in(both, TWO) == {"a": Need(1, 2, 3), "b": Need(4)}
    other = Estimate((DeviceNeed("CUDA0", "", Need(1, 2, 3)),))
    assert needs_in(other, ONE) == {"GPU-1": Need(1, 2, 3)}
    assert needs_in(Estimate((DeviceNeed("CUDA1", "", Need(10)),)), ONE) == {}, "another prediction"
