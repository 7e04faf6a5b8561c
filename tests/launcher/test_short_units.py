"""The launcher's short units over its socket: which request waits for which other one."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import pytest
from msgspec import structs

from magid.auth.sandboxed import is_models
from magid.launcher import device_list
from magid.launcher.keys import KeyRing
from magid.launcher.memory_prediction import UNIT
from magid.launcher.protocol import (
    MAX_LINE_BYTES,
    DevicesRequest,
    LauncherReply,
    Ping,
    PredictRequest,
    Request,
    output_in,
    parse_reply,
    request_line,
)
from magid.launcher.server import LauncherServer
from magid.launcher.transient_units import Units
from magid.systemd.bus import Bus
from tests.support.deadlines import PATIENCE_S
from tests.support.launcher_house import FLAGS, House
from tests.support.private_bus import private_bus
from tests.support.short_units import ShortUnits


@dataclass
class Client:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def reply(self) -> LauncherReply:
        async with asyncio.timeout(PATIENCE_S):
            line = await self.reader.readline()
        self.writer.close()
        return parse_reply(line)

    async def leave(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


@dataclass
class Launcher:
    """A launcher on its socket, and the systemd that it talks to."""

    path: Path
    systemd: ShortUnits
    house: House

    async def asked(self, request: Request) -> Client:
        """A client whose request the launcher has taken up, as far as that goes at once."""
        client = Client(*await asyncio.open_unix_connection(self.path))
        client.writer.write(request_line(request))
        await client.writer.drain()
        for _ in range(2):
            ping = Client(*await asyncio.open_unix_connection(self.path))
            ping.writer.write(request_line(Ping()))
            assert (await ping.reply()).ok
        return client

    async def predicts(self, name: str, *, for_start: bool) -> Client:
        spec = self.house.spec(model_id=name)
        return await self.asked(PredictRequest(spec, FLAGS | {"--fit", "-lv"}, None, for_start))

    @property
    def predicted(self) -> list[str]:
        return [description.split(" ")[4] for description, _ in self.systemd.made]

    async def begun(self, *names: str) -> None:
        """Returns when the units of just these predictions were made."""
        await self.systemd.until(lambda: len(self.predicted) >= len(names))
        assert self.predicted == list(names)


@pytest.fixture
async def launcher(house: House, tmp_path: Path) -> AsyncIterator[Launcher]:
    with private_bus(tmp_path) as address:
        async with ShortUnits(address) as systemd:
            bus = Bus(address, passes_descriptors=True)
            await bus.open()
            units = Units(bus)
            await units.open()
            ring = KeyRing(tmp_path / "keys", "magi-absent")
            server = LauncherServer(units, ring, lambda: house.settings)
            path = tmp_path / "launcher.sock"
            async with await asyncio.start_unix_server(server.answer, path, limit=MAX_LINE_BYTES):
                yield Launcher(path, systemd, house)
                async with asyncio.timeout(PATIENCE_S):
                    await server.drained()
            await asyncio.to_thread(server.close)
            await units.close()
            await bus.close()


async def test_a_start_ends_an_early_prediction(launcher: Launcher) -> None:
    early = await launcher.predicts("early", for_start=False)
    await launcher.begun("early")
    start = await launcher.predicts("start", for_start=True)
    assert (await early.reply()).error == "Busy"
    await launcher.begun("early", "start")
    launcher.systemd.end(UNIT, b"done")
    assert output_in((await start.reply()).details) == "done"


@pytest.mark.parametrize("leaves", [False, True])
async def test_a_start_comes_before_early_ones_that_wait(launcher: Launcher, leaves: bool) -> None:
    first = await launcher.predicts("first", for_start=True)
    await launcher.begun("first")
    early = await launcher.predicts("early", for_start=False)
    if leaves:
        await early.leave()
    start = await launcher.predicts("start", for_start=True)
    launcher.systemd.end(UNIT)
    assert (await first.reply()).ok
    await launcher.begun("first", "start")
    launcher.systemd.end(UNIT)
    assert (await start.reply()).ok
    if not leaves:
        assert (await early.reply()).error == "Busy"


async def test_a_start_comes_before_an_early_one_that_has_no_unit_yet(launcher: Launcher) -> None:
    """Its files are still examined: there is no unit that could be ended."""
    release = Event()
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1) as one:
        loop.set_default_executor(one)
        loop.run_in_executor(None, release.wait)
        try:
            early = await launcher.predicts("early", for_start=False)
            start = await launcher.predicts("start", for_start=True)
        finally:
            release.set()
        await launcher.begun("start")
        assert (await early.reply()).error == "Busy"
        launcher.systemd.end(UNIT)
        assert (await start.reply()).ok
        loop.set_default_executor(ThreadPoolExecutor())


async def test_no_prediction_for_a_client_that_has_left(launcher: Launcher) -> None:
    """Of a start that was called off, the unit that runs is ended, and those that wait go."""
    first = await launcher.predicts("first", for_start=True)
    await launcher.begun("first")
    for name, for_start in (("second", True), ("early", False)):
        await (await launcher.predicts(name, for_start=for_start)).leave()
    await first.leave()
    start = await launcher.predicts("start", for_start=True)
    await launcher.begun("first", "start")
    launcher.systemd.end(UNIT)
    assert (await start.reply()).ok


# -- lists of devices ------------------------------------------------------------------------

OWN = "llama-server@devices-own.service"


@pytest.fixture
def engines(house: House) -> None:
    folder = house.models.parent / "engines"
    for name in ("own", "all"):
        (folder / name).mkdir(parents=True)
        (folder / name / "llama-server").symlink_to(house.program)
    (folder / "default").symlink_to("all")
    for part in (folder, *folder.parents[:2]):
        part.chmod(0o755)
    house.settings = structs.replace(
        house.settings, llama_server_path=None, engines_dir=folder, rpc_servers=()
    )


@pytest.mark.usefixtures("engines")
async def test_no_list_waits_for_that_of_another_engine(launcher: Launcher) -> None:
    """A driver of one engine may hang: here its unit has not ended yet."""
    own = await launcher.asked(DevicesRequest("own"))
    await launcher.systemd.until(lambda: OWN in launcher.systemd.running)
    for engine in (None, "default"):
        other = await launcher.asked(DevicesRequest(engine))
        await launcher.systemd.until(lambda: device_list.UNIT in launcher.systemd.running)
        launcher.systemd.end(device_list.UNIT, b"all")
        assert output_in((await other.reply()).details) == "all"
    launcher.systemd.end(OWN, b"own")
    assert output_in((await own.reply()).details) == "own"
    users = [user for _, user in launcher.systemd.made]
    assert users == [device_list.user_of("own"), "llama-0", "llama-0"]


@pytest.mark.usefixtures("engines")
async def test_one_list_of_an_engine_at_a_time(launcher: Launcher) -> None:
    """None is made for a client that left while it waited."""
    first = await launcher.asked(DevicesRequest("own"))
    await launcher.systemd.until(lambda: OWN in launcher.systemd.running)
    await (await launcher.asked(DevicesRequest("own"))).leave()
    last = await launcher.asked(DevicesRequest("own"))
    assert len(launcher.systemd.made) == 1
    launcher.systemd.end(OWN, b"first")
    assert output_in((await first.reply()).details) == "first"
    await launcher.systemd.until(lambda: OWN in launcher.systemd.running)
    launcher.systemd.end(OWN, b"last")
    assert output_in((await last.reply()).details) == "last"
    assert len(launcher.systemd.made) == 2


def test_the_user_of_a_list_counts_as_a_models(tmp_path: Path) -> None:
    for uid, engine in enumerate((None, "own", "b4589.1", "x" * 63)):
        (tmp_path / f"direct:{uid}").symlink_to(device_list.user_of(engine))
        assert is_models(uid, tmp_path)
