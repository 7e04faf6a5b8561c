"""GET .../memory, of a daemon in this process."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from magid.api.context import Context
from magid.api.handlers.gpus import get_memory
from magid.api.reply import Call
from magid.gateway.dispatcher import Dispatcher
from magid.llama.program import LlamaProgram
from tests.support.daemons import ALPHA, ONLY_FAST, House
from tests.support.recording_backend import StillLauncher

FLAGS = frozenset({"--fit", "-lv", "--device", "--ctx-size", "--n-gpu-layers", "--parallel"})
ROWS = ("| memory breakdown [MiB] |", "|   - CUDA0 (card) | 9 = 9 + (6 = 1 + 2 + 3) + 0 |")


async def program(_engine: str | None = None, /) -> LlamaProgram:
    return LlamaProgram(Path("/llama"), "1", FLAGS, 5.0)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    launcher = StillLauncher(prompt=True)
    launcher.devices = "Available devices:\n  CUDA0: card (8192 MiB, 8000 MiB free)\n"
    launcher.memory = json.dumps({"why": "done", "status": -9, "lines": ROWS})
    found = House(tmp_path, launcher, program=program)
    found.write_profile("test", ONLY_FAST)
    yield found
    await found.close()


async def test_it_goes_by_the_list_that_is_there(house: House) -> None:
    """llama-server is started neither for a prediction that is kept, nor for the GPUs."""
    daemon = await house.running()
    ctx = Context(daemon, program, Dispatcher(daemon), house.tokens(), house.downloads(daemon))
    call = Call(params={"modelId": ALPHA})
    await get_memory(ctx, call)
    before = house.launcher.listings, len(house.launcher.predicted)
    answer = json.loads((await get_memory(ctx, call)).body)
    assert (answer["source"], answer["fits"]) == ("predicted", "yes")
    assert (house.launcher.listings, len(house.launcher.predicted)) == before
