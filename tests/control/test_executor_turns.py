"""Whose turn it is: starts on one device, without a device, and what ends a turn."""

from dataclasses import replace

import pytest

from magid.control.executor import PlanExecutor
from magid.control.turns import Processors
from magid.llama.spec import ServerSpec
from magid.servers.backend import ServerState
from tests.support.plans import A, B, C, StillMachine, ended, on, starts
from tests.support.recording_backend import StillLauncher, all_quiet

S = ServerState


async def test_starts_on_one_device_go_one_after_another(
    launcher: StillLauncher, runner: PlanExecutor
) -> None:
    work = runner.execute(starts(A, B, C))
    await launcher.until(("start", 8080))
    await all_quiet()
    assert launcher.calls == [("start", 8080)]
    assert runner.queued == {8081: B, 8082: C}
    launcher.show(8080, S.LOADING)
    await all_quiet()
    assert launcher.calls == [("start", 8080)]
    launcher.show(8080, S.READY)
    await launcher.until(("start", 8080), ("start", 8081))
    await all_quiet()
    assert runner.queued == {8082: C}
    launcher.show(8081, S.READY)
    await launcher.until(("start", 8080), ("start", 8081), ("start", 8082))
    assert not work.done()
    launcher.show(8082, S.READY)
    await ended(work)


@pytest.mark.parametrize(
    ("first", "second", "side_by_side"),
    [
        (on("CUDA0", A), on("CUDA1", B), True),
        (on("CUDA0", A), on("CUDA0", B), False),
        (on("CUDA0,CUDA1", A), on("CUDA1", B), False),
        (on("CUDA0,CUDA1", A), on("CUDA2,CUDA3", B), True),
        (on("none", A), on("CUDA0", B), True),
        (A, on("CUDA0", B), False),  # llama-server takes every device by itself
        (on("CUDA0", A), B, False),
    ],
)
async def test_devices(
    launcher: StillLauncher,
    runner: PlanExecutor,
    first: ServerSpec,
    second: ServerSpec,
    side_by_side: bool,
) -> None:
    work = runner.execute(starts(first, second))
    await launcher.wait_for(lambda: ("start", first.port) in launcher.calls)
    await all_quiet()
    assert (("start", second.port) in launcher.calls) is side_by_side
    launcher.show(first.port, S.READY)
    await launcher.wait_for(lambda: second.port in launcher.observed())
    launcher.show(second.port, S.READY)
    await ended(work)


async def test_without_a_device_as_many_load_as_there_are_cores(
    launcher: StillLauncher, runner: PlanExecutor, machine: StillMachine
) -> None:
    machine.has = Processors(cores=2, free_bytes=100, has_devices=False)
    work = runner.execute(starts(*(replace(each, n_threads=1) for each in (A, B, C))))
    await launcher.until(("start", 8080), ("start", 8081))
    await all_quiet()
    assert runner.queued.keys() == {8082}
    launcher.show(8081, S.READY)
    await launcher.until(("start", 8080), ("start", 8081), ("start", 8082))
    for port in (8080, 8082):
        launcher.show(port, S.READY)
    await ended(work)


async def test_a_slow_device_does_not_hold_up_the_rest_of_another(
    launcher: StillLauncher, runner: PlanExecutor
) -> None:
    slow, one, two = on("CUDA0", A), on("CUDA1", B), on("CUDA1", C)
    runner.execute(starts(slow, one, two))
    await launcher.until(("start", 8080), ("start", 8081))
    launcher.show(8081, S.READY)
    await launcher.until(("start", 8080), ("start", 8081), ("start", 8082))


@pytest.mark.parametrize("state", [S.READY, S.FAILED, S.BACKOFF, S.STOPPED])
async def test_what_ends_a_turn(
    launcher: StillLauncher, runner: PlanExecutor, state: ServerState
) -> None:
    runner.execute(starts(A, B))
    await launcher.until(("start", 8080))
    launcher.show(8080, state, "as the test wants")
    await launcher.until(("start", 8080), ("start", 8081))


async def test_a_server_that_is_ended_while_it_loads_keeps_its_turn_until_it_is_gone(
    launcher: StillLauncher, runner: PlanExecutor
) -> None:
    runner.execute(starts(A, B))
    await launcher.until(("start", 8080))
    launcher.show(8080, S.STOPPING)
    await all_quiet()
    assert launcher.calls == [("start", 8080)]
    launcher.show(8080, S.FAILED)
    await launcher.until(("start", 8080), ("start", 8081))


@pytest.mark.parametrize("state", [S.READY, S.FAILED, S.BACKOFF])
async def test_a_server_that_is_done_before_anyone_looks(
    launcher: StillLauncher, runner: PlanExecutor, state: ServerState
) -> None:
    launcher.hold("start", 8080)
    work = runner.execute(starts(A))
    await launcher.until(("start", 8080))
    launcher.show(8080, state)
    launcher.release("start", 8080)
    await ended(work)


async def test_a_crash_loop_is_not_missed_between_two_turns_of_the_loop(
    launcher: StillLauncher, runner: PlanExecutor
) -> None:
    runner.execute(starts(A, B))
    await launcher.until(("start", 8080))
    await all_quiet()
    for state in (S.BACKOFF, S.STARTING, S.BACKOFF, S.STARTING):
        launcher.show(8080, state)
    await launcher.until(("start", 8080), ("start", 8081))
