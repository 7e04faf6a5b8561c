"""What the gateway can choose from: models with their tiers and the servers that answer for them.

Pure: made from the snapshot, from what runs, and from what each server says about itself.
"""

from collections.abc import Container, Iterable, Mapping

from msgspec import Struct, field

from magid.catalog.aliases import Target, Variant
from magid.catalog.effective import Model, effective_enabled, remembered_tier
from magid.catalog.profile import Profile, selects
from magid.catalog.registry import ModelEntry
from magid.control.snapshot import Snapshot
from magid.discovery.kinds import ModelKind
from magid.discovery.naming import spellings
from magid.discovery.tiers import Tier
from magid.host.ports import HostPort
from magid.servers.backend import ObservedServer, ServerState

AUTO = "auto"
# What llama-server 0.7.0 takes by itself where --parallel is not given.
DEFAULT_SLOTS = 4
MAX_SLOTS, MAX_CONTEXT = 1024, 2**31  # what a server that was taken over may claim


class ServerProperties(Struct, frozen=True):
    """What a server's /props says. None: it does not say."""

    slots: int
    context: int | None = None  # tokens that one request may have
    vision: bool | None = None
    audio: bool | None = None
    tools: bool | None = None
    adapters: tuple[str, ...] | None = None  # paths of its LoRA adapters by their ids


MAX_ADAPTERS = 64  # what a server that was taken over may claim


def adapters_in(listed: object) -> tuple[str, ...]:
    """From the JSON of /lora-adapters; none if it is no list of paths in the order of their ids."""
    if not isinstance(listed, list) or len(listed) > MAX_ADAPTERS:
        return ()
    found = []
    for number, one in enumerate(listed):
        match one:
            case {"id": int(given), "path": str(path)} if given == number:
                found.append(path)
            case _:
                return ()
    return tuple(found)


def facts_of(props: object) -> ServerProperties | None:
    """From the JSON of /props; None if that is none. Keys as of llama-server 0.7.0."""
    match props:
        case {"total_slots": int(slots), **rest}:
            settings = rest.get("default_generation_settings")
            context = settings.get("n_ctx") if isinstance(settings, dict) else None
            return ServerProperties(
                min(max(1, slots), MAX_SLOTS),
                context if isinstance(context, int) and 0 < context < MAX_CONTEXT else None,
                _flag(rest.get("modalities"), "vision"),
                _flag(rest.get("modalities"), "audio"),
                _flag(rest.get("chat_template_caps"), "supports_tools"),
            )
        case _:
            return None


def _flag(section: object, name: str) -> bool | None:
    value = section.get(name) if isinstance(section, dict) else None
    return value if isinstance(value, bool) else None


class Backend(Struct, frozen=True):
    """One server that is ready. A new process is another backend, also on the same port."""

    port: int
    model_id: str
    instance: int
    address: HostPort
    key: str | None
    process: str  # what tells this process from another one on its port
    facts: ServerProperties
    weight: int = 1
    uid: int | None = None  # whose socket its port has to be; None: not known


class AvailableModel(Struct, frozen=True):
    """One enabled model, with the servers that could answer now."""

    model: Model
    model_id: str
    kind: ModelKind
    tier: Tier
    backends: tuple[Backend, ...]
    context: int | None = None  # tokens that a request may have, on the roomiest server
    why_none: str = ""  # where there is no backend: the reason, for a person
    may_come: bool = False  # and whether it is worth trying again
    resting: str = ""  # why it is not started at present, although it is on demand
    lacks_memory: bool = False  # and that it has no room on the GPUs
    is_failing: bool = False  # no server is ready, and one of them has failed
    is_loading: bool = False  # no server is ready, and one of them is being started
    # What its servers say, or one of these settings said when it ran; else what its files tell.
    # None: nothing tells.
    tools: bool | None = None
    images: bool | None = None
    audio: bool | None = None

    @property
    def can_be_started(self) -> bool:
        """Whether a request may wait for a server of it, which it starts."""
        return self.model.is_on_demand and not self.backends and not self.resting


class StartPause(Struct, frozen=True):
    """Why a model is not started at present: its last start failed, or it had no room on GPUs."""

    reason: str
    lacks_memory: bool = False


class ChosenVariant(Struct, frozen=True):
    """A variant with its name in the profile: another alias may lead to it."""

    name: str
    parameters: Variant


class Fleet(Struct, frozen=True):
    """One moment. `aliases` leads to model ids, tiers or auto; `variants` are those of them."""

    offers: Mapping[str, AvailableModel] = field(default_factory=dict)  # by model id
    aliases: Mapping[str, str] = field(default_factory=dict)
    variants: Mapping[str, ChosenVariant] = field(default_factory=dict)  # by alias
    profile: Profile | None = None
    disabled: Mapping[str, Model] = field(default_factory=dict)  # known and not enabled, by id
    # Enabled before this start, while their files are looked for. Only to be listed.
    remembered: Mapping[str, ModelEntry] = field(default_factory=dict)
    # ORG/REPO/FILE of models in the library that were downloaded from a hub, by id.
    hub_paths: Mapping[str, str] = field(default_factory=dict)

    @property
    def backends(self) -> tuple[Backend, ...]:
        return tuple(b for offer in self.offers.values() for b in offer.backends)

    def of_tier(self, tier: Tier, kinds: frozenset[ModelKind]) -> tuple[AvailableModel, ...]:
        """Offers of this tier that can answer such a request, ready or not."""
        return tuple(o for o in self.offers.values() if o.tier is tier and o.kind in kinds)


def build(
    now: Snapshot,
    observed: Mapping[int, ObservedServer],
    keys: Mapping[int, str | None],
    facts: Mapping[str, ServerProperties],
    *,
    resting: Mapping[str, StartPause] | None = None,
    seen: Mapping[str, ServerProperties] | None = None,
    is_scanning: bool = False,
    library: str | None = None,
) -> Fleet:
    """`keys` by port, `facts` by process; `resting` and `seen` by model.

    `is_scanning`: for the first time. `library`: the folder of downloads, links resolved.
    """
    resting, seen = resting or {}, seen or {}
    profile = now.active.profile
    enabled = {i: m for i, m in now.models.items() if m.enabled}
    offers = {}
    for model_id, model in enabled.items():
        servers = [s for s in observed.values() if s.model_id == model_id]
        ready = tuple(
            _backend(model, s, keys.get(s.port), facts.get(s.process), profile)
            for s in sorted(servers, key=lambda s: s.port)
            if s.state is ServerState.READY
        )
        pause = None if ready or not model.is_on_demand else resting.get(model_id)
        rests = "" if pause is None else pause.reason
        why, may_come = (
            ("", False) if ready else (rests, True) if rests else _why_none(model_id, servers)
        )
        is_failing, is_loading = (
            not ready and any(s.state in states for s in servers) for states in (_FAILING, _LOADING)
        )
        known = [b.facts for b in ready] or list(filter(None, [seen.get(model_id)]))
        context = max((f.context for f in known if f.context), default=model.context_length)
        able = model.abilities
        offers[model_id] = AvailableModel(
            model, model_id, model.found.kind, model.tier, ready, context, why, may_come,
            rests, pause is not None and pause.lacks_memory, is_failing, is_loading,
            tools=_joined([f.tools for f in known], able.tools),
            images=_joined([f.vision for f in known], able.images),
            audio=_joined([f.audio for f in known], able.audio),
        )  # fmt: skip
    disabled = {i: m for i, m in now.models.items() if not m.enabled}
    remembered = _remembered(now) if is_scanning else {}
    aliases, variants = _aliases(now.models, enabled, profile)
    adapted = _adapted(offers.values(), {*now.models, *aliases})
    aliases |= {name: chosen.parameters.model for name, chosen in adapted.items()}
    variants |= adapted
    paths = _hub_paths(now.models, library)
    return Fleet(offers, aliases, variants, profile, disabled, remembered, paths)


_REPOSITORY_PARTS = 2  # ORG/REPO


def _hub_paths(models: Mapping[str, Model], library: str | None) -> dict[str, str]:
    """Returns ORG/REPO/FILE of the models that lie where downloads do, by id."""
    if library is None:
        return {}
    below = {
        model_id: model.found.path.removeprefix(f"{library}/")
        for model_id, model in models.items()
        if model.found.path.startswith(f"{library}/")
    }
    return {i: path for i, path in below.items() if path.count("/") >= _REPOSITORY_PARTS}


def _joined(known: list[bool | None], by_files: bool | None) -> bool | None:
    """Whether any of the servers can; a server that says nothing leaves it to the files."""
    said = [one for one in known if one is not None]
    return any(said) if said else by_files


_FAILING = frozenset({ServerState.BACKOFF, ServerState.FAILED})
_LOADING = frozenset({ServerState.STARTING, ServerState.LOADING})


def _remembered(now: Snapshot) -> dict[str, ModelEntry]:
    """In id order."""
    return {
        model_id: entry
        for model_id, entry in sorted(now.registry.models.items())
        if model_id not in now.models
        and entry.missing_since is None
        and effective_enabled(entry, remembered_tier(entry), now.active.profile)
    }


def limited(fleet: Fleet, names: Iterable[str]) -> Fleet:
    """Returns the part a caller may use: ids, globs, `tier:NAME`, tiers and aliases.

    Tiers, aliases and auto choose among what is left. Pure.
    """
    selectors = [_selector(fleet, name) for name in names]
    offers = {
        model_id: offer
        for model_id, offer in fleet.offers.items()
        if any(selects(selector, model_id, offer.tier) for selector in selectors)
    }
    targets = {*offers, *(offer.tier for offer in offers.values()), *([AUTO] if offers else [])}
    aliases = {a: to for a, to in fleet.aliases.items() if fleet.aliases.get(to, to) in targets}
    variants = {a: chosen for a, chosen in fleet.variants.items() if a in aliases}
    paths = {i: path for i, path in fleet.hub_paths.items() if i in offers}
    return Fleet(offers, aliases, variants, fleet.profile, hub_paths=paths)


def _selector(fleet: Fleet, name: str) -> str:
    for _ in range(2):  # an alias may lead to another one, as in `resolver.by_name`
        name = fleet.aliases.get(name, name)
    return f"tier:{name}" if name in set(Tier) else name


def _backend(
    model: Model,
    server: ObservedServer,
    key: str | None,
    facts: ServerProperties | None,
    profile: Profile | None,
) -> Backend:
    return Backend(
        server.port,
        model.model_id,
        server.instance,
        HostPort(server.host, server.port),
        key,
        server.process,
        facts or ServerProperties(model.settings.parallel or DEFAULT_SLOTS),
        _weight(model, profile),
        server.uid,
    )


def _weight(model: Model, profile: Profile | None) -> int:
    """Of the first selector that means the model; 1 where none does."""
    weights = profile.load_balancing.weights if profile else {}
    fitting = (w for s, w in weights.items() if selects(s, model.model_id, model.tier))
    return next(fitting, 1)


def _why_none(model_id: str, servers: list[ObservedServer]) -> tuple[str, bool]:
    for server in servers:
        if server.state in _LOADING:
            return "is being loaded; try again in a moment", True
    for server in servers:
        if server.state is ServerState.BACKOFF:
            return f"will be started again: {server.reason}", True
    for server in servers:
        if server.state is ServerState.FAILED:
            return f"has failed: {server.reason}", False
    return f"does not run; POST /api/models/servers/{model_id}/start starts it", False


def _aliases(
    models: Mapping[str, Model], enabled: Mapping[str, Model], profile: Profile | None
) -> tuple[dict[str, str], dict[str, ChosenVariant]]:
    """Returns the names besides ids, tiers and auto: the profile's, file names, spellings of sizes.

    The profile's come first; a name that could mean two models is dropped. Those that bring
    parameters along are returned as variants too.
    """
    found: dict[str, set[str]] = {}
    for model_id, model in enabled.items():
        names = [model.found.stem, *spellings(model_id)[1:]]
        for name in names:
            found.setdefault(name, set()).add(model_id)
    taken = {*models, *Tier, AUTO}
    plain = {n: next(iter(ids)) for n, ids in found.items() if len(ids) == 1 and n not in taken}
    own = profile.aliases if profile else {}
    given = {name: to for name, to in own.items() if name not in taken}
    variants = {name: chosen for name, to in given.items() if (chosen := _chosen(name, to, given))}
    targets = {name: str(to) for name, to in given.items()}
    targets |= {name: chosen.parameters.model for name, chosen in variants.items()}
    return {**plain, **targets}, variants


def _adapted(offers: Iterable[AvailableModel], taken: Container[str]) -> dict[str, ChosenVariant]:
    """Returns `MODEL:ADAPTER` of each LoRA adapter that all ready servers of a model have loaded.

    A model without a server will load what lies beside it, in this order.
    """
    found = {}
    for offer in offers:
        beside = tuple(adapter.path for adapter in offer.model.found.adapters)
        told = (backend.facts.adapters for backend in offer.backends)
        loaded = {beside if paths is None else paths for paths in told} or {beside}
        if len(loaded) != 1:
            continue
        ids = {path: number for number, path in enumerate(loaded.pop())}
        for adapter in offer.model.found.adapters:
            name = f"{offer.model_id}:{adapter.name}"
            if adapter.path in ids and name not in taken:
                lora = {"lora": [{"id": ids[adapter.path], "scale": 1.0}]}
                found[name] = ChosenVariant(name, Variant(model=offer.model_id, set=lora))
    return found


def _chosen(name: str, to: Target, given: Mapping[str, Target]) -> ChosenVariant | None:
    """The variant that an alias is, or leads to."""
    if isinstance(to, str):
        name, to = to, given.get(to, to)
    return ChosenVariant(name, to) if isinstance(to, Variant) else None
