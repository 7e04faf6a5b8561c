"""What a snapshot holds, and what systemctl status says of it, as tables."""

import pytest
from msgspec.structs import replace

from magid.catalog.profile import Profile
from magid.catalog.registry import Registry
from magid.control.snapshot import (
    ActiveProfile,
    Disk,
    Phase,
    Snapshot,
    build,
    status_line,
)
from magid.discovery.tiers import Tier
from magid.servers.backend import ServerState
from tests.support.moments import ALL, CONFIG, moment, servers
from tests.support.values import found, merged

S = ServerState


def test_ports_are_part_of_the_snapshots_registry() -> None:
    merge = merged(found("a"), found("b"))
    disk = Disk(merge.found, listed=True)
    snapshot = build(1, merge.registry, disk, ALL, CONFIG, ())
    assert [m.port for m in snapshot.models.values()] == [8080, 8081]
    again = build(2, snapshot.registry, disk, ALL, CONFIG, ())
    assert again.registry == snapshot.registry  # nothing to write


def test_before_the_folders_are_read_the_models_of_before_count() -> None:
    known = merged(found("a"), found("b")).registry
    assert build(1, known, Disk(), ALL, CONFIG, ()).known_count == 2
    assert build(1, Registry(), Disk(), ALL, CONFIG, ()).known_count is None
    assert build(1, Registry(), Disk(listed=True), ALL, CONFIG, ()).known_count == 0


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
    entry = replace(
        merge.registry.models["a"],
        tier_override=tier,
        thinking_override=thinking,
        enabled_override=enabled,
    )
    active = ActiveProfile("p", Profile(name="P", enabled_models=tuple(profile)))
    disk = Disk(merge.found)
    model = build(1, merge.registry.with_entry(entry), disk, active, CONFIG, ()).models["a"]
    assert (model.tier, model.is_thinking, model.enabled) == effective


def test_status_line() -> None:
    snapshot = moment("a", "b")
    line = status_line(Phase.SERVING, snapshot, servers(snapshot, S.READY, S.LOADING))
    assert line == "serving: 1 loading, 1 ready, profile all"
    empty = Snapshot(0, Registry(), Disk(), ActiveProfile(), {}, snapshot.wanted, ())
    assert status_line(Phase.SCANNING, empty, {}) == "scanning: no servers, no profile"
