"""What a request makes of the present moment. Pure: from one snapshot to the next registry.

The ledger carries them out. A function that refuses raises, and then nothing has changed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from magid.catalog import registry
from magid.catalog.effective import Model
from magid.catalog.registry import ModelEntry, Registry
from magid.control.snapshot import ActiveProfile, Disk, Snapshot
from magid.discovery.found import BrokenFile, Scan
from magid.errors import ModelDisabled, NotReady, PortTaken


@dataclass(frozen=True, slots=True)
class Transition:
    """What a change makes of the present moment; None leaves that part as it is."""

    registry: Registry
    disk: Disk | None = None
    active: ActiveProfile | None = None
    ports_for: str | None = None  # refuse the change unless this model then has its ports
    even_unwritten: bool = False  # in force even where it cannot be written down


@dataclass(frozen=True, slots=True)
class Rescan:
    """What one rescan found and changed."""

    found: int
    added: tuple[str, ...]
    removed: tuple[str, ...]
    broken: tuple[BrokenFile, ...]
    duration_s: float


def find(now: Snapshot, model_id: str) -> Model:
    """Raises ModelNotFound, ModelGone if its file is not there, NotReady before a scan."""
    entry = registry.entry_of(now.registry, model_id)
    try:
        return now.models[entry.model_id]
    except KeyError:
        raise NotReady(
            f"cannot use model {entry.model_id!r} yet: the model folders have not been read; try "
            "again in a moment; GET /api/models/status shows what hinders it",
            modelId=entry.model_id,
        ) from None


def startable(now: Snapshot, model_id: str) -> Model:
    """Raises as `find` does, ModelDisabled, and PortTaken if there is no port for it."""
    model = find(now, model_id)
    if not model.enabled:
        raise ModelDisabled(
            f"cannot start {model.model_id!r}: it is disabled; PUT "
            f'/api/models/{model.model_id}/enabled with {{"enabled": true}} first',
            modelId=model.model_id,
        )
    for blocked in now.wanted.blocked:
        if blocked.model_id == model.model_id:
            raise PortTaken(
                f"cannot start {model.model_id!r}: {blocked.reason}", modelId=model.model_id
            )
    return model


def edited(
    now: Snapshot,
    model_id: str,
    change: Callable[[ModelEntry], ModelEntry],
    *,
    asks_for_ports: bool = False,
) -> Transition:
    """Change what is decided about one model.

    One that has no port anyway may stay so, unless this very change asks for its ports.
    """
    model = find(now, model_id)
    needs = model.model_id if asks_for_ports else _unless_blocked(now, model.model_id)
    return Transition(now.registry.with_entry(change(model.entry)), ports_for=needs)


def pinned(
    now: Snapshot, model_id: str, port: int | None, port_range: tuple[int, int]
) -> Transition:
    """Choose the model's port, or leave it to magid. Raises as `registry.pin_port`."""
    model = find(now, model_id)
    enabled = {m.model_id for m in now.models.values() if m.enabled}
    new = registry.pin_port(
        now.registry, model.model_id, port, enabled=enabled, port_range=port_range
    )
    return Transition(new, ports_for=_unless_blocked(now, model.model_id))


def _unless_blocked(now: Snapshot, model_id: str) -> str | None:
    blocked = any(line.model_id == model_id for line in now.wanted.blocked)
    return None if blocked else model_id


def scanned(now: Snapshot, scan: Scan, at: datetime, keep: timedelta) -> tuple[Transition, Rescan]:
    """Take in what a scan saw; `keep` is how long decisions outlive their model's file.

    It is so on disk, written down or not: a full disk must not keep models from starting.
    """
    merge = registry.merge_scan(
        now.registry,
        scan.models,
        now=at,
        keep=keep,
        unreadable_roots=[root.path for root in scan.unreadable_roots],
    )
    disk = Disk(merge.found, scan.broken, (), scan.unreadable_roots, listed=True)
    result = Rescan(len(merge.found), merge.added, merge.removed, scan.broken, scan.duration_s)
    return Transition(merge.registry, disk, even_unwritten=True), result
