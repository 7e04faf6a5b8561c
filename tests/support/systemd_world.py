"""A bus, a systemd and a launcher for tests of `SystemdBackend`."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from magid.launcher.protocol import LauncherReply, Request, StartRequest, StopRequest
from magid.llama.program import LlamaProgram
from magid.llama.spec import ServerSpec
from magid.servers.backend import ObservedServer, ServerState
from magid.servers.systemd.backend import SystemdBackend
from magid.servers.systemd.launcher_client import LauncherClient
from magid.systemd.journal import Journal
from tests.support.deadlines import PATIENCE_S
from tests.support.fake_journal import FakeJournal
from tests.support.fake_systemd import STOPPED, FakeSystemd, fake_launcher, ready
from tests.support.launcher_contract import Witness

PROGRAM = LlamaProgram(Path("/usr/bin/llama-server"), "fake", frozenset({"--api-key-file"}))
FAILED: dict[str, Any] = {
    "ActiveState": "failed",
    "SubState": "failed",
    "MainPID": 0,
    "Result": "exit-code",
    "ExecMainCode": 1,
    "ExecMainStatus": 1,
}


async def done(_request: Request) -> LauncherReply | None:
    return LauncherReply()


@dataclass
class World:
    """All parts of a test. `answer` is what the launcher does with a request."""

    systemd: FakeSystemd
    launcher: SystemdBackend
    asked: list[Request]
    journal: FakeJournal
    keys: Path
    port: Callable[[], int]
    answers: list[Callable[[Request], Any]] = field(default_factory=lambda: [done])
    programs: list[Callable[[], LlamaProgram]] = field(default_factory=lambda: [lambda: PROGRAM])

    def spec(self, **changes: Any) -> ServerSpec:
        spec = ServerSpec("demo_tiny", 0, self.port(), "127.0.0.1", "/models/demo.gguf")
        return replace(spec, **changes)

    def launches(self) -> None:
        """From now on a start request makes a unit that is ready; a stop ends it."""

        async def answer(request: Request) -> LauncherReply:
            if isinstance(request, StartRequest):
                properties = ready(request.spec, run=len(self.asked) + 1)
                self.systemd.load(properties)
            elif isinstance(request, StopRequest):
                self.systemd.change(request.port, **STOPPED)
            return LauncherReply()

        self.answers.append(answer)


@asynccontextmanager
async def a_world(folder: Path, address: str, port: Callable[[], int]) -> AsyncIterator[World]:
    journal, keys = FakeJournal(), folder / "keys"
    keys.mkdir(exist_ok=True)
    worlds: list[World] = []

    async def answer(request: Request) -> LauncherReply | None:
        reply: LauncherReply | None = await worlds[0].answers[-1](request)
        return reply

    async def program(_engine: str | None = None, /) -> LlamaProgram:
        return worlds[0].programs[-1]()

    async with (
        FakeSystemd(address) as systemd,
        fake_launcher(folder / "launcher.sock", answer) as asked,
    ):
        launcher = SystemdBackend(
            program,
            profile=lambda: "production",
            launcher=LauncherClient(folder / "launcher.sock"),
            keys=keys,
            journal=Journal(journal.open),
            address=address,
        )
        worlds.append(World(systemd, launcher, asked, journal, keys, port))
        yield worlds[0]
        await launcher.close()


async def shown(world: World, port: int, state: ServerState) -> ObservedServer:
    """Wait until the server is shown in this state."""
    witness = Witness(world.launcher)
    server = world.launcher.observed().get(port)
    if server is None or server.state is not state:
        server = await witness.until(state)
    witness.leave()
    return server


async def until(world: World, is_so: Callable[[], bool]) -> None:
    """Wait until it is so; looked at after every change that the launcher tells of."""
    news = asyncio.Event()
    unsubscribe = world.launcher.subscribe(lambda _server: news.set())
    async with asyncio.timeout(PATIENCE_S):
        while not is_so():
            news.clear()
            await news.wait()
    unsubscribe()
