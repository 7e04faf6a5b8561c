"""Servers as units, observed: against a bus, a systemd and a launcher of the test's own."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from magid.launcher.protocol import LauncherReply, Request
from magid.llama.program import LlamaProgram
from magid.servers.backend import ObservedServer, ServerState
from magid.servers.systemd.watcher import UnitWatcher
from magid.systemd.bus import BusError
from tests.support.deadlines import PATIENCE_S
from tests.support.fake_systemd import STOPPED, FakeSystemd, ready
from tests.support.launcher_contract import Witness
from tests.support.private_bus import private_bus
from tests.support.systemd_world import FAILED, World, a_world, done, shown, until

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


async def test_a_unit_of_somebody_else_is_not_loaded_again_by_a_look(world: World) -> None:
    """The signals of that, and of its end, would lead to the next look."""
    spec = world.spec()
    foreign = ready(spec) | {"Transient": False}
    world.systemd.load(foreign)
    await world.launcher.open()
    world.systemd.on_disk[spec.unit] = foreign
    asked = world.systemd.calls.count("GetUnit")
    world.systemd.forget(spec.port)
    async with asyncio.timeout(PATIENCE_S):
        while world.systemd.calls.count("GetUnit") == asked:  # noqa: ASYNC110 - of another task
            await asyncio.sleep(0)
    assert world.systemd.calls[-1] == "GetUnit", "it was read, and loaded by that"


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
    world.systemd.change(spec.port, StatusText="loading (1 s)")
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
        return await done(request)

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


async def test_only_another_state_is_read_at_once() -> None:
    """Each read takes processor time from PID 1 too, beside a load."""
    reads = 0

    async def read() -> None:
        nonlocal reads
        reads += 1

    async def hear(state: object) -> None:
        watched.hear(state)
        for _ in range(5):
            await asyncio.sleep(0)

    watched = UnitWatcher(8080, read, lambda _: None)
    try:
        for state in (("active", "running"), ("deactivating", "stop-sigterm")):
            await hear(state)
        assert reads == 2
        for _ in range(40):
            await hear(("deactivating", "stop-sigterm"))
            await hear(None)
        assert reads < 10
        asked = reads
        await watched.refresh(at_once=False)  # such signals are read too, together
        assert reads == asked + 1
    finally:
        await watched.end()


@pytest.mark.parametrize("turns", range(8))
async def test_a_watch_ends_whatever_it_does(turns: int) -> None:
    """Python 3.11's `asyncio.wait_for` forgets that it is cancelled if its wait is just over."""

    async def read() -> None:
        return

    watched = UnitWatcher(8080, read, lambda _: None)
    await watched.refresh()
    watched.invalidate(at_once=False)
    for _ in range(3):
        await asyncio.sleep(0)
    watched.invalidate()
    for _ in range(turns):
        await asyncio.sleep(0)
    async with asyncio.timeout(PATIENCE_S):
        await watched.end()
