"""Child processes: starts, stops and ends of servers at the same time."""

import asyncio
import os
import signal

import psutil
import pytest

from magid.errors import Conflict
from magid.host.ports import HostPort, owners_of
from magid.servers.backend import ServerState
from tests.support.deadlines import PATIENCE_S
from tests.support.launcher_contract import (
    Specs,
    Witness,
    settle,
    specs,
    started,
)
from tests.support.process_backends import Faking

pytestmark = pytest.mark.slow

__all__ = ["specs"]  # a fixture: pytest finds it here


async def test_starts_at_the_same_time(faking: Faking, specs: Specs) -> None:
    """The last one wins, and one process is left."""
    launcher, spec = faking("fine"), specs()
    witness = Witness(launcher)
    others = [specs(port=spec.port, model_id=f"other_{number}") for number in range(4)]
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*(launcher.start(each) for each in (*others, spec)))
    server = await settle(launcher, spec.port)
    assert (server.state, server.model_id) == (ServerState.READY, spec.model_id)
    pids = {server.pid for server in witness.seen if server.pid}
    assert [pid for pid in pids if psutil.pid_exists(pid)] == [server.pid]


async def test_a_replaced_server_is_spoken_of_no_more(faking: Faking, specs: Specs) -> None:
    launcher, old = faking("fine"), specs()
    new, witness = specs(port=old.port, model_id="other"), Witness(launcher)
    await started(launcher, old)
    await started(launcher, new)
    order = [server.model_id for server in witness.seen]
    assert order == sorted(order, key=["demo_tiny", "other"].index)
    assert witness.states(old.port) == [ServerState.STARTING, ServerState.READY] * 2


async def test_stop_waits_for_the_replaced_server_too(faking: Faking, specs: Specs) -> None:
    launcher, spec = faking("deaf", stop_timeout_s=0.3), specs()
    old = (await started(launcher, spec)).pid
    witness = Witness(launcher)
    replacing = asyncio.create_task(launcher.start(spec))
    await witness.until(ServerState.STARTING)
    await launcher.stop(spec.port)
    assert old
    assert not psutil.pid_exists(old)
    async with asyncio.timeout(PATIENCE_S):
        await replacing
    assert launcher.observed()[spec.port].state is ServerState.STOPPED


async def test_start_and_stop_at_the_same_time(faking: Faking, specs: Specs) -> None:
    launcher, spec = faking("fine"), specs()
    for _ in range(5):
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(launcher.start(spec), launcher.stop(spec.port))
        assert launcher.observed()[spec.port].state is ServerState.STOPPED
        assert owners_of(HostPort(spec.host, spec.port)) == []


async def test_exit_and_stop_at_the_same_time(faking: Faking, specs: Specs) -> None:
    launcher, spec = faking("fine"), specs()
    for signals in ([signal.SIGKILL], [signal.SIGTERM, signal.SIGKILL]):
        server = await started(launcher, spec)
        assert server.pid
        for number in signals:
            os.kill(server.pid, number)
        await launcher.stop(spec.port)
        assert launcher.observed()[spec.port].state is ServerState.STOPPED


async def test_a_caller_who_leaves_changes_nothing(faking: Faking, specs: Specs) -> None:
    launcher, spec = faking("deaf", stop_timeout_s=0.2), specs()
    witness = Witness(launcher)
    start = asyncio.create_task(launcher.start(spec))
    await witness.until(ServerState.STARTING)
    start.cancel()
    assert (await settle(launcher, spec.port)).state is ServerState.READY
    stop = asyncio.create_task(launcher.stop(spec.port))
    await witness.until(ServerState.STOPPING)
    stop.cancel()
    assert (await settle(launcher, spec.port)).state is ServerState.STOPPED


async def test_close_in_the_middle(faking: Faking, specs: Specs) -> None:
    launcher = faking("loading=/nonexistent")
    all_specs = [specs(instance=number) for number in range(3)]
    await asyncio.gather(*(launcher.start(spec) for spec in all_specs))
    pids = [server.pid for server in launcher.observed().values()]
    await launcher.close()
    await launcher.close()
    assert not [pid for pid in pids if pid and psutil.pid_exists(pid)]
    with pytest.raises(Conflict, match="shutting down"):
        await launcher.start(all_specs[0])


async def test_a_listener_that_fails(faking: Faking, specs: Specs) -> None:
    launcher, spec = faking("fine"), specs()

    def fail(_: object) -> None:
        raise RuntimeError("on purpose")

    launcher.subscribe(fail)
    witness = Witness(launcher)
    await started(launcher, spec)
    assert witness.seen[-1].state is ServerState.READY
