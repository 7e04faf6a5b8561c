"""What is decided: changes at the same time, disks that fail, profiles that people edit."""

import asyncio
import logging

import pytest

from magid.catalog.profile import Profile
from magid.catalog.registry import fields_of
from magid.control.snapshot import Phase
from magid.control.state import Change
from magid.discovery.tiers import Tier
from magid.errors import (
    CannotWrite,
    InvalidProfile,
    MagidError,
    ProfileActive,
    ProfileNotFound,
    StaleRevision,
)
from magid.servers.backend import ServerState
from tests.support.daemons import (
    ALPHA,
    BETA,
    EVERYTHING,
    GAMMA,
    ONLY_FAST,
    House,
    entry,
    errors,
    states,
    stored,
    until,
    warnings,
)
from tests.support.recording_backend import all_quiet

S = ServerState


def break_state(house: House) -> None:
    """No write can succeed from now on, whoever asks; root as well."""
    house.state.rename(house.folder / "moved")
    house.state.write_text("a file where the folder was")


def mend_state(house: House) -> None:
    house.state.unlink()
    (house.folder / "moved").rename(house.state)


# -- changes at the same time ----------------------------------------------------------------


async def test_concurrent_changes_are_all_kept(house: House) -> None:
    daemon = await house.running()
    await asyncio.gather(
        daemon.set_tier(ALPHA, Tier.POWERFUL),
        daemon.set_thinking(ALPHA, thinking=True),
        daemon.set_enabled(BETA, enabled=False),
        daemon.set_settings(GAMMA, {"ctx_size": 512}),
        daemon.set_settings(GAMMA, {"parallel": 2}),
        daemon.set_port(GAMMA, 9005),
        daemon.rescan(),
    )
    assert house.saves.at_once == 1
    for model in (daemon.model(ALPHA).entry, entry(house, ALPHA)):
        kept = model if isinstance(model, dict) else fields_of(model)
        assert (kept["tierOverride"], kept["thinkingOverride"]) == ("powerful", True)
    assert entry(house, BETA)["enabledOverride"] is False
    assert entry(house, GAMMA)["settings"] == {"ctxSize": 512, "parallel": 2}
    assert (entry(house, GAMMA)["ports"], entry(house, GAMMA)["portPinned"]) == ([9005], True)


async def test_a_rescan_while_changes_come_loses_neither(house: House) -> None:
    daemon = await house.running()
    house.add("Delta", 2)
    house.scans.shut()
    rescan = asyncio.create_task(daemon.rescan())
    await house.scans.reached.wait()
    await daemon.set_tier(ALPHA, Tier.POWERFUL)
    house.scans.open()
    assert (await rescan).added == ("delta_2p0b_q4km_fast",)
    assert daemon.model(ALPHA).entry.tier_override is Tier.POWERFUL
    assert entry(house, ALPHA)["tierOverride"] == "powerful"
    assert "delta_2p0b_q4km_fast" in stored(house)["models"]


async def test_nobody_sees_a_change_before_it_is_durable(house: House) -> None:
    daemon = await house.running()
    before = daemon.snapshot
    house.saves.shut()
    change = asyncio.create_task(daemon.set_tier(ALPHA, Tier.POWERFUL))
    await house.saves.reached.wait()
    assert daemon.snapshot is before
    house.saves.open()
    await change
    assert daemon.model(ALPHA).tier is Tier.POWERFUL


async def test_a_caller_that_goes_away_leaves_no_second_writer(house: House) -> None:
    daemon = await house.running()
    house.saves.shut()
    gone = asyncio.create_task(daemon.set_tier(ALPHA, Tier.POWERFUL))
    await house.saves.reached.wait()
    gone.cancel()
    other = asyncio.create_task(daemon.set_tier(BETA, Tier.POWERFUL))
    await all_quiet()
    house.saves.open()
    await other
    assert gone.cancelled()
    assert house.saves.at_once == 1
    for model_id in (ALPHA, BETA):
        assert daemon.model(model_id).tier is Tier.POWERFUL
        assert entry(house, model_id)["tierOverride"] == "powerful"


async def test_an_edited_profile_seen_while_a_change_is_written_is_not_forgotten(
    house: House,
) -> None:
    daemon = await house.running()
    house.saves.shut()
    change = asyncio.create_task(daemon.set_tier(BETA, Tier.POWERFUL))
    await house.saves.reached.wait()
    house.write_profile("test", ONLY_FAST)
    daemon.refresh_profile()
    assert not daemon.model(GAMMA).enabled
    revision = daemon.snapshot.active.revision
    seen = len(house.changes)
    house.saves.open()
    await change
    assert daemon.snapshot.active.revision == revision
    assert not daemon.model(GAMMA).enabled
    assert Change("profile") not in house.changes[seen:]  # it was not found out a second time


# -- disks that fail -------------------------------------------------------------------------


async def test_nothing_changes_that_cannot_be_written(house: House) -> None:
    daemon = await house.running()
    before, on_disk = daemon.snapshot, house.registry.read_bytes()
    break_state(house)
    house.write_profile("other", ONLY_FAST)
    for change in (
        daemon.set_tier(ALPHA, Tier.POWERFUL),
        daemon.set_thinking(ALPHA, thinking=True),
        daemon.set_enabled(ALPHA, enabled=False),
        daemon.set_settings(ALPHA, {"ctx_size": 5}),
        daemon.set_port(ALPHA, 9005),
        daemon.activate("other", apply=True),
    ):
        with pytest.raises(CannotWrite, match=r"cannot write .*model_registry.json"):
            await change
    now = daemon.snapshot
    assert (now.registry, now.models, now.active) == (before.registry, before.models, before.active)
    assert "model_registry.json" in now.store_problems[0]
    mend_state(house)
    assert house.registry.read_bytes() == on_disk
    await daemon.set_tier(ALPHA, Tier.POWERFUL)
    assert not warnings(daemon)
    assert entry(house, ALPHA)["tierOverride"] == "powerful"


async def test_a_registry_of_which_no_copy_is_sound_costs_the_decisions_and_no_more(
    house: House,
) -> None:
    daemon = await house.running()
    for tier in (Tier.POWERFUL, Tier.FAST) * 3:
        await daemon.set_tier(ALPHA, tier)
    await daemon.close()
    copies = [house.registry, *house.state.glob("model_registry.json.[1-9]")]
    for number, copy in enumerate(copies):
        copy.write_text("{" * number)
    daemon = await house.running()
    aside = house.state.glob("model_registry.json.corrupt-*")
    assert sorted(path.read_text() for path in aside) == ["{" * n for n in range(6)]
    assert any("cannot find a good copy" in problem for problem in warnings(daemon))
    assert set(states(daemon)) == {ALPHA, BETA, GAMMA}
    assert daemon.model(ALPHA).entry.tier_override is None
    await daemon.set_tier(ALPHA, Tier.POWERFUL)
    assert entry(house, ALPHA)["tierOverride"] == "powerful"


async def test_a_rescan_that_changes_nothing_is_not_written(house: House) -> None:
    daemon = await house.running()
    before = house.registry.read_bytes()
    await daemon.rescan()
    assert house.registry.read_bytes() == before  # the older generations are still decisions
    house.add("Delta", 2)
    await daemon.rescan()
    assert house.registry.read_bytes() != before


async def test_a_rescan_that_cannot_be_written_counts_and_says_so(house: House) -> None:
    daemon = await house.running()
    await asyncio.to_thread(house.path_of("Beta").unlink)
    break_state(house)
    with pytest.raises(CannotWrite):
        await daemon.rescan()
    assert BETA not in daemon.snapshot.models
    mend_state(house)
    await daemon.set_tier(ALPHA, Tier.FAST)
    assert entry(house, BETA)["missingSince"]  # what was not written then is written now


# -- profiles --------------------------------------------------------------------------------


async def test_a_profile_edited_by_hand_is_seen_and_its_ports_are_kept(house: House) -> None:
    house.write_profile("test", ONLY_FAST)
    daemon = await house.running()
    assert states(daemon) == {ALPHA: S.READY}
    seen = len(house.changes)
    house.write_profile("test", EVERYTHING)
    before = daemon.snapshot
    assert daemon.snapshot is before  # to read changes nothing
    daemon.refresh_profile()
    assert daemon.model(GAMMA).enabled
    assert house.changes[seen:] == [Change("registry"), Change("profile")]
    port = daemon.model(GAMMA).port
    await until(daemon, lambda: entry(house, GAMMA).get("ports") == [port])
    assert daemon.make_plan().model_ids == {BETA, GAMMA}  # applied only when asked


async def test_a_broken_profile_leaves_the_last_good_one(house: House) -> None:
    daemon = await house.running()
    house.write_profile("test", "name: [\n")
    daemon.refresh_profile()
    assert daemon.model(GAMMA).enabled
    assert any("test.yaml" in problem for problem in warnings(daemon))
    revision = daemon.snapshot.revision
    daemon.refresh_profile()
    assert daemon.snapshot.revision == revision  # read again only when it changes
    with pytest.raises(InvalidProfile):
        await daemon.activate("test", apply=False)
    house.write_profile("test", ONLY_FAST)
    daemon.refresh_profile()
    assert not daemon.model(GAMMA).enabled
    assert not warnings(daemon)


async def test_a_profile_that_is_missing_at_boot(house: House) -> None:
    (house.profiles / "test.yaml").unlink()
    daemon = await house.running()
    assert states(daemon) == {}
    assert any("cannot find profile 'test'" in reason for reason in errors(daemon))
    house.write_profile("test", ONLY_FAST)
    daemon.refresh_profile()
    assert daemon.model(ALPHA).enabled
    assert not errors(daemon)


async def test_activate_is_durable_and_applies(house: House) -> None:
    house.write_profile("fast", ONLY_FAST)
    daemon = await house.running()
    plan = await daemon.activate("fast", apply=False)
    assert [line.model_id for line in plan.stop] == [BETA, GAMMA]
    assert set(states(daemon).values()) == {S.READY}
    assert stored(house)["activeProfile"] == "fast"
    await daemon.activate("fast", apply=True)
    await until(daemon, lambda: states(daemon)[GAMMA] is S.STOPPED)
    assert states(daemon) == {ALPHA: S.READY, BETA: S.STOPPED, GAMMA: S.STOPPED}


async def test_activate_waits_for_a_change_under_way(house: House) -> None:
    house.write_profile("fast", ONLY_FAST)
    daemon = await house.running()
    house.launcher.hold("stop", 9002)
    stop = daemon.stop(GAMMA)
    activate = asyncio.create_task(daemon.activate("fast", apply=True))
    await until(daemon, lambda: daemon.snapshot.active.name == "fast")
    await all_quiet()
    assert not activate.done()
    house.launcher.release("stop", 9002)
    plan = await activate
    await stop
    assert [line.model_id for line in plan.stop] == [BETA]


@pytest.mark.parametrize(
    ("name", "error"), [("none", ProfileNotFound), ("bad", InvalidProfile), ("../x", MagidError)]
)
async def test_a_profile_that_cannot_be_used_is_not_activated(
    house: House, name: str, error: type[MagidError]
) -> None:
    house.write_profile("bad", "name: 3\n")
    daemon = await house.running()
    with pytest.raises(error):
        await daemon.activate(name, apply=True)
    assert (daemon.snapshot.active.name, stored(house)["activeProfile"]) == ("test", "test")


async def test_the_active_profile_cannot_be_deleted(house: House) -> None:
    house.write_profile("other", ONLY_FAST)
    daemon = await house.running()
    with pytest.raises(ProfileActive):
        await daemon.profiles.delete("test")
    await daemon.profiles.delete("other")
    with pytest.raises(ProfileNotFound):
        await daemon.profiles.delete("other")
    assert daemon.profiles.list() == ["test"]


async def test_a_profile_that_is_being_activated_cannot_be_deleted(house: House) -> None:
    house.write_profile("other", ONLY_FAST)
    daemon = await house.running()
    house.saves.shut()
    activate = asyncio.create_task(daemon.activate("other", apply=False))
    await house.saves.reached.wait()
    delete = asyncio.create_task(daemon.profiles.delete("other"))
    await all_quiet()
    house.saves.open()
    await activate
    with pytest.raises(ProfileActive):
        await delete


async def test_of_two_edits_of_one_revision_the_second_is_refused(house: House) -> None:
    daemon = await house.running()
    revision = daemon.profiles.revision("test")
    results = await asyncio.gather(
        *(
            daemon.profiles.replace("test", Profile(name=name), revision)
            for name in ("One", "Two", "Three")
        ),
        return_exceptions=True,
    )
    assert [type(result) for result in results].count(StaleRevision) == 2
    assert daemon.snapshot.active.profile in [Profile(name=n) for n in ("One", "Two", "Three")]
    assert not daemon.model(ALPHA).enabled


async def test_a_new_profile(house: House) -> None:
    daemon = await house.running()
    created = await daemon.profiles.create(Profile(name="Only Fast", enabled_models=("tier:fast",)))
    assert created == ("only-fast", house.profiles / "only-fast.yaml")
    assert house.changes[-1] == Change("profile")
    assert (await daemon.activate("only-fast", apply=False)).stop


# -- telling ---------------------------------------------------------------------------------


async def test_listeners_hear_all_changes_in_one_order(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    daemon = await house.running()
    first: list[Change] = []
    last: list[Change] = []

    def curious(change: Change) -> None:
        first.append(change)
        daemon.refresh_profile()  # finds the edited profile in the middle of telling

    def failing(change: Change) -> None:
        raise RuntimeError("a listener with a defect")

    daemon.subscribe(curious)
    daemon.subscribe(failing)
    end = daemon.subscribe(last.append)
    house.write_profile("test", ONLY_FAST)
    with caplog.at_level(logging.CRITICAL, "magid.control.state"):
        house.launcher.show(9000, S.READY)
        assert first == last == [Change("server", 9000), Change("registry"), Change("profile")]
        end()
        end()
        await daemon.set_tier(ALPHA, Tier.FAST)
    assert len(last) == 3
    assert first[-1] == Change("registry")


async def test_every_moment_has_its_own_revision(house: House) -> None:
    daemon = house.daemon()
    seen: dict[int, object] = {}

    def look(_change: Change) -> None:
        now = daemon.snapshot
        assert seen.setdefault(now.revision, now) is now

    daemon.subscribe(look)
    await daemon.open()
    await until(daemon, lambda: daemon.phase is Phase.SERVING)
    await asyncio.gather(
        *(daemon.set_settings(ALPHA, {"ctx_size": size}) for size in range(5)),
        daemon.rescan(),
    )
    assert len(seen) > 5
