"""The bus: a real dbus-daemon of the test's own, and on it a systemd that says what it is told."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from magid.llama.spec import ServerSpec
from magid.systemd.bus import MANAGER, MANAGER_PATH, PROPERTIES, SYSTEMD, Bus, BusError, Signal
from magid.systemd.unit_names import unit_path
from tests.support.deadlines import PATIENCE_S
from tests.support.fake_systemd import FakeSystemd, ready
from tests.support.private_bus import private_bus

SPEC = ServerSpec("demo", 0, 8080, "127.0.0.1", "/models/demo.gguf")
RULE = f"type='signal',sender='{SYSTEMD}',path='{MANAGER_PATH}',interface='{MANAGER}'"


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    with private_bus(tmp_path) as address:
        yield address


@pytest.fixture
async def systemd(address: str) -> AsyncIterator[FakeSystemd]:
    async with FakeSystemd(address) as systemd:
        systemd.load(ready(SPEC))
        yield systemd


@pytest.fixture
async def bus(address: str, systemd: FakeSystemd) -> AsyncIterator[Bus]:
    bus = Bus(address)
    await bus.open()
    yield bus
    await bus.close()


async def test_values_come_without_their_variants(bus: Bus) -> None:
    (path,) = await bus.call(MANAGER_PATH, MANAGER, "GetUnit", "s", SPEC.unit)
    (properties,) = await bus.call(path, PROPERTIES, "GetAll", "s", "")
    assert path == unit_path(SPEC.port)
    assert properties["MainPID"] == 4242
    assert bytes(properties["InvocationID"]) == bytes([1] * 16)
    assert properties["LogExtraFields"][0] == b"MAGI_MODEL=demo"


async def test_an_error_has_its_name_and_text(bus: Bus) -> None:
    with pytest.raises(BusError, match="not loaded") as caught:
        await bus.call(MANAGER_PATH, MANAGER, "GetUnit", "s", "other.service")
    assert caught.value.name == f"{SYSTEMD}.NoSuchUnit"


async def test_signals_that_match(bus: Bus, systemd: FakeSystemd) -> None:
    heard: asyncio.Queue[Signal] = asyncio.Queue()
    bus.listen(lambda signal: heard.put_nowait(signal) if signal.interface == MANAGER else None)
    await bus.match(RULE)
    await bus.call(MANAGER_PATH, MANAGER, "Subscribe")
    systemd.forget(SPEC.port)
    async with asyncio.timeout(PATIENCE_S):
        signal = await heard.get()
    assert (signal.member, signal.body[0]) == ("UnitRemoved", SPEC.unit)


async def test_it_does_not_ask_what_the_bus_has_not(address: str) -> None:
    bus = Bus(address)
    await bus.open()
    with pytest.raises(BusError):
        await bus.call(MANAGER_PATH, MANAGER, "Subscribe")
    await bus.close()


async def test_no_bus_at_all(tmp_path: Path) -> None:
    with pytest.raises(BusError, match="cannot use systemd"):
        await Bus(f"unix:path={tmp_path}/none").open()


@pytest.mark.parametrize("address", ["", "nonsense", "unix:", "tcp:host=,port=x"])
async def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(BusError):
        await Bus(address or ";").open()


async def test_the_end_of_the_bus_is_heard(tmp_path: Path) -> None:
    with private_bus(tmp_path) as address:
        bus = Bus(address)
        await bus.open()
        one, two = (asyncio.create_task(bus.wait_closed()) for _ in range(2))
        await asyncio.sleep(0)
        one.cancel()  # and the other goes on to wait
        await asyncio.gather(one, return_exceptions=True)
        open_before = bus.is_open
    async with asyncio.timeout(PATIENCE_S):
        await two
        await bus.wait_closed()
    assert (open_before, bus.is_open) == (True, False)
    with pytest.raises(BusError, match="gone away"):
        await bus.call(MANAGER_PATH, MANAGER, "Subscribe")
    await bus.close()
    await bus.close()


async def test_a_call_under_way_ends_with_the_bus(tmp_path: Path) -> None:
    with private_bus(tmp_path) as address:
        async with FakeSystemd(address) as systemd:
            bus = Bus(address)
            await bus.open()
            # To the fake, a call that it never answers.
            call = asyncio.create_task(bus.call(MANAGER_PATH, MANAGER, "KeepMeWaiting"))
            async with asyncio.timeout(PATIENCE_S):
                await systemd.hangs.wait()
            await bus.close()
            with pytest.raises(BusError):
                await call
