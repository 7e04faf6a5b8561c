"""How places are decided for starts: what is asked, what is reserved, and what is said."""

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
from magid.discovery.model_shape import ModelShape
from magid.errors import Busy, DeviceMissing, DoesNotFit, LlamaServerMissing
from magid.gpus.eviction import Evictable, Stopping, Waiting
from magid.host.usage import ServerFigures
from magid.llama.placement import Placement
from magid.llama.program import LlamaProgram
from magid.llama.spec import ServerSpec
from magid.servers.backend import ServerState
from tests.support.recording_backend import StillLauncher, all_quiet
from tests.support.values import UUIDS

MIB = 1 << 20
FLAGS = frozenset(
    {"--fit", "-lv", "--device", "--ctx-size", "--n-gpu-layers", "--tensor-split"}
    | {"--no-mmap", "--mlock", "--load-mode"}
)
PROGRAM = LlamaProgram(Path("/llama"), "1", FLAGS, 5.0)
SIZES = {"small": 1, "large": 9}


class GpuLauncher(StillLauncher):
    """Two GPUs of 1000 MiB. A model needs as many MiB as its context has tokens, 50 more at most.

    What is free follows what runs, as a driver would say.
    """

    def __init__(self) -> None:
        super().__init__(prompt=True)
        self.late: dict[str, int] = {}  # MiB that the driver has not given back
        self.others: dict[str, int] = {}
        self.ids: dict[str, str] = {}  # UUIDs

    async def list_devices(self, engine: str | None = None) -> str:
        self.listings += 1
        self._wake()
        lines = []
        told = "ggml_cuda_init: found 2 CUDA devices:\n" if self.ids else ""
        for name, known in self.ids.items():
            told += f"  Device {name[4:]}: card, compute capability 9.0, VMM: yes, ID: {known}\n"
        for name in ("CUDA0", "CUDA1"):
            used = self.late.get(name, 0) + self.others.get(name, 0)
            for server in self.observed().values():
                if server.placement is not None and server.state is ServerState.READY:
                    used += sum(d.need // MIB for d in server.placement.devices if d.name == name)
            lines.append(f"  {name}: card (1000 MiB, {max(0, 1000 - used)} MiB free)\n")
        return f"{told}Available devices:\n{''.join(lines)}"

    async def predict_memory(self, spec: ServerSpec, placement: Placement | None = None) -> str:
        self.predicted.append(spec)
        self.questions.append(placement)
        self._wake()
        await self._while_held("predict", 0)
        if isinstance(self.memory, Exception):
            raise self.memory
        need = spec.ctx_size or 0
        on = [device.name for device in placement.devices] if placement else ["CUDA0"]
        each = need // len(on) + 600 * (len(on) - 1)  # a split does not pay
        rows = [f"|   - {name} (card) | 9 = 9 + ({each} = {each} + 0 + 0) + 0 |" for name in on]
        lines = ["| memory breakdown [MiB] |", *rows, "|   - Host | 1 = 1 + 0 + 0 |"]
        return json.dumps({"why": "done", "status": -9, "lines": lines})


def spec(name: str, need: int, port: int = 8080, **more: object) -> ServerSpec:
    made = ServerSpec(name, 0, port, "127.0.0.1", f"/{name}.gguf", ctx_size=need)
    return replace(made, **more)  # type: ignore[arg-type]  # a table of test values


@pytest.fixture
def launcher() -> GpuLauncher:
    return GpuLauncher()


@pytest.fixture
def devices(launcher: GpuLauncher) -> EngineDevices:
    return EngineDevices(launcher, lambda: None)


@pytest.fixture
async def placing(launcher: GpuLauncher, devices: EngineDevices) -> AsyncIterator[Placing]:
    async def program(_engine: str | None = None, /) -> LlamaProgram:
        return PROGRAM

    made = Placing(
        Config(gpu_reserve=0), launcher, devices, Predictions(launcher), program,
        lambda model_id: FileFacts(None, SIZES.get(model_id, 5)),
    )  # fmt: skip
    made.open()
    devices.open()
    yield made
    await made.close()
    await devices.close()


async def started(launcher: StillLauncher, placing: Placing, wanted: ServerSpec) -> str:
    """Starts it as the executor does; returns the names of its devices."""
    placement = await placing.place(wanted)
    await launcher.start(wanted, placement)
    placing.release(wanted.port)
    return names(placement) if placement is not None else ""


def names(placement: Placement | None) -> str:
    assert placement is not None
    return ",".join(device.name for device in placement.devices)


async def test_what_is_decided_counts_before_the_server_is_there(placing: Placing) -> None:
    assert names(await placing.place(spec("a", 600))) == "CUDA0"
    assert names(await placing.place(spec("b", 600, 8081))) == "CUDA1"
    with pytest.raises(DoesNotFit, match=r"a 603\.0 MiB\); CUDA1 has room"):
        await placing.place(spec("c", 600, 8082))
    assert placing.refused[8082][0] == spec("c", 600, 8082).hash
    placing.release(8080)
    assert names(await placing.place(spec("c", 600, 8082))) == "CUDA0"
    assert 8082 not in placing.refused


async def test_a_place_is_decided_once(launcher: GpuLauncher, placing: Placing) -> None:
    first = await placing.place(spec("a", 600))
    assert await placing.place(spec("a", 600)) is first
    assert len(launcher.predicted) == 1


async def test_of_those_that_wait_the_largest_comes_first(placing: Placing) -> None:
    found = await asyncio.gather(
        placing.place(spec("small", 500)), placing.place(spec("large", 900, 8081))
    )
    assert [names(one) for one in found] == ["CUDA1", "CUDA0"]


async def test_one_that_must_go_somewhere_comes_before_the_largest(placing: Placing) -> None:
    found = await asyncio.gather(
        placing.place(spec("large", 900)), placing.place(spec("small", 500, 8081, device="CUDA0"))
    )
    assert [names(one) for one in found] == ["CUDA1", "CUDA0"]


async def test_without_a_prediction_llama_server_chooses(
    launcher: GpuLauncher, placing: Placing
) -> None:
    launcher.memory = LlamaServerMissing("cannot find it")
    assert await placing.place(spec("a", 600)) is None
    decision = await placing.decided(spec("a", 600))
    assert (decision.answer, decision.problem) == (None, "cannot find it")


async def test_a_device_that_is_gone(placing: Placing) -> None:
    with pytest.raises(DeviceMissing, match="names CUDA7, and this machine has CUDA0, CUDA1"):
        await placing.place(spec("a", 600, device="CUDA7"))


async def test_an_id_where_llama_server_chooses(
    launcher: GpuLauncher, placing: Placing, devices: EngineDevices
) -> None:
    launcher.ids = {"CUDA1": UUIDS[0]}
    await devices.refresh()
    own = spec("a", 600, device=UUIDS[0], extra_args=("--tensor-split", "1"))
    placed = await placing.place(own)
    assert placed is not None
    assert [(one.name, one.id, one.need // MIB) for one in placed.devices] == [
        ("CUDA1", UUIDS[0], 603)
    ]
    assert placed.device_option == "CUDA0"
    assert [one and one.device_option for one in launcher.questions] == ["CUDA0"]
    placing.release(own.port)
    launcher.memory = LlamaServerMissing("cannot find it")
    placed = await placing.place(replace(own, ctx_size=700))
    assert placed is not None
    assert (placed.source, placed.devices[0].need, placed.device_option) == ("unknown", 0, "CUDA0")
    for memory in (launcher.memory, "it predicts"):
        launcher.memory = memory
        with pytest.raises(DeviceMissing, match="is not the id of exactly one GPU"):
            await placing.place(replace(own, device="0000:01:00.0", ctx_size=800))


async def test_a_start_is_not_refused_because_others_ask(
    launcher: GpuLauncher, placing: Placing
) -> None:
    """Anybody who may read can ask for the memory of any context."""
    launcher.hold("predict", 0)
    asked = [asyncio.create_task(placing.decided(spec("a", need, 8081))) for need in range(1, 20)]
    await launcher.wait_for(lambda: bool(launcher.predicted))
    await all_quiet()
    waits = asyncio.create_task(placing.place(spec("b", 600)))
    await all_quiet()
    launcher.release("predict", 0)
    assert names(await waits) == "CUDA0"
    refused = [one for one in await asyncio.gather(*asked, return_exceptions=True)
               if isinstance(one, Busy)]  # fmt: skip
    assert refused, "the test asks for too little"


async def test_a_start_that_is_called_off_leaves_nothing(
    launcher: GpuLauncher, placing: Placing
) -> None:
    launcher.hold("predict", 0)
    waits = asyncio.create_task(placing.place(spec("a", 600)))
    await launcher.wait_for(lambda: bool(launcher.predicted))
    waits.cancel()
    await asyncio.gather(waits, return_exceptions=True)
    launcher.release("predict", 0)
    assert names(await placing.place(spec("b", 600, 8081))) == "CUDA0"
    assert [one.model_id for one in placing.holders.all()] == ["b"]


async def test_memory_that_comes_back_late_is_waited_for(
    launcher: GpuLauncher, placing: Placing
) -> None:
    assert await started(launcher, placing, spec("a", 900, device="CUDA0")) == "CUDA0"
    await all_quiet()
    launcher.late = {"CUDA0": 900}
    await launcher.stop(8080)
    waits = asyncio.create_task(placing.place(spec("b", 950, 8081, device="CUDA0")))
    before = launcher.listings
    await launcher.wait_for(lambda: waits.done() or launcher.listings > before + 1)
    assert not waits.done()
    launcher.late = {}
    assert names(await waits) == "CUDA0"


async def test_room_for_one_on_demand(launcher: GpuLauncher, placing: Placing) -> None:
    for at, name in enumerate("abc"):
        await started(launcher, placing, spec(name, 480, 8080 + at))
    wanted = spec("d", 700, 8090)
    idle = [Evictable(name, "idle") for name in "cab"]
    found = await placing.room_for(wanted, idle)
    assert isinstance(found, Stopping)
    assert found.model_ids == ("c",)
    busy = await placing.room_for(wanted, [Evictable("c", "busy"), Evictable("a", "idle")])
    assert isinstance(busy, Waiting)
    assert busy.model_ids == ("c",)
    with pytest.raises(DoesNotFit):
        await placing.room_for(spec("e", 5000, 8091), idle)
    await launcher.stop(8082)
    free = await placing.room_for(wanted, idle)
    assert isinstance(free, Stopping)
    assert free.model_ids == ()
    assert await placing.place(wanted) == free.placement, "it was reserved"
    placing.drop("d")
    assert not [one for one in placing.holders.all() if one.model_id == "d"]


# -- without GPUs ------------------------------------------------------------------------------


GIB = 1 << 30
SHAPE = ModelShape(weights=2 * GIB, keys=32_768, values=32_768, width=1024, vocabulary=32_000)


class PlainLauncher(StillLauncher):
    """No GPU. The prediction holds a KiB for each token of the context, and `repacked` GiB more.

    A server holds what its place was predicted to need.
    """

    has_model_users = True
    repacked = 0.0

    async def predict_memory(self, spec: ServerSpec, placement: Placement | None = None) -> str:
        self.predicted.append(spec)
        asked = placement.ctx_size if placement and placement.ctx_size else spec.ctx_size
        context = (asked or 2**24) // 1024
        rows = [f"|   - Host | {2048 + context} = 2048 + {context} + 0 |"]
        if self.repacked:
            held = int(self.repacked * 1024)
            rows.append(f"|   - CPU_REPACK | {held} = {held} + 0 + 0 |")
        lines = ["| memory breakdown [MiB] |", *rows]
        return json.dumps({"why": "done", "status": -9, "lines": lines})

    async def figures(self) -> dict[int, ServerFigures]:
        return {port: ServerFigures(held_bytes=GIB) for port in self.observed()}


class Machine:
    """A machine of 16 GiB. `free` is what is available now, in GiB."""

    free = 16.0

    def __call__(self) -> dict[str, int]:
        return {"total": 16 * GIB, "available": int(self.free * GIB)}


@pytest.fixture
def plain() -> PlainLauncher:
    return PlainLauncher(prompt=True)


@pytest.fixture
def memory() -> Machine:
    return Machine()


@pytest.fixture
async def host(plain: PlainLauncher, memory: Machine) -> AsyncIterator[Placing]:
    async def program(_engine: str | None = None, /) -> LlamaProgram:
        return PROGRAM

    devices = EngineDevices(plain, lambda: None)
    made = Placing(
        Config(), plain, devices, Predictions(plain), program,
        lambda model_id: FileFacts(2**24, 2 * GIB, SHAPE), memory,
    )  # fmt: skip
    made.open()
    devices.open()
    yield made
    await made.close()
    await devices.close()


async def test_what_surely_fits_is_not_predicted(plain: PlainLauncher, host: Placing) -> None:
    assert await started(plain, host, spec("a", 4096)) == ""
    assert plain.predicted == []
    assert plain.observed()[8080].placement is None, "its arguments are the same as before"


async def test_weights_that_the_kernel_may_drop_do_not_count(
    plain: PlainLauncher, host: Placing, memory: Machine
) -> None:
    """2 GiB of weights beside 1.5 GiB of room: the kernel reads them again and again."""
    memory.free = 2.5
    assert await host.place(spec("a", 4096)) is None
    assert len(plain.predicted) == 1
    decision = await host.decided(spec("a", 4096))
    assert isinstance(decision.answer, Placement)
    assert decision.answer.host == 4 << 20


async def test_a_copy_of_the_weights_has_to_fit(
    plain: PlainLauncher, host: Placing, memory: Machine
) -> None:
    memory.free, plain.repacked = 2.5, 2.0
    with pytest.raises(DoesNotFit) as caught:
        await host.place(spec("a", 4096))
    assert caught.value.message == (
        "cannot start 'a': it needs 2.0 GiB of the machine's memory, which has room for 1.5 GiB; "
        "stop another model, or choose a smaller context (ctxSize)"
    )
    assert host.refused[8080][0] == spec("a", 4096).hash


@pytest.mark.parametrize("arguments", [("--no-mmap",), ("--mlock",), ("--load-mode", "dio")])
async def test_weights_that_are_no_pages_of_a_file_have_to_fit(
    plain: PlainLauncher, host: Placing, memory: Machine, arguments: tuple[str, ...]
) -> None:
    memory.free = 2.5
    with pytest.raises(DoesNotFit, match="needs 2\\.0 GiB"):
        await host.place(spec("a", 4096, extra_args=arguments))


async def test_a_context_that_is_not_set_is_what_fits(plain: PlainLauncher, host: Placing) -> None:
    """The model was trained for 16 M tokens, which would take 16 GiB."""
    placement = await host.place(replace(spec("a", 0), ctx_size=None))
    assert placement is not None
    assert (placement.ctx_size, placement.devices) == (32_768, ())
    assert placement.device_option is None


async def test_the_limit_of_the_server(plain: PlainLauncher, host: Placing) -> None:
    with pytest.raises(DoesNotFit, match=r"of which its memoryMax allows 2\.0 GiB"):
        await host.place(spec("a", 2**22, memory_max=2 * GIB))
    plain.has_model_users = False
    assert await host.place(spec("a", 2**22, memory_max=2 * GIB)) is None, "nothing enforces it"


async def test_one_that_loads_counts_with_what_it_will_still_take(
    plain: PlainLauncher, host: Placing, memory: Machine
) -> None:
    plain.prompt, memory.free = False, 8.0
    await started(plain, host, spec("a", 2**22))
    assert [one.placement.host for one in host.holders.all()] == [4 * GIB]
    with pytest.raises(DoesNotFit, match=r"room for 4\.0 GiB"):  # it holds 1 GiB of its 4
        await host.place(spec("b", 5 * 2**20, 8081))
    plain.show(8080, ServerState.READY)
    memory.free = 7.0
    assert await host.place(spec("b", 5 * 2**20, 8081)) is None


async def test_idle_servers_make_room(plain: PlainLauncher, host: Placing, memory: Machine) -> None:
    for at, name in enumerate("ab"):
        await started(plain, host, spec(name, 4096, 8080 + at))
    memory.free = 3.5
    wanted = spec("c", 3 * 2**20, 8090)
    found = await host.room_for(wanted, [Evictable("b", "idle"), Evictable("a", "idle")])
    assert isinstance(found, Stopping)
    assert found.model_ids == ("b",), "one of them is enough"
    busy = await host.room_for(wanted, [Evictable("b", "busy"), Evictable("a", "busy")])
    assert isinstance(busy, Waiting)
    with pytest.raises(DoesNotFit):
        await host.room_for(spec("d", 2**24, 8091), [Evictable("a", "idle")])
    await plain.stop(8081)
    memory.free = 4.5
    free = await host.room_for(wanted, [Evictable("a", "idle")])
    assert isinstance(free, Stopping)
    assert free.model_ids == ()
    assert await host.place(wanted) is None, "it was reserved, and no option is passed"


async def test_a_device_on_a_machine_without_any(host: Placing, plain: PlainLauncher) -> None:
    with pytest.raises(DeviceMissing, match="names CUDA0, and this machine has no GPU"):
        await host.place(spec("a", 4096, device="CUDA0"))
    plain.devices = "Available devices:\n  CUDA0: card (8192 MiB, 8000 MiB free)\n"
    plain.memory = LlamaServerMissing("cannot find it")
    found = await host.place(spec("a", 4096, device="CUDA0"))
    assert found is not None, "its driver was loaded since the last list"
