"""What there is to choose from, by which names. Pure: made from values, nothing runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from magid.catalog.profile import Profile
from magid.catalog.registry import with_settings
from magid.config.settings import Config
from magid.control.snapshot import ActiveProfile, Disk, build
from magid.discovery.found import FoundModel
from magid.gateway.routing import fleet
from magid.gateway.routing.fleet import Fleet, ServerProperties
from magid.llama.runtime_settings import RuntimeSettings
from magid.servers.backend import ServerState
from tests.support import ggufs
from tests.support.scanning import scan
from tests.support.values import merged, observed

ALL = ActiveProfile("all", Profile(name="All", enabled_models=("*",)), "r1")


def made(
    models: Sequence[FoundModel],
    *,
    ready: Sequence[str] = (),
    facts: Mapping[str, ServerProperties] | None = None,
    disabled: Sequence[str] = (),
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    resting: Mapping[str, fleet.StartPause] | None = None,
    seen: Mapping[str, ServerProperties] | None = None,
    library: str | None = None,
) -> Fleet:
    """All on demand. Those that are `ready`, or have `facts`, run."""
    merge = merged(*models)
    registry = merge.registry
    for name in disabled:
        entry = replace(registry.models[name], enabled_override=False)
        registry = registry.with_entry(entry)
    for name, given in (settings or {}).items():
        registry = registry.with_entry(with_settings(registry.models[name], given))
    config = Config(server_defaults=RuntimeSettings(start="on-demand"))
    now = build(1, registry, Disk(merge.found, listed=True), ALL, config, ())
    properties = dict(facts or {})
    running = {
        spec.port: observed(spec, ServerState.READY)
        for spec in now.wanted.specs
        if spec.model_id in (*ready, *properties)
    }
    known = {
        server.process: properties[server.model_id]
        for server in running.values()
        if server.model_id in properties
    }
    return fleet.build(now, running, {}, known, resting=resting, seen=seen, library=library)


def test_a_model_in_several_files_goes_by_its_name_without_the_number(tmp_path: Path) -> None:
    ggufs.write_split_model(tmp_path / "Demo-7B-F32", 2)
    ggufs.write_chat_model(tmp_path / "Other-1B-Q4_0.GGUF", quantization="Q4_0")
    now = made(scan(tmp_path).models)
    assert now.aliases.keys() >= {"Demo-7B-F32", "Other-1B-Q4_0"}
    assert not any("-of-" in name for name in now.aliases)
