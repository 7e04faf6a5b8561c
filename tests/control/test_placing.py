"""How places are decided for starts: what is asked, what is reserved, and what is said."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from magid.control.engine_devices import EngineDevices
from magid.control.placing import Placing
from magid.control.wishes import FileFacts
from magid.errors import Busy, DeviceMissing, DoesNotFit, LlamaServerMissing
from magid.gpus.eviction import Evictable, Stopping, Waiting
from magid.servers.backend import ServerState
from tests.support.deadlines import PATIENCE_S
from tests.support.placing_launchers import (
    MIB,
    GpuLauncher,
    names,
    opened,
    spec,
    started,
)
from tests.support.recording_backend import all_quiet
from tests.support.values import UUIDS

SIZES = {"small": 1, "large": 9}


@pytest.fixture
def launcher() -> GpuLauncher:
    return GpuLauncher()


@pytest.fixture
def devices(launcher: GpuLauncher) -> EngineDevices:
    return EngineDevices(launcher, lambda: None)


@pytest.fixture
async def placing(launcher: GpuLauncher, devices: EngineDevices) -> AsyncIterator[Placing]:
    async with opened(
        launcher, devices, lambda model_id: FileFacts(None, SIZES.get(model_id, 5))
    ) as made:
        yield made


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


async def test_an_engine_without_a_list_holds_up_no_other(
    launcher: GpuLauncher, placing: Placing
) -> None:
    launcher.silent = "slow"
    waits = asyncio.create_task(placing.place(spec("a", 600, engine="slow")))
    await all_quiet()
    async with asyncio.timeout(PATIENCE_S):
        assert names(await placing.place(spec("b", 600, 8081))) == "CUDA0"
    assert not waits.done()
    waits.cancel()


async def test_a_server_that_is_ready_counts_whole_until_a_list_knows_it(
    launcher: GpuLauncher, placing: Placing, devices: EngineDevices
) -> None:
    await started(launcher, placing, spec("a", 600, device="CUDA0"))
    loads = spec("b", 100, 8081, device="CUDA1")
    launcher.prompt = False
    await launcher.start(loads, await placing.place(loads))
    placing.release(8081)
    launcher.show(8081, ServerState.READY)
    settled = {one.port: one.is_settled for one in placing.holders.all()}
    assert settled == {8080: True, 8081: False}
    on_1 = placing.holders.capacity(devices.present.gpus).named("CUDA1")
    assert on_1 is not None
    assert on_1.room is not None
    assert on_1.room // MIB <= 1000 - 100
    await devices.refresh()
    assert all(one.is_settled for one in placing.holders.all())


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


async def test_memory_that_came_back_and_was_taken_by_others_is_not_waited_for(
    launcher: GpuLauncher, placing: Placing, devices: EngineDevices
) -> None:
    await started(launcher, placing, spec("a", 600, device="CUDA0"))
    await devices.refresh()
    await launcher.stop(8080)
    await devices.refresh()
    placing.on_list()
    launcher.others = {"CUDA0": 500}
    await devices.refresh()
    before = launcher.listings
    assert names(await placing.place(spec("b", 400, device="CUDA0"))) == "CUDA0"
    assert launcher.listings == before


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
