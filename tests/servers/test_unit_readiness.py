"""A unit's server that answers before systemd knows it; systemd and the bus are the test's own."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from magid.llama.spec import ServerSpec
from magid.servers.backend import ServerState
from magid.servers.readiness import Pace
from tests.support import fake_llama
from tests.support.deadlines import PATIENCE_S
from tests.support.fake_systemd import STOPPED, ready
from tests.support.launcher_contract import Witness
from tests.support.systemd_world import FAILED, World, shown

KEY = "the-key-of-this-server-0123456789abcdef"
STARTING = {"ActiveState": "activating", "SubState": "start-post", "ActiveEnterTimestamp": 0}


def starting(spec: ServerSpec, run: int = 1) -> dict[str, Any]:
    """A unit whose process is there, and whose wait_ready.py has not ended."""
    return ready(spec, run=run) | STARTING | {"UID": os.geteuid()}


@asynccontextmanager
async def serving(world: World, spec: ServerSpec, *behaviour: str) -> AsyncIterator[None]:
    """A llama-server on the port, with the key that magid reads."""
    (world.keys / f"{spec.port}.key").write_text(KEY + "\n")
    key_file = world.keys / f"given-{spec.port}"
    key_file.write_text(KEY + "\n")
    program = fake_llama.install(world.keys / "bin", *behaviour)
    arguments = ["--model", "/m.gguf", "--alias", spec.model_id, "--host", spec.host]
    arguments += ["--port", str(spec.port), "--api-key-file", str(key_file)]
    process = await asyncio.create_subprocess_exec(str(program), *arguments)
    try:
        yield
    finally:
        process.kill()
        await process.wait()


async def test_a_server_is_ready_when_it_answers(world: World) -> None:
    spec = world.spec()
    await world.launcher.open()
    world.systemd.load(starting(spec))
    await shown(world, spec.port, ServerState.STARTING)
    witness = Witness(world.launcher)
    async with serving(world, spec):
        early = await shown(world, spec.port, ServerState.READY)
        assert early.ready_at is not None
        world.systemd.change(
            spec.port,
            ActiveState="active",
            SubState="running",
            ActiveEnterTimestamp=1_700_000_001_500_000,
            NRestarts=1,  # so that the change can be seen
        )
        await world.launcher._units.watched[spec.port].refresh()
    assert witness.states(spec.port) == [ServerState.READY]
    assert witness.seen[-1].restarts == 1
    assert {server.ready_at for server in witness.seen} == {early.ready_at}


async def test_it_has_settled_when_systemd_knows_it_too(world: World) -> None:
    """Who waits for a start may ask systemctl next."""
    spec = world.spec()
    await world.launcher.open()
    world.systemd.load(starting(spec))
    async with serving(world, spec):
        await shown(world, spec.port, ServerState.READY)
        settled = asyncio.create_task(world.launcher.settled(spec.port))
        await world.launcher._units.watched[spec.port].refresh()
        assert not settled.done()
        world.systemd.change(spec.port, ActiveState="active", SubState="running")
        async with asyncio.timeout(PATIENCE_S):
            assert (await settled).state is ServerState.READY


@pytest.mark.parametrize("end", [STOPPED, FAILED])
async def test_what_systemd_says_later_counts(world: World, end: dict[str, Any]) -> None:
    """wait_ready.py may still fail the unit, and the process may end."""
    spec = world.spec()
    await world.launcher.open()
    world.systemd.load(starting(spec))
    async with serving(world, spec):
        await shown(world, spec.port, ServerState.READY)
        world.systemd.change(spec.port, **end)
        state = ServerState.STOPPED if end is STOPPED else ServerState.FAILED
        assert (await shown(world, spec.port, state)).ready_at is None


async def test_a_process_that_ends_at_once_is_not_ready(world: World) -> None:
    """The unit is still starting: its wait_ready.py has not noticed the end."""
    spec = world.spec()
    await world.launcher.open()
    world.systemd.load(starting(spec))
    async with serving(world, spec):
        await shown(world, spec.port, ServerState.READY)
    witness = Witness(world.launcher)
    world.systemd.change(spec.port, MainPID=0)
    await shown(world, spec.port, ServerState.STARTING)
    world.systemd.change(spec.port, SubState="auto-restart")
    await shown(world, spec.port, ServerState.BACKOFF)
    assert ServerState.READY not in witness.states(spec.port)


async def test_the_next_process_has_to_answer_itself(world: World, tmp_path: Path) -> None:
    spec = world.spec()
    await world.launcher.open()
    world.systemd.load(starting(spec))
    async with serving(world, spec):
        await shown(world, spec.port, ServerState.READY)
    world.systemd.load(starting(spec, run=2))
    world.systemd.change(spec.port, MainPID=4343)
    assert (await shown(world, spec.port, ServerState.STARTING)).pid == 4343
    async with serving(world, spec):
        await shown(world, spec.port, ServerState.READY)


@pytest.mark.parametrize("behaviour", ["any-key", "other-alias"])
async def test_another_program_is_not_ready(world: World, behaviour: str) -> None:
    """That the unit fails is for wait_ready.py to see to."""
    spec = world.spec()
    await world.launcher.open()
    world.systemd.load(starting(spec))
    watched = await world.launcher._units.watch(spec.port)
    async with serving(world, spec, behaviour):
        await shown(world, spec.port, ServerState.STARTING)
        async with asyncio.timeout(PATIENCE_S):
            assert watched._looking is not None
            await asyncio.wait([watched._looking[1]])
    assert world.launcher.observed()[spec.port].state is ServerState.STARTING


async def test_a_unit_without_a_user_is_not_asked(
    world: World, free_port: Callable[[], int]
) -> None:
    """A key is sent to the unit's own user only."""
    spec = world.spec()
    await world.launcher.open()
    world.systemd.load(ready(spec) | STARTING)
    await shown(world, spec.port, ServerState.STARTING)
    assert (await world.launcher._units.watch(spec.port))._looking is None


@pytest.mark.parametrize(
    ("took", "pause"),
    [(0.0, 0.005), (0.1, 0.005), (0.2, 0.01), (0.4, 0.02), (2.0, 0.02), (60.0, 0.6), (900.0, 2.0)],
)
def test_a_server_is_seen_within_20_ms_or_a_hundredth_of_its_load(
    took: float, pause: float
) -> None:
    assert Pace(2.0).pause_s(took) == pytest.approx(pause)
    assert Pace(2.0, least_s=0.02).pause_s(took) == pytest.approx(max(pause, 0.02))
