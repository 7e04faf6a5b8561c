"""All that is known at one moment, except running servers. A frozen value: readers never wait."""

from collections import Counter
from collections.abc import Iterable, Mapping
from enum import StrEnum

from msgspec import Struct, field

from magid.catalog.effective import Model, effective_models
from magid.catalog.profile import Profile
from magid.catalog.registry import ModelEntry, Registry, allocate_ports
from magid.config.settings import Config
from magid.control.planner import Wanted, want
from magid.discovery.found import BrokenFile, FoundModel, PendingFile
from magid.discovery.walker import UnreadableRoot, is_below
from magid.servers.backend import ObservedServer, ServerState


class Phase(StrEnum):
    """The daemon's phase, as reported by /readyz."""

    SCANNING = "scanning"
    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"


class Disk(Struct, frozen=True):
    """The result of the last scan. `found` is keyed by model id."""

    found: Mapping[str, FoundModel] = field(default_factory=dict)
    broken: tuple[BrokenFile, ...] = ()
    pending: tuple[PendingFile, ...] = ()  # listed, not read yet
    unreadable_roots: tuple[UnreadableRoot, ...] = ()
    listed: bool = False  # a first listing or a scan has succeeded


class ActiveProfile(Struct, frozen=True):
    """The active profile.

    If its file is broken, `profile` is the last good one, with a `problem`.
    """

    name: str | None = None
    profile: Profile | None = None
    revision: str = ""  # of the file's content
    problem: str = ""


class Snapshot(Struct, frozen=True):
    """The state at one moment. `revision` counts the snapshots since the daemon started."""

    revision: int
    registry: Registry
    disk: Disk
    active: ActiveProfile
    models: Mapping[str, Model]
    wanted: Wanted
    problems: tuple[str, ...]  # for a person, most urgent first

    @property
    def missing(self) -> tuple[ModelEntry, ...]:
        """Returns the entries whose file is gone, in id order."""
        entries = self.registry.models
        return tuple(entries[i] for i in sorted(entries) if i not in self.models)

    @property
    def unanswered(self) -> frozenset[str]:
        """Returns the models whose folder does not answer: what is known of them is old."""
        late = [root.path for root in self.disk.unreadable_roots if root.is_late]
        models = self.models.values()
        return frozenset(m.model_id for m in models if is_below(m.found.path, late))


def build(
    revision: int,
    registry: Registry,
    disk: Disk,
    active: ActiveProfile,
    config: Config,
    problems: tuple[str, ...],
) -> Snapshot:
    """Returns a snapshot in which all enabled models have ports.

    Its `registry` may therefore differ from the argument.
    """
    models = effective_models(registry, disk.found, active.profile, config)
    demand = {m.model_id: m.settings.instances for m in models.values() if m.enabled}
    with_ports, unserved = allocate_ports(registry, demand, config.port_range)
    if with_ports != registry:
        models = effective_models(with_ports, disk.found, active.profile, config)
    wanted = want(models, config.llama_server_host, unserved, config.port_range)
    notes = [*problems, *([active.problem] if active.problem else [])]
    for root in disk.unreadable_roots:
        if not (disk.listed and root.is_absent and config.may_lack_folders):
            notes.append(f"cannot read {root.path}: {root.reason}")
    return Snapshot(revision, with_ports, disk, active, models, wanted, tuple(notes))


def unready_reasons(
    phase: Phase,
    snapshot: Snapshot,
    observed: Mapping[int, ObservedServer],
    problems: Iterable[str] = (),
) -> list[str]:
    """Returns why /readyz answers 503; empty means 200.

    `problems`: what keeps magid from knowing the state. A server that a person stopped is no
    reason: magid respects the stop.
    """
    reasons = []
    if phase is not Phase.SERVING:
        reasons.append(_PHASE_REASONS[phase])
    elif not snapshot.disk.listed:
        reasons.append("no model folder could be read; GET /api/models/status says why")
    reasons += filter(None, problems)
    for root in snapshot.disk.unreadable_roots:
        if root.is_late:
            reasons.append(f"the model folder {root.path} {root.reason}")
    if snapshot.active.problem and snapshot.active.profile is None:
        reasons.append(snapshot.active.problem)
    for spec in snapshot.wanted.specs:
        server = observed.get(spec.port)
        if server is None or server.model_id != spec.model_id:
            continue
        if server.state in (ServerState.FAILED, ServerState.BACKOFF) or (
            phase is Phase.STARTING and server.state is not ServerState.READY
        ):
            reasons.append(f"{server.unit} ({spec.model_id}) {server.described}")
    return reasons + [f"{b.model_id} has no server: {b.reason}" for b in snapshot.wanted.blocked]


_PHASE_REASONS = {
    Phase.SCANNING: "the model folders are being read",
    Phase.STARTING: "the boot is not finished: wanted servers are being started",
    Phase.DRAINING: "magid is shutting down",
}


def status_line(phase: Phase, snapshot: Snapshot, observed: Mapping[int, ObservedServer]) -> str:
    """Returns one line for `systemctl status`: "3 ready, 1 loading, profile production"."""
    counts = Counter(server.state for server in observed.values())
    words = [f"{counts[state]} {state}" for state in ServerState if counts[state]]
    profile = f"profile {snapshot.active.name}" if snapshot.active.name else "no profile"
    return f"{phase}: " + ", ".join([*(words or ["no servers"]), profile])
