"""The launcher's short units over its socket: which request waits for which other one."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import pytest

from magid.launcher.keys import KeyRing
from magid.launcher.memory_prediction import UNIT
from magid.launcher.protocol import (
    MAX_LINE_BYTES,
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
