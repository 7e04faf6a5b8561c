"""The launcher of servers as units: against a bus, a systemd and a launcher of the test's own."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from magid.errors import (
    Conflict,
    InvalidInput,
    LauncherUnreachable,
    NotAllowed,
    NotFound,
    ServerFailed,
)
from magid.launcher import protocol
from magid.launcher.model_files import shards
from magid.launcher.protocol import LauncherReply, Ping, Request, StartRequest, StopRequest
from magid.launcher.server import refusal
from magid.llama.program import LlamaProgram
from magid.llama.spec import ServerSpec
from magid.servers.backend import ObservedServer, ServerState
from magid.servers.systemd.backend import SystemdBackend
from magid.servers.systemd.launcher_client import LauncherClient
from magid.systemd.bus import BusError
from magid.systemd.journal import Journal
from tests.support.deadlines import PATIENCE_S
from tests.support.fake_journal import FakeJournal
from tests.support.fake_systemd import STOPPED, FakeSystemd, fake_launcher, ready
from tests.support.launcher_contract import Witness
from tests.support.private_bus import private_bus

PROGRAM = LlamaProgram(Path("/usr/bin/llama-server"), "fake", frozenset({"--api-key-file"}))
FAILED: dict[str, Any] = {
    "ActiveState": "failed",
    "SubState": "failed",
    "MainPID": 0,
    "Result": "exit-code",
    "ExecMainCode": 1,
    "ExecMainStatus": 1,
}


async def _done(_request: Request) -> LauncherReply | None:
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
    answers: list[Callable[[Request], Any]] = field(default_factory=lambda: [_done])
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

    async def program() -> LlamaProgram:
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


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    with private_bus(tmp_path) as address:
        yield address


@pytest.fixture
async def world(tmp_path: Path, address: str, free_port: Callable[[], int]) -> AsyncIterator[World]:
    async with a_world(tmp_path, address, free_port) as world:
        yield world


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


# -- watching --------------------------------------------------------------------------------


async def test_what_runs_is_known_at_once(world: World) -> None:
    one, two = world.spec(), world.spec(instance=1)
    world.systemd.load(ready(one))
    world.systemd.load(ready(two) | STOPPED)
    await world.launcher.open()
    seen = world.launcher.observed()
    assert [seen[s.port].state for s in (one, two)] == [ServerState.READY, ServerState.STOPPED]
    assert seen[one.port].spec_hash == one.hash
    assert world.systemd.calls.index("Subscribe") < world.systemd.calls.index("ListUnitsByPatterns")


async def test_a_unit_of_somebody_else_is_no_server(world: World) -> None:
    spec = world.spec()
    world.systemd.load(ready(spec) | {"LogExtraFields": []})
    world.systemd.load(ready(world.spec()) | {"Transient": False})
    await world.launcher.open()
    assert world.launcher.observed() == {}
    await world.launcher.stop(spec.port)
    assert world.asked == []


async def test_one_that_was_only_asked_for_is_not_watched(world: World) -> None:
    spec = world.spec()
    world.systemd.load(ready(spec) | {"LoadState": "not-found"})
    await world.launcher.open()
    assert world.launcher.observed() == {}
    assert "GetAll" not in world.systemd.calls


async def test_changes_are_followed(world: World) -> None:
    spec = world.spec()
    await world.launcher.open()
    world.systemd.load(ready(spec) | {"ActiveState": "activating", "SubState": "start"})
    await shown(world, spec.port, ServerState.STARTING)
    world.systemd.change(spec.port, SubState="start-post", StatusText="loading (1 s)")
    await shown(world, spec.port, ServerState.LOADING)
    witness = Witness(world.launcher)
    world.systemd.change(spec.port, StatusText="starting (2 s)", NRestarts=1)
    await until(world, lambda: world.launcher.observed()[spec.port].restarts == 1)
    assert witness.states(spec.port) == [ServerState.LOADING], "it went back"
    world.systemd.change(spec.port, ActiveState="active", SubState="running")
    assert (await shown(world, spec.port, ServerState.READY)).pid == 4242
    world.systemd.change(spec.port, **STOPPED)
    await shown(world, spec.port, ServerState.STOPPED)


BY_A_JOB = {**STOPPED, "ActiveExitTimestampMonotonic": 500, "ExecMainExitTimestampMonotonic": 600}


@pytest.mark.parametrize(
    ("target_stopped", "reason"),
    [(5_000_000, "by systemctl"), (499, "with magi-models.target")],
)
async def test_who_stopped_a_server_is_told(world: World, target_stopped: int, reason: str) -> None:
    spec = world.spec()
    world.systemd.load(ready(spec))
    world.systemd.target_stopped = target_stopped
    await world.launcher.open()
    world.systemd.change(spec.port, **BY_A_JOB)
    assert (await shown(world, spec.port, ServerState.STOPPED)).reason == reason


async def test_a_server_that_magid_may_have_stopped_is_not_blamed_on_systemctl(
    world: World,
) -> None:
    found, own = world.spec(), world.spec()
    world.systemd.target_stopped = 5_000_000
    world.systemd.load(ready(found) | BY_A_JOB)
    world.systemd.load(ready(own))
    await world.launcher.open()

    async def stop(request: Request) -> LauncherReply | None:
        world.systemd.change(own.port, **BY_A_JOB)
        return await _done(request)

    world.answers.append(stop)
    await world.launcher.stop(own.port)
    servers = world.launcher.observed()
    assert [servers[one.port].reason for one in (found, own)] == ["", ""]


async def test_a_unit_that_goes_away_is_stopped(world: World) -> None:
    spec = world.spec()
    world.systemd.load(ready(spec))
    await world.launcher.open()
    world.systemd.forget(spec.port)
    server = await shown(world, spec.port, ServerState.STOPPED)
    assert (server.pid, server.started_at, server.reason) == (None, None, "")


async def test_a_job_that_waits(world: World) -> None:
    spec = world.spec()
    world.systemd.load(ready(spec) | STOPPED)
    await world.launcher.open()
    job = "/org/freedesktop/systemd1/job/7"
    world.systemd.jobs[job] = "start"
    world.systemd.change(spec.port, Job=(7, job))
    await shown(world, spec.port, ServerState.STARTING)
    del world.systemd.jobs[job]  # it is over, and the property will say so later
    world.systemd.change(spec.port, StatusText="")
    await shown(world, spec.port, ServerState.STOPPED)


async def test_after_a_reload_all_is_read_anew(world: World) -> None:
    """Without a signal for the unit: as when it was lost."""
    spec = world.spec()
    world.systemd.load(ready(spec))
    await world.launcher.open()
    world.systemd.units[spec.unit] |= STOPPED
    world.systemd.reloaded()
    await shown(world, spec.port, ServerState.STOPPED)


async def test_masked_units_are_known(world: World) -> None:
    world.systemd.masked = {"magi-key.socket"}
    await world.launcher.open()
    assert world.launcher.masked == {"magi-key.socket"}
    world.systemd.masked = {"magi-launcher.service"}
    world.systemd.reloaded()  # as `systemctl mask` does
    async with asyncio.timeout(PATIENCE_S):
        while world.launcher.masked != {"magi-launcher.service"}:  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0.01)


async def test_a_failure_is_told_with_its_cause(world: World) -> None:
    spec = world.spec()
    world.systemd.load(ready(spec))
    await world.launcher.open()
    run = bytes([1] * 16).hex()
    world.journal.add("0.00.010.289 E srv  no space left", _PID="4242", _SYSTEMD_INVOCATION_ID=run)
    world.systemd.change(spec.port, **FAILED)
    server = await shown(world, spec.port, ServerState.FAILED)
    assert server.reason == "exited with status 1: srv no space left"
    before = len(world.journal.readers)
    world.systemd.change(spec.port, StatusText="x")
    world.systemd.change(spec.port, NRestarts=1)
    await until(world, lambda: world.launcher.observed()[spec.port].restarts == 1)
    assert len(world.journal.readers) == before, "its words were looked up again"


async def test_words_that_come_late(world: World) -> None:
    spec = world.spec()
    world.systemd.load(ready(spec) | FAILED)
    opening = asyncio.create_task(world.launcher.open())
    assert await asyncio.to_thread(world.journal.opened.wait, PATIENCE_S)
    run = bytes([1] * 16).hex()
    world.journal.add("error: too late", _PID="4242", _SYSTEMD_INVOCATION_ID=run)
    await opening
    assert world.launcher.observed()[spec.port].reason == "exited with status 1: too late"


async def test_a_listener_that_fails_hears_again(world: World) -> None:
    spec = world.spec()
    heard: list[ServerState] = []

    def listener(server: ObservedServer) -> None:
        heard.append(server.state)
        raise RuntimeError("on purpose")

    world.launcher.subscribe(listener)
    world.systemd.load(ready(spec))
    await world.launcher.open()
    world.systemd.change(spec.port, **STOPPED)
    await shown(world, spec.port, ServerState.STOPPED)
    assert heard == [ServerState.READY, ServerState.STOPPED]


# -- the bus goes away -----------------------------------------------------------------------


async def test_it_comes_back_when_the_bus_does(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    with private_bus(tmp_path) as address:
        stack = a_world(tmp_path, address, free_port)
        world = await stack.__aenter__()
        spec = world.spec()
        world.systemd.load(ready(spec))
        await world.launcher.open()
    assert world.launcher.observed()[spec.port].state is ServerState.READY
    with private_bus(tmp_path) as address:
        async with FakeSystemd(address) as again:
            again.load(ready(spec) | STOPPED)
            await shown(world, spec.port, ServerState.STOPPED)
            again.change(spec.port, **(ready(spec, pid=7, run=2)))
            assert (await shown(world, spec.port, ServerState.READY)).pid == 7
            assert again.subscribers
        await stack.__aexit__(None, None, None)


async def test_the_watch_goes_on_whatever_it_meets(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """An answer that no systemd gives: the watch is told to be lost, and found again."""
    spec = world.spec()
    world.systemd.load(ready(spec))
    await world.launcher.open()
    world.systemd.garbled = 2
    world.systemd.reloaded()
    async with asyncio.timeout(PATIENCE_S):
        while not (told := world.launcher.problem):  # noqa: ASYNC110 - nobody is told of it
            await asyncio.sleep(0.01)
        while world.launcher.problem:  # noqa: ASYNC110 - likewise
            await asyncio.sleep(0.01)
    assert told.startswith("cannot watch systemd, because of an internal error: ")
    assert caplog.text.count("cannot watch systemd") == 2
    world.systemd.change(spec.port, **STOPPED)
    await shown(world, spec.port, ServerState.STOPPED)


async def test_whatever_is_raised_in_a_start_ends_in_failed(world: World) -> None:
    def unusable() -> LlamaProgram:
        raise PermissionError(13, "Permission denied")

    await world.launcher.open()
    world.programs.append(unusable)
    spec = world.spec()
    await world.launcher.start(spec)
    server = world.launcher.observed()[spec.port]
    assert server.state is ServerState.FAILED
    assert server.reason.startswith(
        "cannot start it, because of an internal error: PermissionError"
    )


async def test_a_new_systemd_on_the_same_bus(world: World, address: str) -> None:
    """As after a daemon-reexec: the name has another owner, and what it knows is read anew."""
    spec = world.spec()
    world.systemd.load(ready(spec))
    await world.launcher.open()
    await world.systemd.__aexit__()
    async with FakeSystemd(address) as again:
        again.load(ready(spec) | STOPPED)
        await shown(world, spec.port, ServerState.STOPPED)
        assert again.subscribers == 1


async def test_without_systemd_it_does_not_open(
    tmp_path: Path, address: str, free_port: Callable[[], int]
) -> None:
    async with a_world(tmp_path, address, free_port) as world:
        await world.systemd.__aexit__()
        with pytest.raises(BusError):
            await world.launcher.open()


# -- asking ----------------------------------------------------------------------------------


async def test_start(world: World) -> None:
    spec = world.spec(ctx_size=512)
    world.launches()
    await world.launcher.open()
    witness = Witness(world.launcher)
    await world.launcher.start(spec)
    assert world.launcher.observed()[spec.port].pid == 4242
    assert witness.states(spec.port) == [ServerState.STARTING, ServerState.READY]
    assert world.asked == [StartRequest(spec, "production", PROGRAM.flags)]


async def test_a_refusal_is_shown_until_the_unit_says_otherwise(world: World) -> None:
    spec = world.spec()
    await world.launcher.open()

    async def refuse(_request: Request) -> LauncherReply:
        return LauncherReply("NotAllowed", "cannot use /x: it is in none of the model folders")

    world.answers.append(refuse)
    await world.launcher.start(spec)
    server = world.launcher.observed()[spec.port]
    assert (server.state, server.spec_hash) == (ServerState.FAILED, spec.hash)
    assert server.reason == "cannot use /x: it is in none of the model folders"
    world.systemd.load(ready(spec))
    await shown(world, spec.port, ServerState.READY)


async def test_an_order_that_is_too_large_in_sum(world: World) -> None:
    """The launcher's own check: its reason is the server's."""
    spec = world.spec(model_path=f"/{'m' * 200}" * 18 + "/x-00001-of-00512.gguf")
    await world.launcher.open()

    async def check(request: Request) -> LauncherReply:
        assert isinstance(request, StartRequest)
        with pytest.raises(InvalidInput) as caught:
            shards(request.spec.model_path)
        return refusal(caught.value)

    world.answers.append(check)
    await world.launcher.start(spec)
    server = world.launcher.observed()[spec.port]
    assert server.state is ServerState.FAILED
    assert "move the model to a folder with a shorter path" in server.reason


async def test_a_stop_forgets_a_refusal(world: World, tmp_path: Path) -> None:
    spec = world.spec()
    await world.launcher.open()

    async def refuse(_request: Request) -> LauncherReply:
        return LauncherReply("ServerFailed", "cannot open it")

    world.answers.append(refuse)
    await world.launcher.start(spec)
    world.answers.append(_done)
    await world.launcher.stop(spec.port)
    server = world.launcher.observed()[spec.port]
    assert (server.state, server.reason) == (ServerState.STOPPED, "")
    assert len(world.asked) == 1, "there was nothing to be stopped"


async def test_a_refusal_while_another_server_runs(world: World) -> None:
    spec = world.spec()
    world.systemd.load(ready(spec))
    await world.launcher.open()

    async def refuse(_request: Request) -> LauncherReply:
        return LauncherReply("NotAllowed", "cannot do that")

    world.answers.append(refuse)
    with pytest.raises(NotAllowed, match="cannot do that"):
        await world.launcher.start(replace(spec, ctx_size=1))
    server = world.launcher.observed()[spec.port]
    assert (server.state, server.spec_hash) == (ServerState.READY, spec.hash)


async def test_a_taken_port(world: World) -> None:
    spec = world.spec()
    await world.launcher.open()
    with socket.socket() as taken:
        taken.bind((spec.host, spec.port))
        taken.listen()
        await world.launcher.start(spec)
    server = world.launcher.observed()[spec.port]
    assert server.state is ServerState.FAILED
    assert f"port {spec.port} is taken by pid" in server.reason
    assert world.asked == []


async def test_stop_is_seen_at_once_and_ends_when_it_is_done(world: World) -> None:
    spec = world.spec()
    world.systemd.load(ready(spec))
    await world.launcher.open()
    go = asyncio.Event()

    async def answer(request: Request) -> LauncherReply:
        # It crashes and is started again, before systemd gets to end it.
        world.systemd.was_read.clear()
        world.systemd.change(spec.port, **ready(spec, pid=7, run=9))
        await world.systemd.was_read.wait()
        world.systemd.change(spec.port, **STOPPED)
        await go.wait()
        return LauncherReply()

    world.answers.append(answer)
    witness = Witness(world.launcher)
    stopping = asyncio.create_task(world.launcher.stop(spec.port))
    await witness.until(ServerState.STOPPING)
    assert not stopping.done()
    go.set()
    await stopping
    assert witness.states(spec.port) == [ServerState.STOPPING, ServerState.STOPPED]
    await world.launcher.stop(spec.port)
    assert world.asked == [StopRequest(spec.port)]


async def test_a_stop_that_is_refused(world: World) -> None:
    spec = world.spec()
    world.systemd.load(ready(spec))
    await world.launcher.open()

    async def refuse(_request: Request) -> LauncherReply:
        return LauncherReply("NoSuchErrorHere", "cannot stop it")

    world.answers.append(refuse)
    with pytest.raises(ServerFailed, match="cannot stop it"):
        await world.launcher.stop(spec.port)
    assert world.launcher.observed()[spec.port].state is ServerState.READY


async def test_a_stop_calls_off_a_start_that_was_not_made_yet(world: World) -> None:
    first, spec = world.spec(), world.spec()
    await world.launcher.open()
    witness = Witness(world.launcher)
    starting = asyncio.create_task(world.launcher.start(spec))
    await witness.until(ServerState.STARTING)
    await world.launcher.stop(spec.port)
    await starting
    assert not [r for r in world.asked if isinstance(r, StartRequest)]
    assert world.launcher.observed()[spec.port].state is ServerState.STOPPED
    assert first.port not in world.launcher.observed()


async def test_a_caller_who_leaves_changes_nothing(world: World) -> None:
    spec = world.spec()
    world.launches()
    await world.launcher.open()
    witness = Witness(world.launcher)
    starting = asyncio.create_task(world.launcher.start(spec))
    await witness.until(ServerState.STARTING)
    starting.cancel()
    await shown(world, spec.port, ServerState.READY)


@pytest.mark.parametrize("made", [True, False], ids=["made-already", "not-made"])
async def test_a_launcher_that_is_killed_in_the_middle(world: World, made: bool) -> None:
    spec = world.spec()
    await world.launcher.open()

    async def die_once(request: Request) -> LauncherReply | None:
        first = len(world.asked) == 1
        if made or not first:
            world.systemd.load(ready(spec))
        return None if first else LauncherReply()

    world.answers.append(die_once)
    await world.launcher.start(spec)
    assert world.launcher.observed()[spec.port].state is ServerState.READY
    assert len(world.asked) == (1 if made else 2)


async def test_a_launcher_that_always_dies(world: World) -> None:
    spec = world.spec()
    await world.launcher.open()

    async def die(_request: Request) -> None:
        return None

    world.answers.append(die)
    await world.launcher.start(spec)
    server = world.launcher.observed()[spec.port]
    assert server.state is ServerState.FAILED
    assert "it ended in the middle of the request" in server.reason


async def test_no_launcher_at_all(tmp_path: Path) -> None:
    with pytest.raises(LauncherUnreachable, match=r"systemctl start magi-launcher\.socket"):
        await LauncherClient(tmp_path / "none.sock").call(protocol.Ping(), 1.0)


async def test_closed(world: World) -> None:
    spec = world.spec()
    world.systemd.load(ready(spec))
    await world.launcher.open()
    await world.launcher.close()
    await world.launcher.close()
    with pytest.raises(Conflict, match="shutting down"):
        await world.launcher.start(spec)
    assert world.asked == []
    assert world.systemd.units[spec.unit]["ActiveState"] == "active"


# -- looking closer --------------------------------------------------------------------------


async def test_the_key_of_what_runs(world: World) -> None:
    spec = world.spec()
    (world.keys / f"{spec.port}.key").write_text("secret\n")
    assert world.launcher.api_key(spec.port) is None
    world.systemd.load(ready(spec))
    await world.launcher.open()
    assert world.launcher.api_key(spec.port) == "secret"
    (world.keys / f"{spec.port}.key").unlink()
    assert world.launcher.api_key(spec.port) is None
    (world.keys / f"{spec.port}.key").write_text("secret\n")
    world.systemd.change(spec.port, **STOPPED)
    await shown(world, spec.port, ServerState.STOPPED)
    assert world.launcher.api_key(spec.port) is None


async def test_figures(world: World) -> None:
    one, two, three = world.spec(), world.spec(), world.spec()
    world.systemd.load(ready(one))
    world.systemd.load(ready(two) | STOPPED)
    world.systemd.load(ready(three, pid=2**22 + 1) | {"MemoryCurrent": 2**64 - 1})
    await world.launcher.open()
    figures = await world.launcher.figures()
    assert figures.keys() == {one.port, three.port}
    assert (figures[one.port].memory_bytes, figures[one.port].cpu_seconds) == (5_000_000, 1.5)
    assert (figures[three.port].memory_bytes, figures[three.port].cpu_seconds) == (None, 1.5)


async def test_each_line_names_the_run_that_it_belongs_to(world: World) -> None:
    spec = world.spec()
    world.systemd.load(ready(spec))
    await world.launcher.open()
    world.journal.add("one", _SYSTEMD_UNIT=spec.unit, _SYSTEMD_INVOCATION_ID="a1")
    world.journal.add("Stopped it", _PID="1", UNIT=spec.unit, INVOCATION_ID="a1")
    world.journal.add("two", _SYSTEMD_UNIT=spec.unit, _SYSTEMD_INVOCATION_ID="b2")
    world.journal.add("of no run", _SYSTEMD_UNIT=spec.unit)
    lines = await world.launcher.logs(spec.port, lines=9)
    assert [line.run for line in lines] == ["a1", "a1", "b2", ""]


async def test_logs(world: World) -> None:
    spec = world.spec()
    world.systemd.load(ready(spec))
    await world.launcher.open()
    last = world.journal.add("loading", _SYSTEMD_UNIT=spec.unit)
    waiting = asyncio.create_task(world.launcher.wait_logs(spec.port, last))
    assert [line.text for line in await world.launcher.logs(spec.port, lines=9)] == ["loading"]
    world.journal.add("Started it", _PID="1", UNIT=spec.unit)
    async with asyncio.timeout(PATIENCE_S):
        await waiting
    lines = await world.launcher.logs(spec.port, lines=9, after=last)
    assert [line.text for line in lines] == ["Started it"]
    with pytest.raises(InvalidInput, match="cursor"):
        await world.launcher.wait_logs(spec.port, "x")


async def test_an_unknown_port(world: World) -> None:
    await world.launcher.open()
    for work in (
        world.launcher.settled(9),
        world.launcher.logs(9, lines=1),
        world.launcher.wait_logs(9, None),
    ):
        with pytest.raises(NotFound):
            await work


async def test_the_command_reads_its_key_from_the_credentials(world: World) -> None:
    spec = world.spec()
    argv = await world.launcher.command(spec)
    at = argv.index("--api-key-file")
    assert argv[at + 1] == f"/run/credentials/{spec.unit}/api-key"


# -- the launcher's references -----------------------------------------------------------------


class Pings:
    """The launcher's answers from now on: refusals as many as `refused`, then it is well."""

    def __init__(self, world: World, refused: int = 0) -> None:
        self._refused = refused
        self._heard = asyncio.Semaphore(0)
        world.answers.append(self._answer)

    async def _answer(self, request: Request) -> LauncherReply:
        assert request == Ping()
        self._heard.release()
        self._refused -= 1
        return (
            LauncherReply("InternalError", "cannot do it")
            if self._refused >= 0
            else LauncherReply()
        )

    async def next(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await self._heard.acquire()


@pytest.mark.parametrize("state", ["inactive", "failed"])
async def test_a_launcher_that_has_ended_is_woken(world: World, state: str) -> None:
    """Also for a unit that is stopped: without a reference systemd would forget it."""
    pings = Pings(world)
    world.systemd.load(ready(world.spec()) | STOPPED)
    await world.launcher.open()
    world.systemd.launcher_became("deactivating")
    world.systemd.launcher_became(state)
    await pings.next()
    world.systemd.launcher_became("active")
    world.systemd.launcher_became(state)
    await pings.next()


async def test_one_that_had_ended_before_magid_came(world: World) -> None:
    pings = Pings(world)
    world.systemd.launcher = "inactive"
    world.systemd.load(ready(world.spec()))
    await world.launcher.open()
    await pings.next()


async def test_a_launcher_is_left_alone_where_there_is_nothing_to_hold(world: World) -> None:
    """It ends when it is idle. Nor is it asked while it lives."""
    pings = Pings(world)
    await world.launcher.open()
    world.systemd.launcher_became("inactive")
    await world.launcher.command(world.spec())
    assert world.asked == []
    world.systemd.load(ready(spec := world.spec()))
    await pings.next()
    world.systemd.launcher_became("active")
    for state in ("active", "inactive"):  # one ping for the two
        world.systemd.change(spec.port, StatusText=f"ready, {state}")
        world.systemd.launcher_became(state)
    await pings.next()
    assert world.asked == [Ping(), Ping()]


async def test_a_launcher_that_cannot_be_woken_is_tried_again(world: World) -> None:
    """Its socket may have been stopped too, or its service masked."""
    pings = Pings(world, refused=2)
    world.systemd.load(ready(world.spec()))
    await world.launcher.open()
    world.systemd.launcher_became("failed")
    for _ in range(3):
        await pings.next()
