"""How places are decided on a machine without GPUs, by its memory."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from magid.config.settings import Config
from magid.control.engine_devices import EngineDevices
from magid.control.holders import Holders
from magid.control.placing import Placing
from magid.control.planner import Wanted, plan
from magid.control.wishes import FileFacts
from magid.discovery.model_shape import ModelShape
from magid.errors import DeviceMissing, DoesNotFit, LlamaServerMissing
from magid.gpus.eviction import Evictable, Stopping, Waiting
from magid.gpus.placing import NoRoom
from magid.llama.placement import Placement
from magid.llama.spec import ServerSpec
from magid.servers.backend import ServerState
from tests.support.placing_launchers import GIB, MIB, PlainLauncher, opened, spec, started

SHAPE = ModelShape(weights=2 * GIB, keys=32_768, values=32_768, width=1024, vocabulary=32_000)


class Machine:
    """A machine of 16 GiB. `free` is what is available now, in GiB."""

    free = 16.0
    on_read: Callable[[], None] = staticmethod(lambda: None)  # called in a thread

    def __call__(self) -> dict[str, int]:
        self.on_read()
        return {"total": 16 * GIB, "available": int(self.free * GIB)}


@pytest.fixture
def plain() -> PlainLauncher:
    return PlainLauncher(prompt=True)


@pytest.fixture
def memory() -> Machine:
    return Machine()


@pytest.fixture
def devices(plain: PlainLauncher) -> EngineDevices:
    return EngineDevices(plain, lambda: None)


@pytest.fixture
async def host(
    plain: PlainLauncher, memory: Machine, devices: EngineDevices
) -> AsyncIterator[Placing]:
    facts = FileFacts(2**24, 2 * GIB, SHAPE)
    async with opened(plain, devices, lambda _: facts, config=Config(), machine=memory) as made:
        yield made


async def test_what_surely_fits_is_not_predicted(
    plain: PlainLauncher, host: Placing, memory: Machine
) -> None:
    memory.free = 80.0  # of which llama-server's own prompt cache is not too much
    assert await started(plain, host, spec("a", 4096)) == ""
    assert plain.predicted == []
    assert plain.observed()[8080].placement is None, "its arguments are the same as before"


async def test_weights_that_the_kernel_may_drop_do_not_count(
    plain: PlainLauncher, host: Placing, memory: Machine
) -> None:
    """2 GiB of weights beside 1.5 GiB of room: the kernel reads them again and again."""
    memory.free = 2.5
    bound = await host.place(spec("a", 4096))
    assert bound == Placement((), 132 * MIB, "own", source="unknown", cache_ram=128)
    assert len(plain.predicted) == 1
    decision = await host.decided(spec("a", 4096))
    assert isinstance(decision.answer, Placement)
    assert decision.answer.host == 132 * MIB


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
    await host.place(spec("a", 2**22, memory_max=2 * GIB))  # nothing enforces it


async def test_one_that_loads_counts_with_what_it_will_still_take(
    plain: PlainLauncher, host: Placing, memory: Machine
) -> None:
    plain.prompt, memory.free = False, 8.0
    await started(plain, host, spec("a", 2**22))
    assert [one.placement.host for one in host.holders.all()] == [4352 * MIB]
    with pytest.raises(DoesNotFit, match=r"room for 3\.8 GiB"):  # it holds 1 GiB of its 4
        await host.place(spec("b", 5 * 2**20, 8081))


async def test_one_that_is_ready_counts_with_what_its_first_long_prompt_will_take(
    plain: PlainLauncher, host: Placing, memory: Machine
) -> None:
    memory.free = 8.0
    await started(plain, host, spec("a", 2**22))
    memory.free = 7.0
    with pytest.raises(DoesNotFit, match=r"room for 2\.8 GiB"):
        await host.place(spec("b", 5 * 2**20, 8081))
    plain.takes = 5 * GIB  # all of it, and more
    await host.place(spec("b", 5 * 2**20, 8081))


async def counted(host: Placing, wanted: ServerSpec) -> Placement:
    answer = (await host.decided(wanted)).answer
    assert isinstance(answer, Placement)
    return answer


async def test_a_prompt_cache_gets_a_part_of_what_is_left(host: Placing, memory: Machine) -> None:
    """Of 16 GiB 1 stays free, and the weights may all be copied."""
    found = await counted(host, spec("a", 4096))
    assert found.cache_ram is not None
    assert 1024 < found.cache_ram < 15 * 1024 // 8
    memory.free = 1.05
    assert (await counted(host, spec("b", 4096, 8081))).cache_ram == 0


async def test_what_counts_of_a_prompt_cache_is_what_it_gets(
    plain: PlainLauncher, host: Placing, memory: Machine
) -> None:
    wanted = spec("a", 4096)
    decided = await counted(host, wanted)
    await started(plain, host, wanted)
    server = plain.observed()[8080]
    assert server.placement is not None
    assert (server.placement.cache_ram, server.place) == (decided.cache_ram, None)
    (holder,) = host.holders.all()
    assert holder.placement.host == decided.host


async def test_a_server_keeps_its_bound_whatever_is_free_later(
    plain: PlainLauncher, host: Placing, memory: Machine, devices: EngineDevices
) -> None:
    """Also after a restart of magid: what was decided stands in the unit."""
    wanted = spec("a", 4096)
    await started(plain, host, wanted)
    before = plain.observed()[8080]
    memory.free = 2.0
    next_one = await counted(host, wanted)
    assert before.placement is not None
    assert next_one.cache_ram != before.placement.cache_ram
    again = plan(Wanted((wanted,), ()), plain.observed())
    assert (again.stop, again.start) == ((), ())
    assert plain.observed()[8080] == before
    assert [one.placement for one in Holders(Config(), plain, memory).all()] == [before.placement]


async def test_a_prompt_cache_of_the_users_counts_whole(host: Placing, memory: Machine) -> None:
    memory.free = 8.0
    wanted = spec("a", 4096, extra_args=("--cache-ram", "9000"))
    with pytest.raises(DoesNotFit) as caught:
        await host.place(wanted)
    assert "room for 0 B beside 8.8 GiB of its prompt cache (--cache-ram)" in caught.value.message
    assert await host.place(replace(wanted, kind="embedding")) is None, "it keeps no prompts"
    unbound = spec("b", 4096, 8081, extra_args=("-cram", "-1"))
    with pytest.raises(DoesNotFit, match=r"beside 8\.0 GiB of its prompt cache"):
        await host.place(unbound)


async def test_a_prompt_cache_keeps_to_the_limit_of_its_server(host: Placing) -> None:
    found = await counted(host, spec("a", 4096, memory_max=4 * GIB))
    assert found.cache_ram is not None
    assert found.host < 4 * GIB
    assert 128 <= found.cache_ram <= 512


async def test_idle_servers_make_room(plain: PlainLauncher, host: Placing, memory: Machine) -> None:
    for at, name in enumerate("ab"):
        await started(plain, host, spec(name, 4096, 8080 + at))
    memory.free = 5.0
    wanted = spec("c", 3 * 2**20, 8090)
    found = await host.room_for(wanted, [Evictable("b", "idle"), Evictable("a", "idle")])
    assert isinstance(found, Stopping)
    assert found.model_ids == ("b",), "one of them is enough"
    busy = await host.room_for(wanted, [Evictable("b", "busy"), Evictable("a", "busy")])
    assert isinstance(busy, Waiting)
    with pytest.raises(DoesNotFit):
        await host.room_for(spec("d", 2**24, 8091), [Evictable("a", "idle")])
    await plain.stop(8081)
    memory.free = 6.0
    free = await host.room_for(wanted, [Evictable("a", "idle")])
    assert isinstance(free, Stopping)
    assert free.model_ids == ()
    reserved = host.holders.reserved(wanted)
    assert reserved is not None
    assert reserved.placement == free.placement
    assert await host.place(wanted) == reserved.passed
    assert reserved.passed is not None
    assert reserved.passed.cache_ram == free.placement.cache_ram


async def test_a_device_on_a_machine_without_any(host: Placing, plain: PlainLauncher) -> None:
    with pytest.raises(DeviceMissing, match="names CUDA0, and this machine has no GPU"):
        await host.place(spec("a", 4096, device="CUDA0"))
    plain.devices = "Available devices:\n  CUDA0: card (8192 MiB, 8000 MiB free)\n"
    plain.memory = LlamaServerMissing("cannot find it")
    found = await host.place(spec("a", 4096, device="CUDA0"))
    assert found is not None, "its driver was loaded since the last list"


async def test_memory_is_read_after_a_list_that_takes_long(
    plain: PlainLauncher, host: Placing, memory: Machine
) -> None:
    """Other servers may have taken it meanwhile."""
    memory.free, plain.repacked = 80.0, 2.0
    await host.decided(spec("a", 4096))
    plain.hold("devices", 0)
    before = plain.listings
    deciding = asyncio.create_task(host.decided(spec("a", 4096, engine="other")))
    await plain.wait_for(lambda: plain.listings > before)
    memory.free = 2.0
    plain.release("devices", 0)
    assert isinstance((await deciding).answer, NoRoom)


async def test_a_server_that_is_ready_while_memory_is_read_leads_to_another_list(
    plain: PlainLauncher, host: Placing, memory: Machine, devices: EngineDevices
) -> None:
    plain.devices = "Available devices:\n  CUDA0: card (8 MiB, 8 MiB free)\n"
    await devices.refresh()
    plain.adopt(spec("b", 4096, 8081), ServerState.LOADING)
    reads: list[None] = []
    memory.on_read = lambda: reads.append(None)
    await host.decided(spec("a", 2**22))
    last, loop = 2 * len(reads), asyncio.get_running_loop()

    def in_the_last() -> None:
        reads.append(None)
        if len(reads) == last:
            loop.call_soon_threadsafe(plain.show, 8081, ServerState.READY)

    memory.on_read, before = in_the_last, plain.listings
    await host.decided(spec("a", 2**22))
    assert (len(reads), plain.listings) == (last + 1, before + 1)
