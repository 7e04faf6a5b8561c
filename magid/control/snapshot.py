"""The daemon's state at one moment, except running servers. Frozen, so readers never wait."""

from collections import Counter
from collections.abc import Iterable, Mapping, Set
from enum import StrEnum

from msgspec import Struct, field
from msgspec.structs import replace

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
    empty_folders: tuple[str, ...] = ()  # possibly mount points of missing disks
    listed: bool = False  # a first listing or a scan has succeeded

    @property
    def empty_or_unreadable(self) -> list[str]:
        """Returns the folders that may hold models which no scan can see now."""
        return sorted({*self.empty_folders, *(root.path for root in self.unreadable_roots)})

    @property
    def is_read(self) -> bool:
        """Returns whether the folders were read: all that is there and can be read is known."""
        return self.listed and not self.pending

    def may_hold(self, path: str) -> bool:
        """Returns whether a file that was not found may still be there."""
        return not self.is_read or is_below(path, self.empty_or_unreadable)


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
    store_problems: tuple[str, ...]  # errors of loading and saving, for a person
    may_lack_folders: bool = False  # `model_paths` is the default: folders may be missing
    gone_drafts: Mapping[str, str] = {}  # see `undrafted.gone_drafts`
    engines: frozenset[str] = frozenset()  # that models have been given, installed or not

    @property
    def missing(self) -> tuple[ModelEntry, ...]:
        """Returns the entries whose file is gone, in id order."""
        entries = self.registry.models
        return tuple(entries[i] for i in sorted(entries) if i not in self.models)

    @property
    def away(self) -> dict[str, tuple[ModelEntry, ...]]:
        """Returns folder -> known models that are missing with the folder's whole content.

        Such a folder is empty or cannot be read: its disk may not be mounted.
        """
        below = {
            folder: tuple(e for e in self.missing if is_below(e.path, [folder]))
            for folder in self.disk.empty_or_unreadable
        }
        return {folder: entries for folder, entries in below.items() if entries}

    @property
    def known_count(self) -> int | None:
        """Returns how many models there are: until they are read, were before. None: unknown."""
        if self.disk.is_read:
            return len(self.models)
        before = sum(e.missing_since is None for e in self.registry.models.values())
        return max(before, len(self.models)) or None

    def answered(self, model_ids: Set[str], folders: Iterable[str]) -> frozenset[str]:
        """Returns which of these models, and of those below these folders, can be read now.

        Of a folder that does not answer, only old things are known.
        """
        late = [root.path for root in self.disk.unreadable_roots if root.is_late]
        return frozenset(
            model.model_id
            for model in self.models.values()
            if (model.model_id in model_ids or is_below(model.found.path, folders))
            and not is_below(model.found.path, late)
        )


def build(
    revision: int,
    registry: Registry,
    disk: Disk,
    active: ActiveProfile,
    config: Config,
    problems: tuple[str, ...],
    absent: frozenset[str] = frozenset(),
) -> Snapshot:
    """Returns a snapshot in which all enabled models have ports.

    Its `registry` may therefore differ from the argument. `absent` are engines that models have
    been given and that are not installed.
    """
    models = effective_models(registry, disk.found, active.profile, config)
    demand = {m.model_id: m.settings.instances for m in models.values() if m.enabled}
    with_ports, unserved = allocate_ports(registry, demand, config.port_range)
    if with_ports != registry:
        models = effective_models(with_ports, disk.found, active.profile, config)
    unseen = frozenset(
        entry.model_id
        for entry in with_ports.models.values()
        if entry.model_id not in models and disk.may_hold(entry.path)
    )
    wanted = want(models, config.llama_server_host, unserved, config.port_range, absent)
    wanted = replace(wanted, unseen=wanted.unseen | unseen)
    engines = frozenset(m.settings.engine for m in models.values() if m.settings.engine)
    return Snapshot(
        revision, with_ports, disk, active, models, wanted, problems, config.may_lack_folders,
        engines=engines,
    )  # fmt: skip


def status_line(phase: Phase, snapshot: Snapshot, observed: Mapping[int, ObservedServer]) -> str:
    """Returns one line for `systemctl status`: "3 ready, 1 loading, profile production"."""
    counts = Counter(server.state for server in observed.values())
    words = [f"{counts[state]} {state}" for state in ServerState if counts[state]]
    profile = f"profile {snapshot.active.name}" if snapshot.active.name else "no profile"
    return f"{phase}: " + ", ".join([*(words or ["no servers"]), profile])
