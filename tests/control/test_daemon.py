"""The daemon from boot to end: folders, ports, servers, and who comes at the wrong moment."""

import asyncio
from dataclasses import replace

import pytest

from magid.control.daemon import Daemon
from magid.control.snapshot import Phase
from magid.control.state import Change
from magid.discovery.tiers import Tier
from magid.errors import (
    CannotWrite,
    Conflict,
    ModelDisabled,
    ModelGone,
    ModelNotFound,
    NotReady,
    PortTaken,
    RescanFailed,
    ServerFailed,
    TimedOut,
)
from magid.servers.backend import ServerState
from tests.support.daemons import (
    ALPHA,
    BETA,
    GAMMA,
    ONLY_FAST,
    House,
    entry,
    errors,
    states,
    until,
    warnings,
)
from tests.support.deadlines import PATIENCE_S
from tests.support.recording_backend import all_quiet, refusal

S = ServerState


# -- boot ------------------------------------------------------------------------------------


async def test_boot(house: House) -> None:
    daemon = await house.running()
    assert states(daemon) == {ALPHA: S.READY, BETA: S.READY, GAMMA: S.READY}
    assert not errors(daemon)
    assert [port for _, port in house.launcher.calls] == [9000, 9001, 9002]  # the small one first
    assert [entry(house, i)["ports"] for i in (ALPHA, BETA, GAMMA)] == [[9000], [9001], [9002]]
    kinds = [change.kind for change in house.changes]
    assert kinds.count("phase") == 2
    assert kinds.index("registry") < kinds.index("phase") < kinds.index("server")


async def test_before_the_scan_models_are_not_ready_yet(house: House) -> None:
    await (await house.running()).close()
    daemon = await house.in_first_scan()
    assert daemon.phase is Phase.SCANNING
    for verb in (daemon.model, daemon.start, daemon.restart):
        with pytest.raises(NotReady, match=r"cannot use model 'alpha_.* yet"):
            verb(ALPHA)
    with pytest.raises(NotReady):
        await daemon.set_tier(ALPHA, Tier.FAST)
    with pytest.raises(ModelNotFound):
        daemon.stop("delta")
    await asyncio.wait([daemon.stop(ALPHA)])


async def test_decisions_and_ports_survive(house: House) -> None:
    first = await house.running()
    await first.set_tier(ALPHA, Tier.POWERFUL)
    await first.set_enabled(BETA, enabled=False)
    await first.set_port(GAMMA, 9005)
    await first.close()
    house.write_profile("test", ONLY_FAST)
    second = await house.running()
    assert second.model(ALPHA).tier is Tier.POWERFUL
    assert second.model(BETA).entry.enabled_override is False
    assert second.model(GAMMA).port == 9005


async def test_boot_with_a_store_that_cannot_be_written_starts_models(house: House) -> None:
    house.settings["registry_path"] = house.folder / "file" / "registry.json"
    daemon = house.daemon()
    await daemon.open()
    (house.folder / "file").write_text("in the way")
    await until(daemon, lambda: daemon.phase is Phase.SERVING)
    assert set(states(daemon).values()) == {S.READY}
    assert any("cannot write" in problem for problem in daemon.snapshot.store_problems)
    with pytest.raises(CannotWrite):
        await daemon.set_tier(ALPHA, Tier.POWERFUL)


async def test_boot_with_no_readable_folder_serves_and_says_why(house: House) -> None:
    house.settings["model_paths"] = (house.folder / "none",)
    daemon = await house.running()
    assert not daemon.snapshot.disk.listed
    assert any("no model folder" in reason for reason in errors(daemon))
    assert any(f"{house.folder}/none" in problem for problem in warnings(daemon))


async def test_boot_with_no_readable_folder_stops_nothing_that_runs(house: House) -> None:
    """Nothing is known to be wanted then: a disk that is not mounted yet, a reader that ended."""
    await (await house.running()).close()  # its servers run on
    house.launcher.calls.clear()
    house.models.rename(house.folder / "unmounted")
    daemon = await house.running()
    assert errors(daemon)
    (house.folder / "unmounted").rename(house.models)
    await daemon.rescan()
    await all_quiet()
    assert states(daemon) == {ALPHA: S.READY, BETA: S.READY, GAMMA: S.READY}
    assert house.launcher.calls == []


async def test_boot_waits_for_a_user_who_was_quicker(house: House) -> None:
    """A model is changing when the plan of the boot is made: that must not be refused."""
    await (await house.running()).close()  # its servers run on
    house.launcher.calls.clear()
    house.launcher.hold("stop", 9000)
    daemon = house.daemon()
    begun: list[asyncio.Task[None]] = []

    def look(change: Change) -> None:
        if change.kind == "registry" and ALPHA in daemon.snapshot.models and not begun:
            begun.append(daemon.stop(ALPHA))

    daemon.subscribe(look)
    await daemon.open()
    await house.launcher.until(("stop", 9000))
    await all_quiet()
    house.launcher.release("stop", 9000)
    await until(daemon, lambda: daemon.phase is Phase.SERVING)
    assert states(daemon).pop(ALPHA) is S.STOPPED  # as he asked
    assert house.launcher.calls == [("stop", 9000)]


async def test_a_launcher_that_refuses_ends_the_boot_all_the_same(house: House) -> None:
    house.launcher.refuse = {9000: refusal()}
    daemon = await house.running()
    assert states(daemon) == {BETA: S.READY, GAMMA: S.READY}


# -- the end ---------------------------------------------------------------------------------


async def test_drain_during_the_scan_starts_nothing_more(house: House) -> None:
    daemon = await house.in_first_scan()
    daemon.drain()
    house.scans.open()
    await until(daemon, lambda: ALPHA in daemon.snapshot.models)
    await all_quiet()
    assert daemon.phase is Phase.DRAINING
    assert house.launcher.calls == []


async def test_drain_while_servers_start_stays_draining(house: House) -> None:
    house.launcher.hold("start", 9001)
    daemon = house.daemon()
    await daemon.open()
    await house.launcher.until(("start", 9000), ("start", 9001))
    daemon.drain()
    house.launcher.release("start", 9001)
    await until(daemon, lambda: set(states(daemon).values()) == {S.READY})
    await all_quiet()
    assert daemon.phase is Phase.DRAINING


async def test_close_during_the_scan_does_not_wait_for_all_files(house: House) -> None:
    daemon = await house.running()
    house.add("Delta", 2)  # so that there is a file to read
    house.scans.shut()
    rescan = asyncio.create_task(daemon.rescan())
    await house.scans.reached.wait()
    await daemon.close()
    house.scans.open()
    with pytest.raises(Conflict, match="cannot finish the scan: magid is shutting down"):
        await rescan


async def test_close_during_boot_leaves_nothing_behind(house: House) -> None:
    daemon = await house.in_first_scan()
    await daemon.close()
    await daemon.close()
    assert house.launcher.calls == []


async def test_close_waits_for_what_is_being_written(house: House) -> None:
    daemon = await house.running()
    house.saves.shut()
    change = asyncio.create_task(daemon.set_tier(ALPHA, Tier.POWERFUL))
    await house.saves.reached.wait()
    close = asyncio.create_task(daemon.close())
    await all_quiet()
    assert not close.done()
    house.saves.open()
    await close
    assert (await change).tier is Tier.POWERFUL
    assert entry(house, ALPHA)["tierOverride"] == "powerful"
    with pytest.raises(Conflict, match="shutting down"):
        await daemon.set_tier(ALPHA, None)
    with pytest.raises(Conflict, match="shutting down"):
        daemon.apply()


# -- folders ---------------------------------------------------------------------------------


async def test_no_readable_folder_loses_nothing(house: House) -> None:
    daemon = await house.running()
    await daemon.set_tier(ALPHA, Tier.POWERFUL)
    before, on_disk = daemon.snapshot, house.registry.read_bytes()
    house.models.rename(house.folder / "unmounted")
    with pytest.raises(RescanFailed, match=r"cannot read any model folder: .*/models: "):
        await daemon.rescan()
    now = daemon.snapshot
    assert (now.registry, now.models) == (before.registry, before.models)
    assert any("/models" in problem for problem in warnings(daemon))
    assert house.registry.read_bytes() == on_disk
    (house.folder / "unmounted").rename(house.models)
    assert (await daemon.rescan()).removed == ()
    assert not warnings(daemon)


async def test_one_unreadable_folder_leaves_the_rest(house: House) -> None:
    more = house.folder / "more"
    more.mkdir()
    house.path_of("Gamma").rename(more / house.path_of("Gamma").name)
    house.settings |= {"model_paths": (house.models, more), "removed_model_days": 0}
    daemon = await house.running()
    await daemon.set_tier(GAMMA, Tier.FAST)
    more.rename(house.folder / "unmounted")
    for _ in range(2):
        result = await daemon.rescan()
        assert (result.found, result.added) == (2, ())
    with pytest.raises(ModelGone):
        daemon.model(GAMMA)
    assert daemon.model(ALPHA).enabled
    assert any("/more" in problem for problem in warnings(daemon))
    (house.folder / "unmounted").rename(more)
    await daemon.rescan()
    assert daemon.model(GAMMA).tier is Tier.FAST


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
