"""Snapshots of a daemon with a few models, and what runs at that moment."""

from magid.catalog.profile import Profile
from magid.config.settings import Config
from magid.control.snapshot import ActiveProfile, Disk, Snapshot, build
from magid.servers.backend import ObservedServer, ServerState
from tests.support.values import found, merged, observed

CONFIG = Config(port_range=(8080, 8082))
ALL = ActiveProfile("all", Profile(name="All", enabled_models=("*",)), "r1")


def moment(
    *names: str, active: ActiveProfile = ALL, disk: Disk | None = None, config: Config = CONFIG
) -> Snapshot:
    """Models of these names, all found and enabled unless `disk` or `active` says otherwise."""
    merge = merged(*(found(name) for name in names))
    return build(1, merge.registry, disk or Disk(merge.found, listed=True), active, config, ())


def servers(snapshot: Snapshot, *states: ServerState) -> dict[int, ObservedServer]:
    """The wanted servers in these states, by port."""
    specs = snapshot.wanted.specs
    return {s.port: observed(s, state) for s, state in zip(specs, states, strict=True)}
