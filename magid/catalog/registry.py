"""The registry: the user's decisions about each model. Pure.

`Registry` is the durable document that `files.document` writes: each model's id, overrides, ports
and run-time settings. The functions here make the next registry from the current one; `control`
owns the current one and makes it durable before it tells listeners.

An entry outlives its model's file and keeps its overrides, because an unmounted disk must not
erase decisions.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from magid.discovery.found import FoundModel
from magid.discovery.hub_cache import repository
from magid.discovery.naming import spelt
from magid.discovery.tiers import Tier
from magid.errors import InvalidInput, ModelGone, ModelNotFound, PortTaken
from magid.llama.runtime_settings import BY_KEY, BY_NAME
from magid.wording.counts import counted

Port = Annotated[int, Meta(ge=1, le=65535)]
Moment = Annotated[datetime, Meta(tz=True)]  # one without a zone cannot be compared


# `forbid_unknown_fields`: an unknown key would be lost at the next write. A version that adds a key
# raises the document's format number, and older versions then refuse the file. An unknown run-time
# setting is kept instead, so adding one does not change the format.
class ModelEntry(
    Struct, frozen=True, forbid_unknown_fields=True, rename="camel", omit_defaults=True
):
    """One model in the registry, whether its file exists or not."""

    model_id: str
    path: str
    size_bytes: int
    discovered_at: Moment
    missing_since: Moment | None = None
    tier_override: Tier | None = None
    thinking_override: bool | None = None
    enabled_override: bool | None = None
    ports: tuple[Port, ...] = ()
    port_pinned: bool = False  # the user has chosen the first port
    # The user's run-time settings, by name in the table of settings. One that the table lacks is a
    # later version's: it is kept but not used.
    settings: dict[str, Any] = {}


class Registry(Struct, frozen=True, forbid_unknown_fields=True, rename="camel", omit_defaults=True):
    """The whole document. `models` is keyed by model id."""

    models: dict[str, ModelEntry] = {}
    active_profile: str | None = None
    last_scan: Moment | None = None

    def with_entry(self, entry: ModelEntry) -> "Registry":
        return replace(self, models={**self.models, entry.model_id: entry})


def parse(document: object) -> Registry:
    """Parses a registry from decoded JSON. Raises ValueError, and the caller uses an older copy."""
    try:
        registry = msgspec.convert(document, Registry)
    except msgspec.ValidationError as error:
        raise ValueError(_fault(document, error)) from None
    for model_id, entry in registry.models.items():
        if entry.model_id != model_id:
            raise ValueError(f"models.{model_id}: has the id {entry.model_id!r}")
    models = {i: replace(e, settings=_read_settings(i, e)) for i, e in registry.models.items()}
    return replace(registry, models=models)


def _fault(document: Any, error: msgspec.ValidationError) -> str:
    """What does not fit, with its place before it. msgspec does not tell keys of mappings."""
    what, _, where = str(error).partition(" - at `$.")
    where = where.rstrip("`")
    if where.startswith("models[...]"):
        for model_id, entry in document["models"].items():
            try:
                msgspec.convert(entry, ModelEntry)
            except msgspec.ValidationError:
                where = f"models.{model_id}{where.removeprefix('models[...]')}"
                break
    return f"{where}: {what}" if where else what


def document_of(registry: Registry) -> dict[str, Any]:
    """The registry as `parse` takes it, without what is default. Pure."""
    models = registry.models.items()
    written = {i: replace(e, settings=_write_settings(e.settings)) for i, e in models}
    content = msgspec.json.encode(replace(registry, models=written))
    document: dict[str, Any] = msgspec.json.decode(content)
    return document


def fields_of(entry: ModelEntry) -> dict[str, Any]:
    """All that is kept of one model, by its names in the document, with what is default. Pure."""
    written = replace(entry, settings=_write_settings(entry.settings))
    return {
        each.encode_name: msgspec.to_builtins(getattr(written, each.name))
        for each in msgspec.structs.fields(ModelEntry)
    }


def _read_settings(model_id: str, entry: ModelEntry) -> dict[str, Any]:
    """Returns the settings by name, from keys or names. Raises ValueError for a wrong value."""
    chosen = {}
    for key, given in entry.settings.items():
        setting = BY_KEY.get(key) or BY_NAME.get(key)
        if setting is None:
            chosen[key] = given
        elif given is not None:  # null means the default
            try:
                chosen[setting.name] = setting.values.check(given)
            except ValueError as error:
                raise ValueError(f"models.{model_id}.settings: {key} {error}") from None
    return chosen


def _write_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {BY_NAME[n].key if n in BY_NAME else n: value for n, value in settings.items()}


class Merge(Struct, frozen=True):
    """The registry after a scan, and the changes."""

    registry: Registry
    found: Mapping[str, FoundModel]  # by model id
    added: tuple[str, ...]
    removed: tuple[str, ...]


def merge_scan(
    registry: Registry,
    found: Sequence[FoundModel],
    *,
    now: datetime,
    keep: timedelta,
    unreadable_roots: Sequence[str] = (),
) -> Merge:
    """Updates the registry with the models that a scan found. Keeps all overrides.

    A model keeps its id as long as its file stays. A new file takes over a missing entry with the
    same id and size, because the file was moved, or with the same id and repository in a Hugging
    Face cache, because it is another revision. An entry without a file is deleted after `keep`,
    but never while its model folder is unreadable.
    """
    entries = dict(registry.models)
    by_path = {entry.path: entry for entry in entries.values()}
    present = {model.path for model in found}
    named: dict[str, FoundModel] = {}
    added: list[str] = []
    for model in found:
        known = by_path.get(model.path)
        if known is None:
            known = _moved(model, entries, present) or _new_entry(model, entries, now)
            added.append(known.model_id)
        entries[known.model_id] = replace(
            known, path=model.path, size_bytes=model.size_bytes, missing_since=None
        )
        named[known.model_id] = model
    gone = [model_id for model_id in entries if model_id not in named]
    removed = [model_id for model_id in gone if entries[model_id].missing_since is None]
    for model_id in gone:
        entry = _as_missing(entries[model_id], now)
        if _expired(entry, now - keep, unreadable_roots):
            del entries[model_id]
        else:
            entries[model_id] = entry
    merged = replace(registry, models=entries, last_scan=now)
    return Merge(merged, named, tuple(added), tuple(removed))


def _moved(
    model: FoundModel, entries: Mapping[str, ModelEntry], present: set[str]
) -> ModelEntry | None:
    entry = entries.get(model.base_id)
    if entry is None or entry.path in present:
        return None
    cache = repository(model.path)
    is_revision = cache is not None and cache == repository(entry.path)
    return entry if is_revision or entry.size_bytes == model.size_bytes else None


def _new_entry(model: FoundModel, entries: Mapping[str, ModelEntry], now: datetime) -> ModelEntry:
    model_id, count = model.base_id, 1
    while model_id in entries:
        count += 1
        model_id = f"{model.base_id}_{count}"
    return ModelEntry(
        model_id=model_id, path=model.path, size_bytes=model.size_bytes, discovered_at=now
    )


def _as_missing(entry: ModelEntry, now: datetime) -> ModelEntry:
    if entry.missing_since is not None:
        return entry
    return replace(entry, missing_since=now)


def _expired(entry: ModelEntry, deadline: datetime, unreadable_roots: Sequence[str]) -> bool:
    if any(entry.path.startswith(root.rstrip("/") + "/") for root in unreadable_roots):
        return False
    return entry.missing_since is not None and entry.missing_since < deadline


# -- looking up ------------------------------------------------------------------------------


_MOST_CHARS = 400  # of a name in an error, or spelt in another way: ids of models are shorter


def resolve_id(model_id: str, known: Iterable[str]) -> str:
    """Returns the known id for what a caller wrote, in either spelling of sizes (`8b`, `8p0b`).

    Raises ModelNotFound.
    """
    ids = known if isinstance(known, (set, dict)) else set(known)
    if model_id in ids:
        return model_id
    for other in spelt(model_id) if len(model_id) <= _MOST_CHARS else ():
        if other in ids:
            return other
    raise ModelNotFound(
        f"cannot find model {model_id[:_MOST_CHARS]!r}; GET /api/models/registry lists "
        f"{counted(len(ids), 'model')}",
        modelId=model_id[:_MOST_CHARS],
    )


def entry_of(registry: Registry, model_id: str) -> ModelEntry:
    """Returns a model's entry. Raises ModelNotFound, or ModelGone if its file is missing."""
    entry = registry.models[resolve_id(model_id, registry.models.keys())]
    if entry.missing_since is not None:
        raise ModelGone(
            f"cannot use model {entry.model_id!r}: its file {entry.path!r} has been missing since "
            f"{entry.missing_since:%Y-%m-%d %H:%M}; put it back and POST /api/models/rescan",
            modelId=entry.model_id,
        )
    return entry


def with_settings(entry: ModelEntry, given: Mapping[str, Any]) -> ModelEntry:
    """Returns the entry with these settings changed, by name; None resets to the default."""
    chosen = {n: v for n, v in {**entry.settings, **given}.items() if v is not None}
    return replace(entry, settings=chosen)


# -- ports -----------------------------------------------------------------------------------


def allocate_ports(
    registry: Registry, demand: Mapping[str, int], port_range: tuple[int, int]
) -> tuple[Registry, tuple[str, ...]]:
    """Allocates ports. `demand`: id -> number of ports. Also returns the models that got none.

    A model keeps its ports as long as they are in the range, because clients may have noted them.
    A model without demand keeps its ports until no other port in the range is free. A pinned port
    is never taken away.
    """
    low, high = port_range
    entries = dict(registry.models)
    taken: set[int] = {e.ports[0] for e in entries.values() if e.port_pinned and e.ports}
    kept: dict[str, list[int]] = {}
    for model_id, count in demand.items():
        entry = entries[model_id]
        mine = [p for p in entry.ports if _is_mine(p, entry, taken, low, high)][:count]
        taken.update(mine)
        kept[model_id] = mine
    remembered = {p for e in entries.values() for p in e.ports}
    free = [p for p in range(low, high + 1) if p not in taken]
    free.sort(key=lambda port: (port in remembered, port))
    unserved = []
    for model_id, count in demand.items():
        need = count - len(kept[model_id])
        if need > len(free):
            unserved.append(model_id)
            continue
        ports = kept[model_id] + free[:need]
        del free[:need]
        entries[model_id] = replace(entries[model_id], ports=tuple(ports))
    owners = {p: m for m in demand if m not in unserved for p in entries[m].ports}
    for model_id, entry in entries.items():
        left = tuple(p for p in entry.ports if owners.get(p, model_id) == model_id)
        if left != entry.ports:
            entries[model_id] = replace(entry, ports=left)
    return replace(registry, models=entries), tuple(unserved)


def _is_mine(port: int, entry: ModelEntry, taken: set[int], low: int, high: int) -> bool:
    if entry.port_pinned and port == entry.ports[0]:
        return True
    return low <= port <= high and port not in taken


def pin_port(
    registry: Registry,
    model_id: str,
    port: int | None,
    *,
    enabled: Container[str],
    port_range: tuple[int, int],
    exchange: bool = False,
) -> Registry:
    """Pins the model's first port; None lets magid choose again.

    Raises InvalidInput outside the range, PortTaken if another model has pinned it, or is enabled
    and uses it. A disabled model that has only kept the port loses it. With `exchange` an enabled
    model that has not pinned the port takes this model's first port for it.
    """
    entry = registry.models[model_id]
    if port is None:
        return registry.with_entry(replace(entry, port_pinned=False))
    low, high = port_range
    if not low <= port <= high:
        raise InvalidInput(
            f"cannot use port {port}: it is outside portRange {low}-{high}; choose one inside it, "
            "or widen port_range in magid.yaml",
            field="port",
        )
    for other in registry.models.values():
        if other.model_id == model_id or port not in other.ports:
            continue
        is_pinned = other.port_pinned and other.ports[0] == port
        if is_pinned or (other.model_id in enabled and not exchange):
            raise PortTaken(
                f"cannot give port {port} to {model_id!r}: it belongs to {other.model_id!r}; "
                "choose another one, or move that model first",
                port=port,
                modelId=other.model_id,
            )
        given = entry.ports[:1] if exchange else ()
        kept = dict.fromkeys(p for q in other.ports for p in (given if q == port else (q,)))
        registry = registry.with_entry(replace(other, ports=tuple(kept)))
    rest = tuple(p for p in entry.ports[1:] if p != port)
    return registry.with_entry(replace(entry, ports=(port, *rest), port_pinned=True))


def utc_now() -> datetime:
    """Returns the current time to the second, as in the registry and the API."""
    return datetime.now(UTC).replace(microsecond=0)
