"""Computes the changes that bring the running servers to the wanted state.

Pure: never awaits, logs or raises; its tests are tables. A server whose spec hash equals the wanted
one is kept, regardless of what started it. A start of magid changes nothing, unless it is the first
one after a boot or has to finish that boot: see `at_boot`.
"""

from collections.abc import Container, Iterable, Mapping

from msgspec import Struct, field
from msgspec.structs import replace

from magid.catalog.effective import Model, server_specs
from magid.llama.spec import ServerSpec
from magid.llama.spec_values import differences
from magid.servers.backend import ObservedServer, ServerState


class Blocked(Struct, frozen=True):
    """A wanted model that cannot get a server, with the reason."""

    model_id: str
    reason: str
    engine: str = ""  # that is not installed; else it has no port


class Wanted(Struct, frozen=True):
    """The servers that should run, in start order, and the models that cannot have one."""

    specs: tuple[ServerSpec, ...]
    blocked: tuple[Blocked, ...]
    on_demand: frozenset[int] = frozenset()  # ports of servers that are started on demand only
    unwanted: Mapping[str, str] = field(default_factory=dict)  # model -> what it is instead
    unseen: frozenset[str] = frozenset()  # models whose folder is away, or not read yet

    @property
    def by_port(self) -> dict[int, ServerSpec]:
        return {spec.port: spec for spec in self.specs}


class Stop(Struct, frozen=True):
    """Stop the server on this port."""

    port: int
    model_id: str
    reason: str


class Start(Struct, frozen=True):
    """Start this server."""

    spec: ServerSpec
    reason: str


class Keep(Struct, frozen=True):
    """Leave this server alone."""

    port: int
    model_id: str
    reason: str


class Plan(Struct, frozen=True):
    """A list of changes: stops first, then starts in order. An empty plan changes nothing."""

    stop: tuple[Stop, ...] = ()
    start: tuple[Start, ...] = ()
    keep: tuple[Keep, ...] = ()
    blocked: tuple[Blocked, ...] = ()

    @property
    def is_empty(self) -> bool:
        return not self.stop and not self.start

    @property
    def model_ids(self) -> frozenset[str]:
        """Returns the models whose servers this plan starts or stops."""
        starts = {line.spec.model_id for line in self.start}
        return frozenset(starts | {line.model_id for line in self.stop})


def want(
    models: Mapping[str, Model],
    host: str,
    unserved: Iterable[str],
    port_range: tuple[int, int],
    absent: Container[str] = (),
) -> Wanted:
    """Returns the servers of all enabled models.

    Small models start first: they are ready soonest. `absent` are engines that are not installed:
    what runs with one goes on, because its disk may only be away.
    """
    low, high = port_range
    no_port = frozenset(unserved)
    specs: list[ServerSpec] = []
    blocked = [
        Blocked(model_id, f"no port of {low}-{high} is free; widen port_range in magid.yaml")
        for model_id in sorted(no_port)
    ]
    enabled = [m for m in models.values() if m.enabled and m.model_id not in no_port]
    without = {m.model_id: m.settings.engine or "" for m in enabled if m.settings.engine in absent}
    blocked += [
        Blocked(model_id, f"its engine {engine!r} is not installed", engine)
        for model_id, engine in sorted(without.items())
    ]
    enabled = [m for m in enabled if m.model_id not in without]
    for model in sorted(enabled, key=lambda m: (m.found.size_bytes, m.model_id)):
        specs += server_specs(model, host)
    on_demand = frozenset(s.port for s in specs if models[s.model_id].is_on_demand)
    unwanted = {m.model_id: _why_unwanted(m) for m in models.values() if not m.enabled}
    return Wanted(tuple(specs), tuple(blocked), on_demand, unwanted, frozenset(without))


def _why_unwanted(model: Model) -> str:
    return (
        "is disabled" if model.entry.enabled_override is False else "is not in the active profile"
    )


def plan(wanted: Wanted, observed: Mapping[int, ObservedServer]) -> Plan:
    """Returns the changes that lead from `observed` to `wanted`. Idempotent."""
    specs = wanted.by_port
    stops = [
        Stop(server.port, server.model_id, reason)
        for port, server in sorted(observed.items())
        if (reason := _why_stop(server, specs.get(port), wanted))
    ]
    starts: list[Start] = []
    keeps: list[Keep] = []
    for spec in wanted.specs:
        server = observed.get(spec.port)
        waits = spec.port in wanted.on_demand and not _runs(server)
        reason = "" if waits else _why_start(spec, server)
        if reason:
            starts.append(Start(spec, reason))
        elif server is not None:
            keeps.append(Keep(spec.port, spec.model_id, f"runs as wanted ({server.state})"))
    return Plan(tuple(stops), tuple(starts), tuple(keeps), wanted.blocked)


def _why_stop(server: ObservedServer, spec: ServerSpec | None, wanted: Wanted) -> str:
    if not (server.state.is_running or server.state is ServerState.BACKOFF):
        return ""
    if spec is None:
        if server.model_id in wanted.unseen:
            return ""  # a disk that is not mounted is no decision
        return f"not wanted: its model {_instead(server.model_id, wanted)}"
    if spec.model_id != server.model_id:
        return f"its port now belongs to {spec.model_id}"
    if spec.hash != server.spec_hash:
        return differences(server.values, spec)
    return ""


def _instead(model_id: str, wanted: Wanted) -> str:
    if any(spec.model_id == model_id for spec in wanted.specs):
        return "has another port, or fewer servers"
    if any(line.model_id == model_id for line in wanted.blocked):
        return "has no port"
    return wanted.unwanted.get(model_id, "has no file")


def _runs(server: ObservedServer | None) -> bool:
    return server is not None and (server.state.is_running or server.state is ServerState.BACKOFF)


def _why_start(spec: ServerSpec, server: ObservedServer | None) -> str:
    if server is None:
        return "wanted, and not running"
    if spec.hash != server.spec_hash:
        return differences(server.values, spec) if server.state.is_running else "wanted"
    if server.state is ServerState.FAILED:
        return "wanted; it failed before"
    if server.state in (ServerState.STOPPED, ServerState.STOPPING):
        return "wanted, and stopped"
    return ""


# -- the start of magid ----------------------------------------------------------------------


class Due(Struct, frozen=True):
    """What a boot has still to start: these models, and all wanted ones below these folders."""

    model_ids: frozenset[str] = frozenset()
    folders: frozenset[str] = frozenset()  # they have not answered yet

    @property
    def is_empty(self) -> bool:
        return not self.model_ids and not self.folders


class BootRecord(Struct, frozen=True):
    """What an earlier magid has left of its boot. `boot` is that of `ServerBackend`."""

    boot: str
    due: Due


def still_due(record: BootRecord | None, boot: str) -> Due | None:
    """Returns what this boot has still to start; None if it has not begun.

    Empty after a boot that was finished: then a start of magid changes no server.
    """
    return record.due if record is not None and record.boot == boot else None


def due_at_boot(wanted: Wanted, away: Iterable[str], silent: Iterable[str]) -> Due:
    """Returns what a boot starts.

    Models that are `away` and `silent` folders are part of it: a disk may be mounted, or answer,
    later in the same boot.
    """
    always = (spec.model_id for spec in wanted.specs if spec.port not in wanted.on_demand)
    return Due(frozenset((*always, *away)), frozenset(silent))


def at_boot(wanted: Wanted, observed: Mapping[int, ObservedServer], due: Container[str]) -> Plan:
    """Returns the starts of the due models. Nothing is stopped.

    A server that exists stays as it is: it runs, it has failed, or a person has stopped it.
    """
    return Plan(
        start=tuple(
            Start(spec, "wanted at boot")
            for spec in wanted.specs
            if spec.model_id in due
            and spec.port not in wanted.on_demand
            and _is_free(spec, observed.get(spec.port))
        )
    )


def _is_free(spec: ServerSpec, server: ObservedServer | None) -> bool:
    return server is None or not (_runs(server) or server.model_id == spec.model_id)


# -- what a user asks for --------------------------------------------------------------------


def only(model_id: str, wanted: Wanted, observed: Mapping[int, ObservedServer]) -> Plan:
    """Returns the part of the plan that concerns the servers of one model."""
    specs = tuple(s for s in wanted.specs if s.model_id == model_id)
    mine = Wanted(specs, (), unwanted=wanted.unwanted, unseen=wanted.unseen)
    return plan(mine, {p: s for p, s in observed.items() if s.model_id == model_id})


def stop_all(observed: Iterable[ObservedServer], reason: str) -> Plan:
    """Returns a plan that stops those of the given servers that run."""
    return Plan(
        stop=tuple(
            Stop(s.port, s.model_id, reason)
            for s in observed
            if s.state.is_running or s.state is ServerState.BACKOFF
        )
    )


def stop_model(model_id: str, observed: Iterable[ObservedServer]) -> Plan:
    """Returns a plan that stops a model's servers. Failed servers are reset to stopped."""
    return Plan(
        stop=tuple(
            Stop(s.port, model_id, "stop asked for")
            for s in observed
            if s.model_id == model_id and s.state is not ServerState.STOPPED
        )
    )


def start_all(wanted: Wanted, observed: Mapping[int, ObservedServer]) -> Plan:
    """Returns the plan without the stops whose port gets no new server."""
    full = plan(wanted, observed)
    ports = {line.spec.port for line in full.start}
    return replace(full, stop=tuple(line for line in full.stop if line.port in ports))


def restart(wanted: Wanted, model_id: str, observed: Mapping[int, ObservedServer]) -> Plan:
    """Returns a plan that stops the model's servers and starts the wanted ones."""
    stops = stop_all([s for s in observed.values() if s.model_id == model_id], "restart asked for")
    starts = tuple(
        Start(spec, "restart asked for") for spec in wanted.specs if spec.model_id == model_id
    )
    return Plan(stop=stops.stop, start=starts)


def restart_one(wanted: Wanted, port: int, observed: Mapping[int, ObservedServer]) -> Plan:
    """Returns a plan that restarts the server on this port, if it should run."""
    spec, server = wanted.by_port.get(port), observed.get(port)
    if spec is None or server is None:
        return Plan()
    stops = stop_all([server], "it fails its requests")
    return Plan(stop=stops.stop, start=(Start(spec, "it failed its requests"),))
