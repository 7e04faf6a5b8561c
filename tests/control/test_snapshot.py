"""What readyz and systemctl status say, as tables."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from magid.catalog.profile import Profile
from magid.catalog.registry import Registry
from magid.config.settings import Config
from magid.control.snapshot import (
    ActiveProfile,
    Disk,
    Phase,
    Snapshot,
    build,
    status_line,
    unready_reasons,
)
from magid.discovery.tiers import Tier
from magid.discovery.walker import UnreadableRoot
from magid.servers.backend import ObservedServer, ServerState
from tests.support.values import found, merged, observed

S = ServerState
CONFIG = Config(port_range=(8080, 8081))
ALL = ActiveProfile("all", Profile(name="All", enabled_models=["*"]), "r1")


def moment(
    *names: str, active: ActiveProfile = ALL, disk: Disk | None = None, config: Config = CONFIG
) -> Snapshot:
    merge = merged(*(found(name) for name in names))
    return build(1, merge.registry, disk or Disk(merge.found, listed=True), active, config, ())


def servers(snapshot: Snapshot, *states: ServerState) -> dict[int, ObservedServer]:
    specs = snapshot.wanted.specs
    return {s.port: observed(s, state) for s, state in zip(specs, states, strict=True)}


@pytest.mark.parametrize(
    ("phase", "states", "reasons"),
    [
        (Phase.SERVING, (S.READY, S.READY), []),
        (Phase.SERVING, (S.READY, S.STOPPED), []),  # a person stopped it
        (Phase.SERVING, (S.READY, S.LOADING), []),  # a person restarts it
        (Phase.SERVING, (S.READY, S.FAILED), ["llama-server@8081.service (b) has failed"]),
        (
            Phase.SERVING,
            (S.BACKOFF, S.READY),
            ["llama-server@8080.service (a) ended and is being restarted"],
        ),
        (Phase.SCANNING, (S.READY, S.READY), ["the model folders are being read"]),
        (Phase.DRAINING, (S.READY, S.READY), ["magid is shutting down"]),
        (
            Phase.STARTING,
            (S.READY, S.LOADING),
            [
                "the boot is not finished: wanted servers are being started",
                "llama-server@8081.service (b) is loading",
            ],
        ),
    ],
)
def test_unready_reasons(phase: Phase, states: tuple[S, S], reasons: list[str]) -> None:
    snapshot = moment("a", "b")
    assert unready_reasons(phase, snapshot, servers(snapshot, *states)) == reasons


def test_the_reason_of_a_failure_is_passed_on() -> None:
    snapshot = moment("a")
    spec = snapshot.wanted.specs[0]
    failed = {spec.port: observed(spec, S.FAILED, reason="out of memory")}
    (reason,) = unready_reasons(Phase.SERVING, snapshot, failed)
    assert reason.endswith("has failed: out of memory")


def test_a_failed_server_of_another_model_on_the_port_does_not_count() -> None:
    snapshot = moment("a")
    other = replace(observed(snapshot.wanted.specs[0], S.FAILED), model_id="z")
    assert not unready_reasons(Phase.SERVING, snapshot, {other.port: other})


def test_a_model_without_a_port_is_a_reason() -> None:
    snapshot = moment("a", "b", "c")
    (reason,) = unready_reasons(Phase.SERVING, snapshot, servers(snapshot, S.READY, S.READY))
    assert reason.startswith("c has no server: no port of 8080-8081 is free")


def test_a_profile_that_cannot_be_read_is_a_reason_unless_the_last_good_one_is_in_force() -> None:
    broken = ActiveProfile("all", None, "r2", "cannot read all.yaml: line 3: no")
    assert unready_reasons(Phase.SERVING, moment("a", active=broken), {}) == [broken.problem]
    kept = replace(ALL, problem="cannot read all.yaml: line 3: no")
    snapshot = moment("a", active=kept)
    assert not unready_reasons(Phase.SERVING, snapshot, servers(snapshot, S.READY))
    assert snapshot.problems == (kept.problem,)


def test_no_readable_folder_is_a_reason() -> None:
    disk = Disk(unreadable_roots=(UnreadableRoot("/models", "does not exist"),))
    snapshot = moment(disk=disk)
    (reason,) = unready_reasons(Phase.SERVING, snapshot, {})
    assert reason.startswith("no model folder could be read")
    assert snapshot.problems == ("cannot read /models: does not exist",)


def test_of_the_default_folders_one_may_be_absent() -> None:
    absent, reason = "/none/models", "is not there"
    disk = Disk(unreadable_roots=(UnreadableRoot(absent, reason, is_absent=True),), listed=True)
    assert moment(disk=disk).problems == ()
    chosen = Config(port_range=(8080, 8081), model_paths=(Path(absent),))
    assert moment(disk=disk, config=chosen).problems == (f"cannot read {absent}: is not there",)
    there = replace(disk, unreadable_roots=(UnreadableRoot("/there", "cannot be read: no"),))
    assert moment(disk=there).problems == ("cannot read /there: cannot be read: no",)


def test_a_folder_that_does_not_answer_is_a_reason() -> None:
    root = UnreadableRoot("/net/models", "has not answered for 5 s", is_late=True)
    snapshot = moment(disk=Disk(unreadable_roots=(root,), listed=True))
    reasons = unready_reasons(Phase.SERVING, snapshot, {})
    assert reasons == ["the model folder /net/models has not answered for 5 s"]


def test_a_first_scan_that_failed_is_a_reason() -> None:
    disk = Disk(listed=True)  # listed, and then not read
    assert unready_reasons(Phase.SERVING, moment(disk=disk), {}, ["no process", ""]) == [
        "no process"
    ]


def test_ports_are_part_of_the_snapshots_registry() -> None:
    merge = merged(found("a"), found("b"))
    disk = Disk(merge.found, listed=True)
    snapshot = build(1, merge.registry, disk, ALL, CONFIG, ())
    assert [m.port for m in snapshot.models.values()] == [8080, 8081]
    again = build(2, snapshot.registry, disk, ALL, CONFIG, ())
    assert again.registry == snapshot.registry  # nothing to write


def test_small_models_start_first() -> None:
    merge = merged(found("big", size_bytes=9), found("small", size_bytes=1))
    snapshot = build(1, merge.registry, Disk(merge.found), ALL, CONFIG, ())
    assert [s.model_id for s in snapshot.wanted.specs] == ["small", "big"]


@pytest.mark.parametrize(
    ("tier", "thinking", "enabled", "profile", "effective"),
    [
        (None, None, None, ["*"], (Tier.FAST, False, True)),
        (None, None, None, [], (Tier.FAST, False, False)),
        (None, None, True, [], (Tier.FAST, False, True)),
        (None, None, False, ["*"], (Tier.FAST, False, False)),
        (None, True, None, ["*"], (Tier.POWERFUL, True, True)),
        (None, False, None, ["*"], (Tier.FAST, False, True)),
        (Tier.BALANCED, True, None, ["*"], (Tier.BALANCED, True, True)),
        (Tier.BALANCED, None, None, ["tier:balanced"], (Tier.BALANCED, False, True)),
        (None, True, None, ["tier:powerful"], (Tier.POWERFUL, True, True)),
        (None, None, None, ["tier:balanced"], (Tier.FAST, False, False)),
    ],
)
def test_overrides_win(
    tier: Tier | None,
    thinking: bool | None,
    enabled: bool | None,
    profile: list[str],
    effective: tuple[Tier, bool, bool],
) -> None:
    merge = merged(found("a"))
    entry = merge.registry.models["a"].model_copy(
        update={
            "tier_override": tier,
            "thinking_override": thinking,
            "enabled_override": enabled,
        }
    )
    active = ActiveProfile("p", Profile(name="P", enabled_models=profile))
    disk = Disk(merge.found)
    model = build(1, merge.registry.with_entry(entry), disk, active, CONFIG, ()).models["a"]
    assert (model.tier, model.is_thinking, model.enabled) == effective


def test_status_line() -> None:
    snapshot = moment("a", "b")
    line = status_line(Phase.SERVING, snapshot, servers(snapshot, S.READY, S.LOADING))
    assert line == "serving: 1 loading, 1 ready, profile all"
    empty = Snapshot(0, Registry(), Disk(), ActiveProfile(), {}, snapshot.wanted, ())
    assert status_line(Phase.SCANNING, empty, {}) == "scanning: no servers, no profile"
