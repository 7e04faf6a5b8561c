"""Computes the next registry from a snapshot and a request. Pure.

`StateStore` carries the transitions out. A function that refuses raises; nothing has changed then.
"""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from magid.catalog import registry
from magid.catalog.drafting import by_folder, drafting
from magid.catalog.effective import Model
from magid.catalog.registry import ModelEntry, Registry
from magid.control.snapshot import ActiveProfile, Disk, Snapshot
from magid.discovery.found import BrokenFile, Scan
from magid.errors import InvalidInput, ModelDisabled, NotReady, PortTaken
from magid.llama import engines


class Transition(Struct, frozen=True):
    """The outcome of a change; None leaves that part as it is."""

    registry: Registry
    disk: Disk | None = None
    active: ActiveProfile | None = None
    ports_for: str | None = None  # refuse the change unless this model then has its ports
    even_unwritten: bool = False  # takes effect even if it cannot be saved


class Rescan(Struct, frozen=True):
    """The result of one rescan."""

    found: int
    added: tuple[str, ...]
    removed: tuple[str, ...]
    broken: tuple[BrokenFile, ...]
    duration_s: float


def joined(first: Rescan, then: Rescan) -> Rescan:
    """Returns the result of two scans, one right after the other, as one."""
    added = dict.fromkeys((*first.added, *then.added))
    removed = dict.fromkeys((*first.removed, *then.removed))
    return replace(
        then,
        added=tuple(name for name in added if name not in then.removed),
        removed=tuple(name for name in removed if name not in then.added),
    )


def find(now: Snapshot, model_id: str) -> Model:
    """Returns the model.

    Raises ModelNotFound, ModelGone if its file does not exist, NotReady before the first scan.
    """
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
    """Returns a model that can be started.

    Raises as `find` does, ModelDisabled, PortTaken if there is no port for it, and
    LlamaServerMissing if its engine is not installed.
    """
    model = find(now, model_id)
    if not model.enabled:
        raise ModelDisabled(
            f"cannot start {model.model_id!r}: it is disabled; PUT "
            f'/api/models/{model.model_id}/enabled with {{"enabled": true}} first',
            modelId=model.model_id,
        )
    for blocked in now.wanted.blocked:
        if blocked.model_id == model.model_id:
            if blocked.engine:
                raise engines.missing(blocked.engine)
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
    """Changes the decisions about one model.

    A model without ports may stay so, unless this change asks for its ports.
    """
    model = find(now, model_id)
    needs = model.model_id if asks_for_ports else _unless_blocked(now, model.model_id)
    return Transition(now.registry.with_entry(change(model.entry)), ports_for=needs)


def check_draft(now: Snapshot, model_id: str, given: Mapping[str, Any]) -> None:
    """Raises InvalidInput if the given settings name a draft that the model does not have."""
    model, setting = find(now, model_id), given.get("draft")
    if setting is None:
        return
    found = drafting(model.found, setting, by_folder(now.disk.found.values()))
    if found.is_missing:
        raise InvalidInput(f"cannot set draft of {model.model_id}: {found.reason}", field="draft")


def forgotten(now: Snapshot, model_id: str) -> Transition:
    """Drops what was decided of a model whose files are gone, by its whole id. Idempotent."""
    is_here = model_id in now.models
    models = {i: e for i, e in now.registry.models.items() if i != model_id or is_here}
    return Transition(replace(now.registry, models=models))


def all_enabled(now: Snapshot, enabled: bool) -> Transition:
    """Decides for every model that is there. One that gets no port stays without a server."""
    new = now.registry
    for model in now.models.values():
        if model.entry.enabled_override is not enabled:
            new = new.with_entry(replace(model.entry, enabled_override=enabled))
    return Transition(new)


def pinned(
    now: Snapshot,
    model_id: str,
    port: int | None,
    port_range: tuple[int, int],
    *,
    exchange: bool = False,
) -> Transition:
    """Pins the model's port; None lets magid choose. Raises as `registry.pin_port` does."""
    model = find(now, model_id)
    enabled = {m.model_id for m in now.models.values() if m.enabled}
    new = registry.pin_port(
        now.registry,
        model.model_id,
        port,
        enabled=enabled,
        port_range=port_range,
        exchange=exchange,
    )
    return Transition(new, ports_for=_unless_blocked(now, model.model_id))


def _unless_blocked(now: Snapshot, model_id: str) -> str | None:
    blocked = any(line.model_id == model_id and not line.engine for line in now.wanted.blocked)
    return None if blocked else model_id


def scanned(now: Snapshot, scan: Scan, at: datetime, keep: timedelta) -> tuple[Transition, Rescan]:
    """Takes in the result of a scan; `keep` is how long decisions outlive their model's file.

    The result takes effect even if it cannot be saved: a full disk must not keep models from
    starting.
    """
    merge = registry.merge_scan(
        now.registry,
        scan.models,
        now=at,
        keep=keep,
        unreadable_roots=[root.path for root in scan.unreadable_roots],
    )
    disk = Disk(
        merge.found, scan.broken, (), scan.unreadable_roots, scan.empty_folders, listed=True
    )
    result = Rescan(len(merge.found), merge.added, merge.removed, scan.broken, scan.duration_s)
    return Transition(merge.registry, disk, even_unwritten=True), result
