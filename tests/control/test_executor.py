"""The order in which plans are carried out, shown with a launcher that waits for the test."""

import asyncio
import gc
import logging
from dataclasses import replace

import pytest

from magid.control.executor import PlanExecutor
from magid.control.planner import Plan
from magid.errors import Busy, Conflict, NotReady, ServerFailed, TimedOut
from magid.llama.placement import Placement
from magid.llama.spec import ServerSpec
from magid.servers.backend import ServerState
from tests.support.deadlines import PATIENCE_S
from tests.support.plans import A, B, C, StillMachine, ended, restarts, starts, stops
from tests.support.recording_backend import Nowhere, StillLauncher, all_quiet, refusal
from tests.support.values import spec

S = ServerState


# -- the queue -------------------------------------------------------------------------------


async def test_a_queued_start_can_be_called_off(
    launcher: StillLauncher, runner: PlanExecutor
) -> None:
    work = runner.execute(starts(A, B, C))
    await launcher.until(("start", 8080))
    runner.cancel_queued([8081, 9999])
    runner.cancel_queued([8081])
    assert runner.queued == {8082: C}
    launcher.show(8080, S.READY)
    await launcher.until(("start", 8080), ("start", 8082))
    launcher.show(8082, S.READY)
    with pytest.raises(Conflict, match="it was cancelled"):
        await ended(work)


async def test_one_called_off_at_the_very_moment_of_its_turn_does_not_start(
    launcher: StillLauncher, runner: PlanExecutor
) -> None:
    runner.execute(starts(A, B))
    await launcher.until(("start", 8080))
    launcher.show(8080, S.READY)
    runner.cancel_queued([8081])
    await all_quiet()
    assert launcher.calls == [("start", 8080)]


async def test_a_stop_calls_off_what_is_queued_on_its_port(
    launcher: StillLauncher, runner: PlanExecutor
) -> None:
    runner.execute(starts(A, B))
    await launcher.until(("start", 8080))
    await ended(runner.execute(stops(B)))
    launcher.show(8080, S.READY)
    await all_quiet()
    assert launcher.calls == [("start", 8080), ("stop", 8081)]


async def test_the_same_start_is_not_queued_twice_and_both_who_asked_wait_for_it(
    launcher: StillLauncher, runner: PlanExecutor
) -> None:
    first = runner.execute(starts(A, B))
    await launcher.until(("start", 8080))
    second = runner.execute(starts(B))
    launcher.show(8080, S.READY)
    await launcher.until(("start", 8080), ("start", 8081))
    await all_quiet()
    assert not second.done()
    launcher.show(8081, S.READY)
    await ended(first)
    await ended(second)
    assert launcher.calls == [("start", 8080), ("start", 8081)]


async def test_a_changed_spec_replaces_the_queued_one(
    launcher: StillLauncher, runner: PlanExecutor
) -> None:
    changed = replace(B, ctx_size=512)
    first = runner.execute(starts(A, B))
    await launcher.until(("start", 8080))
    second = runner.execute(starts(changed))
    assert runner.queued == {8081: changed}
    launcher.show(8080, S.READY)
    await launcher.until(("start", 8080), ("start", 8081))
    assert launcher.specs[8081] == changed
    launcher.show(8081, S.READY)
    await ended(second)
    with pytest.raises(Conflict):
        await ended(first)


async def test_nothing_is_called_off_by_a_request_that_is_refused(
    launcher: StillLauncher, runner: PlanExecutor
) -> None:
    twin = replace(A, instance=1, port=8090)
    launcher.hold("start", 8080)
    runner.execute(starts(A, twin))
    await launcher.until(("start", 8080))
    with pytest.raises(Busy):
        runner.execute(stops(A), cancel=[8090])
    assert runner.queued == {8090: twin}
    launcher.release("start", 8080)


class Bounded(Nowhere):
    """Decides nothing but the bound of a prompt cache."""

    async def place(self, spec: ServerSpec, failed: Placement | None = None) -> Placement | None:
        assert failed is None, "there is no other place"
        return Placement((), 1, "own", source="unknown", cache_ram=512)


async def test_a_bound_of_the_prompt_cache_is_no_place_that_could_be_another(
    launcher: StillLauncher, machine: StillMachine
) -> None:
    runner = PlanExecutor(launcher, machine, Bounded())
    work = runner.execute(starts(A))
    await launcher.until(("start", 8080))
    launcher.show(8080, S.FAILED, "crashed (SIGABRT): failed to allocate its buffer")
    await ended(work)
    assert launcher.calls == [("start", 8080)]
    await runner.close()


# -- stops before starts ---------------------------------------------------------------------


async def test_a_restart_starts_only_after_the_stop(
    launcher: StillLauncher, runner: PlanExecutor
) -> None:
    launcher.adopt(A, S.READY)
    launcher.hold("stop", 8080)
    work = runner.execute(restarts(A))
    await launcher.until(("stop", 8080))
    await all_quiet()
    assert launcher.calls == [("stop", 8080)]
    launcher.release("stop", 8080)
    await launcher.until(("stop", 8080), ("start", 8080))
    launcher.show(8080, S.READY)
    await ended(work)


async def test_all_stops_of_a_plan_come_before_its_starts(
    launcher: StillLauncher, runner: PlanExecutor
) -> None:
    for each in (A, B):
        launcher.adopt(each, S.READY)
        launcher.hold("stop", each.port)
    runner.execute(Plan(stop=stops(A, B).stop, start=starts(C).start))
    await launcher.until(("stop", 8080), ("stop", 8081))
    launcher.release("stop", 8080)
    await all_quiet()
    assert launcher.calls == [("stop", 8080), ("stop", 8081)]
    launcher.release("stop", 8081)
    await launcher.until(("stop", 8080), ("stop", 8081), ("start", 8082))


async def test_a_stop_of_what_is_loading_ends_its_start_for_who_waits(
    launcher: StillLauncher, runner: PlanExecutor
) -> None:
    start = runner.execute(starts(A))
    await launcher.until(("start", 8080))
    launcher.show(8080, S.LOADING)
    await all_quiet()
    await ended(runner.execute(stops(A)))
    with pytest.raises(Conflict, match="cannot finish the start of 'a': it was stopped"):
        await ended(start)


# -- busy ------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["start", "stop"])
async def test_busy_while_a_model_changes(
    launcher: StillLauncher, runner: PlanExecutor, verb: str
) -> None:
    if verb == "stop":
        launcher.adopt(A, S.READY)
    launcher.hold(verb, 8080)
    work = runner.execute(starts(A) if verb == "start" else stops(A))
    await launcher.until((verb, 8080))
    for plan in (stops(A), starts(A), restarts(A), starts(B, A)):
        with pytest.raises(Busy, match="cannot change 'a': another change of it is under way"):
            runner.execute(plan)
    assert launcher.calls == [(verb, 8080)]
    launcher.release(verb, 8080)
    if verb == "start":
        launcher.show(8080, S.READY)
    await ended(work)
    runner.execute(stops(A))


async def test_starts_that_wait_for_the_stops_of_their_models(
    launcher: StillLauncher, runner: PlanExecutor
) -> None:
    launcher.adopt(A, S.READY)
    launcher.hold("stop", 8080)
    runner.execute(stops(A))
    launcher.hold("start", 8081)
    runner.execute(starts(B))
    await launcher.wait_for(lambda: ("start", 8081) in launcher.calls)
    assert runner.stopping == {8080}
    plan = runner.behind_stops(starts(B, A))
    assert plan.model_ids == {"a"}, "b is being started already"
    work = runner.execute(plan, behind_stops=True)
    await all_quiet()
    assert ("start", 8080) not in launcher.calls
    launcher.release("stop", 8080)
    launcher.release("start", 8081)
    launcher.show(8081, S.READY)
    await launcher.wait_for(lambda: ("start", 8080) in launcher.calls)
    launcher.show(8080, S.READY)
    await ended(work)
    assert not runner.stopping
    assert runner.behind_stops(restarts(A)) == restarts(A)


async def test_two_restarts_of_one_instant_do_not_both_pass(
    launcher: StillLauncher, runner: PlanExecutor
) -> None:
    launcher.adopt(A, S.READY)
    runner.execute(restarts(A))
    with pytest.raises(Busy):
        runner.execute(restarts(A))


async def test_other_models_are_not_busy(launcher: StillLauncher, runner: PlanExecutor) -> None:
    launcher.adopt(B, S.READY)
    launcher.hold("start", 8080)
    runner.execute(starts(A))
    await launcher.until(("start", 8080))
    await ended(runner.execute(stops(B)))
    launcher.release("start", 8080)


async def test_quiet_is_when_nothing_changes(launcher: StillLauncher, runner: PlanExecutor) -> None:
    await runner.wait_idle()
    for port in (8080, 8081):
        launcher.adopt(spec(str(port), port), S.READY)
        launcher.hold("stop", port)
    runner.execute(stops(spec("8080", 8080), spec("8081", 8081)))
    waits = asyncio.create_task(runner.wait_idle())
    await launcher.until(("stop", 8080), ("stop", 8081))
    launcher.release("stop", 8080)
    await all_quiet()
    assert not waits.done()
    launcher.release("stop", 8081)
    await ended(waits)


# -- when things go wrong --------------------------------------------------------------------


@pytest.mark.parametrize("error", [refusal(), RuntimeError("a defect")])
async def test_errors_of_the_launcher_do_not_keep_the_rest_from_being_done(
    launcher: StillLauncher,
    runner: PlanExecutor,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    launcher.adopt(A, S.READY)
    launcher.refuse = {8080: error, 8081: error}
    work = runner.execute(Plan(stop=stops(A).stop, start=starts(B, C).start))
    await launcher.until(("stop", 8080), ("start", 8081), ("start", 8082))
    launcher.show(8082, S.READY)
    with pytest.raises(type(error)):
        await ended(work)
    logged = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert len(logged) == 2
    assert all(str(error) in (r.getMessage() + str(r.exc_info)) for r in logged)
    await runner.wait_idle()
    await ended(runner.execute(stops(A)))


async def test_an_error_that_nobody_waits_for_is_logged_once(
    launcher: StillLauncher, runner: PlanExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    launcher.refuse = {8080: refusal()}
    runner.execute(starts(A))
    await launcher.until(("start", 8080))
    await all_quiet()
    gc.collect()  # asyncio speaks up when an error is collected unseen
    assert [(r.name, r.message) for r in caplog.records if r.levelno >= logging.WARNING] == [
        ("magid.control.executor", refusal().message)
    ]


async def test_who_stops_waiting_does_not_undo_the_plan(
    launcher: StillLauncher, runner: PlanExecutor
) -> None:
    work = runner.execute(starts(A, B))
    await launcher.until(("start", 8080))
    work.cancel()
    launcher.show(8080, S.READY)
    await launcher.until(("start", 8080), ("start", 8081))


async def test_close_ends_everything_and_tells_who_waits(
    launcher: StillLauncher, runner: PlanExecutor
) -> None:
    launcher.adopt(C, S.READY)
    launcher.hold("start", 8080)
    launcher.hold("stop", 8082)
    start, stop = runner.execute(starts(A, B)), runner.execute(stops(C))
    await launcher.until(("start", 8080), ("stop", 8082))
    await runner.close()
    await runner.close()
    for work in (start, stop):
        with pytest.raises(Conflict, match="shutdown of magid"):
            await ended(work)
    with pytest.raises(Conflict, match="shutting down"):
        runner.execute(starts(A))
    assert launcher.calls == [("start", 8080), ("stop", 8082)]


# -- waiting ---------------------------------------------------------------------------------


async def test_finished_waits_for_a_server_that_comes_back(
    launcher: StillLauncher, runner: PlanExecutor
) -> None:
    work = runner.execute(starts(A))
    waits = asyncio.create_task(runner.finished("a", {8080}, work, PATIENCE_S))
    await launcher.until(("start", 8080))
    launcher.show(8080, S.BACKOFF)
    await ended(work)
    await all_quiet()
    assert not waits.done()
    launcher.show(8080, S.READY)
    await ended(waits)


async def test_finished_ends_with_the_cause_of_the_first_try(
    launcher: StillLauncher, runner: PlanExecutor
) -> None:
    work = runner.execute(starts(A))
    waits = asyncio.create_task(runner.finished("a", {8080}, work, PATIENCE_S, first_try=True))
    await launcher.until(("start", 8080))
    launcher.show(8080, S.BACKOFF, "exited with status 1: it is broken; restarting in 1 s")
    with pytest.raises(ServerFailed, match="cannot run 'a': exited with status 1: it is broken"):
        await waits
    await ended(work)


async def test_finished_says_why_a_server_failed(
    launcher: StillLauncher, runner: PlanExecutor
) -> None:
    launcher.adopt(replace(A, port=8099), S.FAILED)  # on a port it had before: does not count
    work = runner.execute(starts(A))
    await launcher.until(("start", 8080))
    launcher.show(8080, S.FAILED, "it is broken")
    with pytest.raises(ServerFailed, match=r"cannot run 'a': it is broken; GET .*/a/logs"):
        await runner.finished("a", {8080}, work, PATIENCE_S)
    await runner.finished("a", set(), work, PATIENCE_S)


async def test_finished_passes_on_what_the_launcher_refused(
    launcher: StillLauncher, runner: PlanExecutor
) -> None:
    launcher.refuse = {8080: refusal()}
    with pytest.raises(NotReady, match="cannot reach the launcher"):
        await runner.finished("a", {8080}, runner.execute(starts(A)), PATIENCE_S)


async def test_finished_gives_up_and_the_work_goes_on(
    launcher: StillLauncher, runner: PlanExecutor
) -> None:
    work = runner.execute(starts(A))
    with pytest.raises(TimedOut, match="has not finished after 0 s"):
        await runner.finished("a", {8080}, work, 0)
    await launcher.until(("start", 8080))
    launcher.show(8080, S.READY)
    await ended(work)
