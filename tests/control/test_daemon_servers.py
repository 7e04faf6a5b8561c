"""What a daemon does with ports and servers, and who comes at the wrong moment."""

import asyncio
from dataclasses import replace

import pytest

from magid.control.daemon import Daemon
from magid.control.snapshot import Phase
from magid.discovery.tiers import Tier
from magid.errors import (
    Conflict,
    ModelDisabled,
    ModelGone,
    ModelNotFound,
    PortTaken,
    ServerFailed,
    TimedOut,
)
from magid.servers.backend import ServerState
from tests.support.daemons import (
    ALPHA,
    BETA,
    GAMMA,
    House,
    errors,
    states,
    until,
)
from tests.support.deadlines import PATIENCE_S
from tests.support.recording_backend import all_quiet

S = ServerState


# -- ports -----------------------------------------------------------------------------------


async def test_no_port_left(house: House) -> None:
    house.settings["port_range"] = (9000, 9001)
    house.write_profile("test", "name: Test\nenabled_models: ['alpha*', 'beta*']\n")
    daemon = await house.running()
    before = daemon.snapshot.registry
    for change in (
        daemon.set_enabled(GAMMA, enabled=True),
        daemon.set_settings(ALPHA, {"instances": 2}),
    ):
        with pytest.raises(PortTaken, match=r"cannot give '\w+' the ports it needs: .* 9000-9001"):
            await change
    assert daemon.snapshot.registry == before
    await daemon.set_enabled(BETA, enabled=False)
    assert (await daemon.set_enabled(GAMMA, enabled=True)).port == 9001


async def test_a_model_without_a_port_can_be_changed_in_other_ways(house: House) -> None:
    house.settings["port_range"] = (9000, 9001)
    daemon = await house.running()
    assert daemon.model(GAMMA).port is None
    assert any(GAMMA in reason for reason in errors(daemon))
    with pytest.raises(PortTaken, match="cannot start"):
        daemon.start(GAMMA)
    with pytest.raises(PortTaken):
        await daemon.set_enabled(GAMMA, enabled=True)
    assert (await daemon.set_tier(GAMMA, Tier.BALANCED)).tier is Tier.BALANCED
    await daemon.set_enabled(GAMMA, enabled=False)
    with pytest.raises(ModelDisabled):
        daemon.start(GAMMA)


async def test_a_port_is_not_given_back_where_no_other_is_left(house: House) -> None:
    house.settings["port_range"] = (9000, 9002)
    first = await house.running()
    await first.set_port(GAMMA, 9002)
    await first.close()
    house.settings["port_range"] = (9000, 9001)
    daemon = await house.running()
    assert daemon.model(GAMMA).port == 9002  # chosen by the user, when it was in the range
    with pytest.raises(PortTaken):
        await daemon.set_port(GAMMA, None)
    assert daemon.model(GAMMA).entry.port_pinned


# -- servers ---------------------------------------------------------------------------------


async def test_start_stop_and_restart(house: House) -> None:
    daemon = await house.running()
    house.launcher.calls.clear()
    await daemon.finished(ALPHA, daemon.start(ALPHA), PATIENCE_S)
    assert house.launcher.calls == []
    await daemon.finished(ALPHA, daemon.restart(ALPHA), PATIENCE_S)
    assert house.launcher.calls == [("stop", 9000), ("start", 9000)]
    await daemon.finished(ALPHA, daemon.stop(ALPHA), PATIENCE_S)
    assert states(daemon)[ALPHA] is S.STOPPED
    assert not errors(daemon)  # a person's stop is respected
    await daemon.finished("alpha_1b_q4km_fast", daemon.start("alpha_1b_q4km_fast"), PATIENCE_S)
    assert states(daemon)[ALPHA] is S.READY


async def test_stop_all_and_start_all(house: House) -> None:
    daemon = await house.running()
    assert daemon.stop_all().model_ids == {ALPHA, BETA, GAMMA}
    await until(daemon, lambda: set(states(daemon).values()) == {S.STOPPED})
    assert daemon.stop_all().is_empty
    assert daemon.start_all().model_ids == {ALPHA, BETA, GAMMA}
    await until(daemon, lambda: set(states(daemon).values()) == {S.READY})


async def test_stop_all_also_calls_off_what_waits(house: House) -> None:
    house.launcher.prompt = False
    daemon = house.daemon()
    await daemon.open()
    await house.launcher.until(("start", 9000))
    await all_quiet()
    assert daemon.queued_ports == {9001, 9002}
    daemon.stop_all()
    assert daemon.queued_ports == frozenset()
    await until(daemon, lambda: daemon.phase is Phase.SERVING)
    assert house.launcher.calls == [("start", 9000), ("stop", 9000)]


async def test_a_model_whose_file_is_gone_can_be_stopped(house: House) -> None:
    daemon = await house.running()
    house.path_of("Beta").unlink()
    await daemon.rescan()
    with pytest.raises(ModelGone):
        daemon.start(BETA)
    await daemon.finished(BETA, daemon.stop(BETA), PATIENCE_S)
    assert states(daemon)[BETA] is S.STOPPED


async def test_a_model_that_is_forgotten_and_still_runs_can_be_stopped(house: House) -> None:
    house.settings["removed_model_days"] = 0
    daemon = await house.running()
    house.path_of("Beta").unlink()
    async with asyncio.timeout(PATIENCE_S):
        while BETA in daemon.snapshot.registry.models:
            await daemon.rescan()  # what is recorded has whole seconds
    with pytest.raises(ModelNotFound):
        daemon.start(BETA)
    await daemon.finished(BETA, daemon.stop(BETA), PATIENCE_S)
    assert states(daemon)[BETA] is S.STOPPED


async def test_a_server_that_failed_can_be_stopped(house: House) -> None:
    daemon = await house.running()
    house.launcher.show(9000, S.FAILED, "it broke")
    assert any("it broke" in reason for reason in errors(daemon))
    await daemon.finished(ALPHA, daemon.stop(ALPHA), PATIENCE_S)
    assert not errors(daemon)


async def test_finished_says_how_it_ended(house: House) -> None:
    daemon = await house.running()
    house.launcher.prompt = False
    house.launcher.calls.clear()
    work = daemon.restart(ALPHA)
    with pytest.raises(TimedOut, match="has not finished after 0 s"):
        await daemon.finished(ALPHA, work, 0)
    await house.launcher.until(("stop", 9000), ("start", 9000))
    house.launcher.show(9000, S.FAILED, "out of memory")
    with pytest.raises(ServerFailed, match=f"cannot run '{ALPHA}': out of memory"):
        await daemon.finished(ALPHA, work, PATIENCE_S)
    waits = daemon.start(ALPHA)
    await house.launcher.wait_for(lambda: states(daemon)[ALPHA] is S.STARTING)
    await all_quiet()
    await daemon.finished(ALPHA, daemon.stop(ALPHA), PATIENCE_S)
    with pytest.raises(Conflict, match="it was stopped meanwhile"):
        await daemon.finished(ALPHA, waits, PATIENCE_S)


async def booting(house: House) -> Daemon:
    """Alpha loads, the others wait for their turn."""
    house.launcher.prompt = False
    daemon = house.daemon()
    await daemon.open()
    await house.launcher.until(("start", 9000))
    await all_quiet()
    return daemon


async def test_a_model_that_is_disabled_while_it_waits_is_not_started(house: House) -> None:
    daemon = await booting(house)
    await daemon.set_enabled(BETA, enabled=False)
    assert daemon.queued_ports == {9002}
    house.path_of("Gamma").unlink()
    await daemon.rescan()
    assert daemon.queued_ports == frozenset()


async def test_apply_moves_what_waits_to_its_new_port(house: House) -> None:
    daemon = await booting(house)
    await daemon.set_port(BETA, 9005)
    daemon.apply()
    assert daemon.queued_ports == {9002, 9005}
    house.launcher.show(9000, S.READY)
    await house.launcher.until(("start", 9000), ("start", 9002))


async def test_a_start_that_waits_can_be_stopped_and_who_waits_for_it_hears(house: House) -> None:
    daemon = await booting(house)
    work = daemon.start(BETA)
    await daemon.finished(BETA, daemon.stop(BETA), PATIENCE_S)
    with pytest.raises(Conflict, match="it was cancelled"):
        await daemon.finished(BETA, work, PATIENCE_S)


async def test_thinking_says_whether_the_tier_changed_by_it(house: House) -> None:
    daemon = await house.running()
    model, changed = await daemon.set_thinking(ALPHA, thinking=True)
    assert (model.tier, changed) == (Tier.POWERFUL, True)
    model, changed = await daemon.set_thinking(ALPHA, thinking=True)
    assert (model.tier, changed) == (Tier.POWERFUL, False)
    model, changed = await daemon.set_thinking(ALPHA, thinking=None)
    assert (model.tier, changed) == (Tier.FAST, True)


async def test_a_server_of_other_settings_needs_a_restart(house: House) -> None:
    daemon = await house.running()
    assert not daemon.restart_required(ALPHA)
    spec = house.launcher.specs[9000]
    house.launcher.adopt(replace(spec, ctx_size=7), S.READY)
    assert daemon.restart_required(ALPHA)
    assert not daemon.restart_required(BETA)
