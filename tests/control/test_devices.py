"""When llama-server is asked for the GPUs, and what is known of them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from magid.control.devices import SETTLE_S, Devices
from magid.errors import LlamaServerMissing, ServerFailed
from magid.llama.spec import ServerSpec
from magid.servers.backend import ServerState
from tests.support.deadlines import PATIENCE_S
from tests.support.recording_backend import StillLauncher, all_quiet

ONE = "Available devices:\n  CUDA0: NVIDIA (8192 MiB, {} MiB free)\n"
SPEC = ServerSpec("m", 0, 8080, "127.0.0.1", "/m.gguf")
OTHER = ServerSpec("n", 0, 8081, "127.0.0.1", "/n.gguf")
MIB = 1 << 20

Until = Callable[[Callable[[], bool]], Awaitable[None]]


@pytest.fixture
def launcher() -> StillLauncher:
    found = StillLauncher(prompt=True)
    found.devices = ONE.format(8000)
    return found


@pytest.fixture
def news() -> asyncio.Event:
    return asyncio.Event()


@pytest.fixture
async def devices(launcher: StillLauncher, news: asyncio.Event) -> AsyncIterator[Devices]:
    found = Devices(launcher, news.set)
    yield found
    await found.close()


@pytest.fixture
def until(news: asyncio.Event) -> Until:
    """Wait until it is so; looked at after each new list."""

    async def until(is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not is_so():
                news.clear()
                await news.wait()

    return until


def free(devices: Devices) -> int | None:
    (gpu,) = devices.present.gpus
    return None if gpu.device.free is None else gpu.device.free // MIB


async def test_listed_at_the_start_without_waiting(
    launcher: StillLauncher, devices: Devices, until: Until
) -> None:
    launcher.hold("devices", 0)
    devices.open()
    await launcher.wait_for(lambda: launcher.listings == 1)
    assert devices.present.listed_at is None
    launcher.release("devices", 0)
    await until(lambda: devices.present.listed_at is not None)
    assert free(devices) == 8000


async def test_listed_again_after_a_start_and_a_stop(
    launcher: StillLauncher, devices: Devices, until: Until
) -> None:
    devices.open()
    await until(lambda: bool(devices.present.gpus))
    launcher.prompt = False
    launcher.devices = ONE.format(3000)
    await launcher.start(SPEC)
    launcher.show(SPEC.port, ServerState.LOADING)
    await all_quiet()
    assert launcher.listings == 1, "it has not settled"
    launcher.show(SPEC.port, ServerState.READY)
    await until(lambda: free(devices) == 3000)
    launcher.devices = ONE.format(8000)
    await launcher.stop(SPEC.port)
    await until(lambda: free(devices) == 8000)
    assert launcher.listings == 3


@pytest.fixture
async def loading(
    launcher: StillLauncher, news: asyncio.Event, until: Until
) -> AsyncIterator[Devices]:
    """Two servers, of which one still loads when the other one is ready; nothing hurries."""
    found = Devices(launcher, news.set, latest_s=3600)
    found.open()
    await until(lambda: bool(found.present.gpus))
    launcher.prompt = False
    for spec in (SPEC, OTHER):
        await launcher.start(spec)
    launcher.devices = ONE.format(3000)
    launcher.show(SPEC.port, ServerState.READY)
    yield found
    await found.close()


async def test_one_list_serves_servers_that_load_together(
    launcher: StillLauncher, loading: Devices, until: Until
) -> None:
    launcher.show(OTHER.port, ServerState.LOADING)
    await asyncio.sleep(2 * SETTLE_S)  # long enough for a list that should not begin
    assert launcher.listings == 1
    assert not loading.knows(SPEC.port)
    launcher.show(OTHER.port, ServerState.READY)
    assert not loading.knows(SPEC.port)
    await until(lambda: free(loading) == 3000)
    assert launcher.listings == 2
    assert loading.knows(SPEC.port)
    assert loading.knows(OTHER.port)


async def test_who_needs_the_list_does_not_wait_for_those_that_load(
    launcher: StillLauncher, loading: Devices
) -> None:
    later = asyncio.create_task(loading.next_list())
    await all_quiet()
    assert launcher.listings == 1
    async with asyncio.timeout(PATIENCE_S):
        assert (await loading.fresh(3600)).gpus[0].device.free == 3000 * MIB
        assert (await later).gpus == loading.present.gpus
    assert launcher.listings == 2


async def test_a_list_does_not_wait_for_ever(launcher: StillLauncher, until: Until) -> None:
    found = Devices(launcher, lambda: None, latest_s=0)
    await found.refresh()
    launcher.prompt = False
    for spec in (SPEC, OTHER):
        await launcher.start(spec)
    found.open()
    await launcher.wait_for(lambda: launcher.listings == 2)
    launcher.show(OTHER.port, ServerState.LOADING)
    launcher.show(SPEC.port, ServerState.LOADING)
    launcher.show(SPEC.port, ServerState.READY)
    await launcher.wait_for(lambda: launcher.listings == 3)
    await found.close()


async def test_the_first_list_serves_those_who_wait_for_it(
    launcher: StillLauncher, devices: Devices
) -> None:
    launcher.hold("devices", 0)
    devices.open()
    waiting = [asyncio.create_task(devices.fresh(5)) for _ in range(3)]
    await launcher.wait_for(lambda: launcher.listings == 1)
    await all_quiet()
    launcher.release("devices", 0)
    async with asyncio.timeout(PATIENCE_S):
        assert all(listed.gpus for listed in await asyncio.gather(*waiting))
    assert launcher.listings == 1


async def test_without_a_gpu_only_news_is_announced(
    launcher: StillLauncher, devices: Devices, news: asyncio.Event
) -> None:
    launcher.devices = "Available devices:\n  (none)\n"
    for expected in (True, False):
        await devices.refresh()
        assert news.is_set() is expected
        news.clear()
    launcher.devices = ServerFailed("cannot list the GPUs: it hangs")
    for expected in (True, False):
        await devices.refresh()
        assert news.is_set() is expected
        news.clear()


async def test_a_server_that_ran_before_is_no_news(
    launcher: StillLauncher, devices: Devices, until: Until
) -> None:
    devices.open()
    await until(lambda: bool(devices.present.gpus))
    launcher.adopt(SPEC, ServerState.READY)
    launcher.adopt(SPEC, ServerState.READY)
    await all_quiet()
    assert launcher.listings == 1


async def test_a_server_that_loaded_before_is_in_a_list_when_it_is_ready(
    launcher: StillLauncher, devices: Devices, until: Until
) -> None:
    """After a restart of magid: the first list was made while it still loaded."""
    launcher.adopt(SPEC, ServerState.LOADING)
    devices.open()
    await until(lambda: bool(devices.present.gpus))
    launcher.devices = ONE.format(3000)
    launcher.show(SPEC.port, ServerState.READY)
    assert not devices.knows(SPEC.port)
    await until(lambda: free(devices) == 3000)
    assert devices.knows(SPEC.port)


async def test_a_server_that_is_ready_during_the_first_list_is_in_the_next(
    launcher: StillLauncher, devices: Devices, until: Until
) -> None:
    launcher.hold("devices", 0)
    devices.open()
    await launcher.wait_for(lambda: launcher.listings == 1)
    await launcher.start(SPEC)
    assert not devices.knows(SPEC.port)
    launcher.release("devices", 0)
    await until(lambda: launcher.listings == 2 and devices.knows(SPEC.port))


async def test_without_a_gpu_starts_ask_for_nothing(
    launcher: StillLauncher, devices: Devices, until: Until
) -> None:
    launcher.devices = "Available devices:\n  (none)\n"
    devices.open()
    await until(lambda: devices.present.listed_at is not None)
    await launcher.start(SPEC)
    await launcher.stop(SPEC.port)
    await all_quiet()
    assert launcher.listings == 1
    launcher.devices = ONE.format(1)
    assert (await devices.refresh()).gpus, "asked for, it is listed again"


async def test_a_refresh_gets_a_list_begun_after_it(
    launcher: StillLauncher, devices: Devices
) -> None:
    launcher.hold("devices", 0)
    devices.open()
    await launcher.wait_for(lambda: launcher.listings == 1)
    waiting = [asyncio.create_task(devices.refresh()) for _ in range(3)]
    await all_quiet()
    launcher.release("devices", 0)
    async with asyncio.timeout(PATIENCE_S):
        assert len(set(await asyncio.gather(*waiting))) == 1
    assert launcher.listings == 2, "one listing serves all that asked meanwhile"


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (ServerFailed("cannot list the GPUs: it hangs"), "cannot list the GPUs: it hangs"),
        (LlamaServerMissing("cannot find llama-server"), "cannot find llama-server"),
        ("error: libcuda.so.1: broken\n", "libcuda.so.1: broken"),
        (RuntimeError("broken"), "internal error"),
    ],
)
async def test_a_failure_keeps_what_was_known(
    launcher: StillLauncher, devices: Devices, answer: str | Exception, problem: str
) -> None:
    before = await devices.refresh()
    launcher.devices = answer
    after = await devices.refresh()
    assert (after.gpus, after.listed_at) == (before.gpus, before.listed_at)
    assert problem in after.problem
    assert (devices.listings, devices.failures) == (1, 1)
    launcher.devices = ONE.format(8000)
    assert (await devices.refresh()).problem == ""


async def test_nothing_is_listed_after_the_end(
    launcher: StillLauncher, devices: Devices, until: Until
) -> None:
    """Servers that are children end after it."""
    devices.open()
    await until(lambda: bool(devices.present.gpus))
    await launcher.start(SPEC)
    await until(lambda: launcher.listings == 2)
    await devices.close()
    await launcher.stop(SPEC.port)
    await all_quiet()
    assert launcher.listings == 2
    async with asyncio.timeout(PATIENCE_S):
        assert (await devices.refresh()).gpus


async def test_the_end_releases_those_who_wait(launcher: StillLauncher, devices: Devices) -> None:
    launcher.hold("devices", 0)
    waiting = asyncio.create_task(devices.refresh())
    await launcher.wait_for(lambda: launcher.listings == 1)
    await devices.close()
    async with asyncio.timeout(PATIENCE_S):
        assert (await waiting).listed_at is None
