"""The condition of a machine whose GPU llama-server does not find."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from magid.api.context import Context
from magid.config.settings import Config
from magid.control.conditions import Code, Severity
from magid.control.devices import DeviceList
from magid.control.program_conditions import misses_gpu
from magid.gateway.dispatcher import Dispatcher
from magid.gpus.device import gpus_of
from magid.gpus.listing import devices_in
from magid.llama.program import LlamaProgram
from magid.llama.runtime_settings import RuntimeSettings
from tests.support.daemons import House

NVIDIA = frozenset({"10de"})
ONE = devices_in("Available devices:\n  CUDA0: NVIDIA H100 (81920 MiB, 81000 MiB free)\n") or ()
LISTED = DeviceList(listed_at=1.0)


async def program(_engine: str | None = None, /) -> LlamaProgram:
    return LlamaProgram(Path("/opt/llama-server"), "1", frozenset())


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    made = House(tmp_path)
    yield made
    await made.close()


@pytest.mark.parametrize("vendors", [NVIDIA, frozenset()])
async def test_the_status_says_so(house: House, vendors: frozenset[str]) -> None:
    daemon = await house.running()
    await daemon.gpus.devices.refresh()
    ctx = Context(
        daemon,
        program,
        Dispatcher(daemon),
        house.tokens(),
        house.downloads(daemon),
        look_at_pci=lambda: vendors,
    )
    await ctx.look_for_program()
    found = [one for one in ctx.conditions() if one.code is Code.GPU_UNUSED]
    assert len(found) == len(vendors)
    for one in found:
        assert one.severity is Severity.WARNING
        assert one.message.startswith("this machine has a GPU of NVIDIA, and llama-server finds ")
        assert one.remedy


@pytest.mark.parametrize(
    ("devices", "defaults", "vendors", "misses"),
    [
        (LISTED, RuntimeSettings(), NVIDIA, True),
        (LISTED, RuntimeSettings(), frozenset({"1a03"}), False),  # a server's own console
        (LISTED, RuntimeSettings(n_gpu_layers=0), NVIDIA, False),
        (LISTED, RuntimeSettings(device="none"), NVIDIA, False),
        (DeviceList(), RuntimeSettings(), NVIDIA, False),
        (replace(LISTED, problem="cannot list"), RuntimeSettings(), NVIDIA, False),
        (replace(LISTED, gpus=gpus_of(ONE)), RuntimeSettings(), NVIDIA, False),
    ],
)
def test_when_a_gpu_is_missed(
    devices: DeviceList, defaults: RuntimeSettings, vendors: frozenset[str], misses: bool
) -> None:
    assert misses_gpu(devices, vendors, Config(server_defaults=defaults)) is misses
