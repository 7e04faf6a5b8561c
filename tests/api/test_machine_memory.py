"""The memory that is shown is the one by which models are placed, not all of the machine's."""

import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from magid.api.context import Context
from magid.api.events import look
from magid.api.handlers.library import list_variants
from magid.api.handlers.servers import status
from magid.api.reply import Call
from magid.control.devices import DeviceList
from magid.control.resources import MachineResources
from magid.gateway.dispatcher import Dispatcher
from magid.library.downloads.owner import Downloads
from magid.library.downloads.starting import ChildDownloads
from magid.library.source import ModelSource
from magid.llama.program import LlamaProgram
from tests.support.daemons import House

GIB = 1 << 30
VARIANT = {"name": "Q8_0", "file": "a.gguf", "files": 1, "companions": [], "sizeBytes": 2 * GIB}


class OneVariant(ChildDownloads):
    """A hub that answers at once."""

    async def ask(self, question: str, source: ModelSource) -> str:
        return json.dumps({"commit": "c", "licence": "", "variants": [VARIANT]})


async def program(_engine: str | None = None, /) -> LlamaProgram:
    return LlamaProgram(Path("/opt/llama-server"), "1", frozenset())


def limited() -> Mapping[str, int]:
    """As in a control group with a limit."""
    return {"total": 2 * GIB, "available": GIB}


@pytest.fixture
async def context(tmp_path: Path) -> AsyncIterator[Context]:
    house = House(tmp_path, settings={"library_path": tmp_path / "models"})
    daemon = await house.running()
    daemon.gpus.machine = MachineResources(lambda: daemon.snapshot, DeviceList, limited)
    downloads = Downloads(daemon.config, OneVariant(daemon.config), daemon.rescan, lambda: "boot")
    yield Context(daemon, program, Dispatcher(daemon), house.tokens(), downloads)
    await downloads.close()
    await house.close()


async def test_status_and_events_show_it(context: Context) -> None:
    expected = {"totalBytes": 2 * GIB, "availableBytes": GIB}
    answer = json.loads((await status(context, Call())).body)
    assert answer["memory"] == expected
    assert (await look(context)).memory == expected


async def test_a_variant_that_is_larger_does_not_fit(context: Context) -> None:
    answer = json.loads((await list_variants(context, Call(query={"source": "org/Repo"}))).body)
    assert [row["fits"] for row in answer["variants"]] == ["no"]
