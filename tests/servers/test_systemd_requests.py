"""Servers as units: starts, stops, refusals, and what is read of a running one."""

import asyncio
import os
import socket
from dataclasses import replace
from pathlib import Path

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
from magid.launcher.protocol import LauncherReply, Request, StartRequest, StopRequest
from magid.launcher.server import refusal
from magid.servers.backend import ServerState
from magid.servers.systemd.launcher_client import LauncherClient
from tests.support.deadlines import PATIENCE_S
from tests.support.fake_systemd import STOPPED, ready
from tests.support.launcher_contract import Witness
from tests.support.systemd_world import PROGRAM, World, done, shown

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
        return LauncherReply("NotAllowed", "cannot use /x: it is not in a model folder")

    world.answers.append(refuse)
    await world.launcher.start(spec)
    server = world.launcher.observed()[spec.port]
    assert (server.state, server.spec_hash) == (ServerState.FAILED, spec.hash)
    assert server.reason == "cannot use /x: it is not in a model folder"
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
    world.answers.append(done)
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
        async with asyncio.timeout(PATIENCE_S):
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


def own_group() -> str:
    return Path("/proc/self/cgroup").read_text().rpartition(":")[2].strip()


async def test_what_a_server_holds(world: World) -> None:
    """By its control group, which systemd has told; without one, by its process."""
    one, two, three = world.spec(), world.spec(), world.spec()
    own = own_group()
    world.systemd.load(ready(one, pid=os.getpid()) | {"ControlGroup": own})
    world.systemd.load(ready(two, pid=os.getpid()))
    world.systemd.load(ready(three, pid=2**22 + 1))
    await world.launcher.open()
    held = await world.launcher.host_memory()
    assert held.keys() == {one.port, two.port}
    assert min(held.values()) > 0


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
