"""The daemon from boot to end, and its folders."""

import asyncio

import pytest

from magid.control.snapshot import Phase
from magid.control.state import Change
from magid.discovery.tiers import Tier
from magid.errors import (
    CannotWrite,
    Conflict,
    ModelGone,
    ModelNotFound,
    NotReady,
    RescanFailed,
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


# -- removal ---------------------------------------------------------------------------------


async def test_a_removal_whose_caller_leaves_is_told_all_the_same(house: House) -> None:
    house.settings["library_path"] = house.models
    daemon = await house.running()
    await daemon.stop(ALPHA)
    house.launcher.hold("remove", 1)
    caller = asyncio.create_task(daemon.removals.remove(ALPHA, forget=False))
    await house.launcher.wait_for(lambda: ("remove", 1) in house.launcher.calls)
    caller.cancel()
    await asyncio.wait([caller])
    house.launcher.release("remove", 1)
    await until(daemon, lambda: ALPHA not in daemon.snapshot.models)
    assert not house.path_of("Alpha").exists()


async def test_a_removal_of_files_that_are_gone_already(house: House) -> None:
    house.settings["library_path"] = house.models
    daemon = await house.running()
    await daemon.stop(ALPHA)
    house.path_of("Alpha").unlink()
    assert (await daemon.removals.remove(ALPHA, forget=False)).removed == ()
    assert ALPHA not in daemon.snapshot.models
