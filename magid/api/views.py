"""Converts the daemon's state to the answers of the API. Pure: clock and figures are parameters."""

import platform
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, cast

from magid import __version__
from magid.api.library_views import origin_view
from magid.api.schemas import access as access_schemas
from magid.api.schemas import models as schemas
from magid.api.schemas import servers as server_schemas
from magid.catalog.drafting import Drafting
from magid.catalog.effective import Model
from magid.catalog.profile import Profile, selects
from magid.catalog.registry import ModelEntry
from magid.config.settings import Config
from magid.control.conditions import Code, DaemonCondition
from magid.control.fits import ModelFit
from magid.control.planner import Blocked, Keep, Plan, Start, Stop
from magid.control.snapshot import Snapshot
from magid.discovery.found import BrokenFile
from magid.discovery.tiers import Tier
from magid.files import schema
from magid.host.control_groups import controllers
from magid.host.usage import ServerFigures
from magid.llama.program import LlamaProgram
from magid.llama.runtime_settings import SETTINGS, RuntimeSettings, not_in_force
from magid.llama.spec import ServerSpec
from magid.servers.backend import ObservedServer, ServerState
from magid.systemd.unit_names import unit_name


def when(moment: datetime | None) -> str | None:
    """Returns RFC 3339 in UTC with a Z, in whole seconds."""
    return None if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def discovered_model(model: Model, fit: ModelFit) -> schemas.DiscoveredModel:
    found, entry = model.found, model.entry
    return {
        "filePath": found.path,
        "filename": found.filename,
        "stem": found.stem,
        "family": found.name.family,
        "version": found.name.version,
        "variant": found.name.variant,
        "sizeParams": found.name.size_params,
        "quantization": found.name.quantization,
        "isThinkingModel": found.is_thinking,
        "thinkingOverride": entry.thinking_override,
        "assignedTier": found.tier,
        "tierOverride": entry.tier_override,
        "port": model.port,
        "enabled": model.enabled,
        "enabledOverride": entry.enabled_override,
        "modelId": model.model_id,
        "effectiveTier": model.tier,
        "effectiveThinking": model.is_thinking,
        "displayName": found.display_name,
        "isInstruct": found.name.is_instruct,
        "isCoder": found.name.is_coder,
        "kind": found.kind,
        "architecture": found.architecture,
        "contextLength": found.context_length,
        "parameterCount": found.parameter_count,
        "activeParameterCount": found.active_parameter_count,
        "sizeBytes": found.size_bytes,
        "files": list(found.files),
        "companions": [{"kind": c.kind, "filePath": c.path} for c in found.companions],
        "thinkingMode": found.thinking_mode,
        "thinkingEvidence": found.thinking_evidence,
        "abilities": abilities(model),
        "memory": memory_fit(fit),
        **settings_in_force(model.settings),
        "discoveredAt": when(entry.discovered_at) or "",
    }


def memory_fit(fit: ModelFit) -> schemas.MemoryFit:
    need: schemas.ShortNeed | None = None
    if fit.device_bytes is not None and fit.host_bytes is not None:
        need = {"devicesBytes": fit.device_bytes, "hostBytes": fit.host_bytes}
    return {"fits": fit.fits.value, "why": fit.why, "need": need, "source": fit.source}


def abilities(model: Model) -> schemas.Abilities:
    found, able = model.found, model.abilities
    return {
        "kind": found.kind,
        "contextLength": model.context_length,
        "tools": able.tools,
        "images": able.images,
        "audio": able.audio,
        "thinking": found.thinking_mode,
        "infill": able.infill,
        "embeddingLength": able.embedding_length,
    }


def settings_in_force(settings: RuntimeSettings) -> schemas.SettingsInForce:
    values = {setting.key: getattr(settings, setting.name) for setting in SETTINGS}
    return cast(schemas.SettingsInForce, values)


def model_detail(
    model: Model,
    fit: ModelFit,
    argv: list[list[str]],
    argv_problem: str,
    snapshot: Snapshot,
    why_undrafted: str,
    origin: Mapping[str, Any] | None,
) -> schemas.ModelDetail:
    blocked = {b.model_id: b.reason for b in snapshot.wanted.blocked}
    return {
        **discovered_model(model, fit),
        "sources": sources_of(model, snapshot.active.name),
        "ports": [s.port for s in snapshot.wanted.specs if s.model_id == model.model_id],
        "argv": argv,
        "argvProblem": argv_problem,
        "wanted": model.enabled and model.model_id not in blocked,
        "wantedReason": blocked.get(model.model_id, _why_enabled(model, snapshot.active.name)),
        "notInForce": not_in_force(model.settings, controllers()),
        "drafting": _draft_in_use(model.drafting, why_undrafted),
        "adapters": [
            {"name": f"{model.model_id}:{one.name}", "filePath": one.path}
            for one in model.found.adapters
        ],
        "origin": None if origin is None else origin_view(origin),
    }


def _draft_in_use(chosen: Drafting, why_not: str) -> schemas.DraftInUse:
    draft = None if why_not else chosen.draft
    if draft is None:
        return {"type": None, "filePath": None, "reason": why_not or chosen.reason}
    return {"type": draft.kind, "filePath": draft.path, "reason": chosen.reason}


def sources_of(model: Model, profile: str | None) -> dict[str, str]:
    """Returns effective value -> its source: override, profile, default, discovery or magid."""
    entry = model.entry
    by_profile = f"profile {profile}" if profile else "default"
    tier = "override" if entry.tier_override else "discovery"
    if not entry.tier_override and entry.thinking_override:
        tier = "thinking override"
    return {
        "tier": tier,
        "thinking": "discovery" if entry.thinking_override is None else "override",
        "enabled": by_profile if entry.enabled_override is None else "override",
        "port": "override" if entry.port_pinned else "magid",
        **{s.key: "override" if s.name in entry.settings else "default" for s in SETTINGS},
    }


def _why_enabled(model: Model, profile: str | None) -> str:
    if model.entry.enabled_override is not None:
        return "enabled by override" if model.enabled else "disabled by override"
    if profile is None:
        return "no profile is active"
    return f"{'in' if model.enabled else 'not in'} the active profile {profile!r}"


def registry_frame(snapshot: Snapshot, config: Config) -> schemas.RegistryFrame:
    paths = [str(path) for path in config.model_paths]
    return {
        "scanPath": paths[0],
        "scanPaths": paths,
        "lastScan": when(snapshot.registry.last_scan),
        "portRange": config.port_range,
        "tierThresholds": {
            "powerful_min": config.tier_thresholds.powerful_min,
            "fast_max": config.tier_thresholds.fast_max,
        },
        "modelsRemoved": [removed_model(entry) for entry in snapshot.missing],
        "modelsBroken": broken_models(snapshot.disk.broken),
        "modelsPending": [
            {
                "filePath": p.path,
                "filename": p.filename,
                "sizeBytes": p.size_bytes,
                "architecture": p.architecture,
                "name": p.name,
                "contextLength": p.context_length,
            }
            for p in snapshot.disk.pending
        ],
    }


def removed_model(entry: ModelEntry) -> schemas.RemovedModel:
    return {
        "modelId": entry.model_id,
        "filePath": entry.path,
        "missingSince": when(entry.missing_since),
        "tierOverride": entry.tier_override,
        "thinkingOverride": entry.thinking_override,
        "enabledOverride": entry.enabled_override,
    }


def broken_models(broken: Iterable[BrokenFile]) -> list[schemas.BrokenModel]:
    return [{"path": b.path, "reason": b.reason} for b in broken]


def chosen_settings(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Returns every setting that a model may have; null where the user chose nothing."""
    return {setting.key: chosen.get(setting.name) for setting in SETTINGS}


# -- servers ---------------------------------------------------------------------------------


def server_list(
    snapshot: Snapshot,
    observed: Mapping[int, ObservedServer],
    figures: Mapping[int, ServerFigures],
    now: float,
    queued: frozenset[int] = frozenset(),
) -> list[server_schemas.Server]:
    """Returns every wanted server and every other running one, in port order."""
    wanted = snapshot.wanted.by_port
    shown = {p: s for p, s in observed.items() if p in wanted or s.state.is_running}
    ports = sorted(wanted.keys() | shown.keys())
    return [
        server(
            shown.get(port) or _not_started(wanted[port], waits=port in queued),
            snapshot,
            figures.get(port),
            now,
        )
        for port in ports
    ]


def _not_started(spec: ServerSpec, *, waits: bool) -> ObservedServer:
    reason = "waits for its turn to load" if waits else "not started"
    return ObservedServer(
        spec.port, spec.model_id, spec.instance, spec.hash, ServerState.STOPPED, reason,
        host=spec.host,
    )  # fmt: skip


def _placement(observed: ObservedServer) -> server_schemas.ServerPlacement | None:
    placement = observed.place
    if placement is None:
        return None
    devices: list[server_schemas.ServerDevice] = [
        {"name": one.name, "id": one.id, "needBytes": one.need} for one in placement.devices
    ]
    return {"devices": devices, "extent": placement.extent, "ctxSize": placement.ctx_size}


def server(
    observed: ObservedServer, snapshot: Snapshot, figures: ServerFigures | None, now: float
) -> server_schemas.Server:
    model = snapshot.models.get(observed.model_id)
    spec = snapshot.wanted.by_port.get(observed.port)
    running = observed.state.is_running
    since = observed.started_at if running else None
    return {
        "modelId": observed.model_id,
        "displayName": model.found.display_name if model else observed.model_id,
        "port": observed.port,
        "pid": observed.pid if running else None,
        "isReady": observed.state is ServerState.READY,
        "isRunning": running,
        "uptimeSeconds": 0 if since is None else max(0, int(now - since)),
        "tier": model.tier if model else _tier_in(observed.model_id),
        "isThinking": model.is_thinking if model else False,
        "unit": observed.unit,
        "instance": observed.instance,
        "state": observed.state,
        "stateReason": observed.reason,
        "restarts": observed.restarts,
        "memoryBytes": figures.memory_bytes if figures else None,
        "cpuSeconds": figures.cpu_seconds if figures else None,
        "invocationId": observed.invocation_id if running else None,
        "endpoint": f"http://{_in_url(observed.host)}:{observed.port}",
        "specCurrent": spec is not None and spec.hash == observed.spec_hash,
        "placement": _placement(observed) if running else None,
    }


def _tier_in(model_id: str) -> Tier:
    # The file of a running server is gone; its id still contains the tier from discovery.
    for tier in Tier:
        if f"_{tier}" in model_id:
            return tier
    return Tier.BALANCED


def _in_url(host: str) -> str:
    if host in ("0.0.0.0", "::"):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


_DOWN = frozenset({ServerState.STOPPED, ServerState.FAILED})


def servers_that_run(servers: Iterable[server_schemas.Server]) -> list[server_schemas.Server]:
    """Returns those that have a process, or will have one by themselves."""
    return [server for server in servers if server["state"] not in _DOWN]


def servers_reply(servers: list[server_schemas.Server]) -> server_schemas.ServersReply:
    """Lists servers; the counts cover running ones only."""
    return {
        "totalServers": len(servers_that_run(servers)),
        "readyServers": sum(s["isReady"] for s in servers),
        "servers": servers,
    }


# -- plans and profiles ----------------------------------------------------------------------


def plan_reply(
    message: str, plan: Plan, found: Iterable[DaemonCondition]
) -> server_schemas.PlanReply:
    """`found` are all conditions; shown are those about models that no plan starts."""
    return {
        "message": message,
        "stop": [plan_line(line) for line in plan.stop],
        "start": [plan_line(line) for line in plan.start],
        "keep": [plan_line(line) for line in plan.keep],
        "blocked": [plan_line(line) for line in plan.blocked],
        "conditions": conditions(one for one in found if one.code is Code.MODELS_LEFT_OUT),
    }


def plan_line(line: Stop | Start | Keep | Blocked) -> server_schemas.PlanLine:
    if isinstance(line, Blocked):
        return {"modelId": line.model_id, "port": None, "unit": None, "reason": line.reason}
    model_id, port = (
        (line.spec.model_id, line.spec.port)
        if isinstance(line, Start)
        else (line.model_id, line.port)
    )
    return {"modelId": model_id, "port": port, "unit": unit_name(port), "reason": line.reason}


def profile_reply(
    profile: Profile, *, active: bool, missing: list[str]
) -> access_schemas.ProfileReply:
    # A test checks the answer against the schema.
    own = cast(access_schemas.ProfileReply, schema.plain(profile, api_names=True))
    return {**own, "active": active, "missingModels": missing}


def conditions(found: Iterable[DaemonCondition]) -> list[server_schemas.Condition]:
    return [
        {
            "code": one.code,
            "severity": one.severity,
            "message": one.message,
            "remedy": list(one.remedy),
            "modelIds": list(one.model_ids),
        }
        for one in found
    ]


# -- the machine -----------------------------------------------------------------------------


def memory(figures: Mapping[str, int]) -> server_schemas.Memory:
    return {"totalBytes": figures.get("total"), "availableBytes": figures.get("available")}


def missing_models(profile: Profile, models: Mapping[str, Model]) -> list[str]:
    """Returns a profile's selectors that match no known model; not tiers, which may be empty."""
    return [
        selector
        for selector in profile.enabled_models
        if not selector.startswith("tier:")
        and not any(selects(selector, m.model_id, m.tier) for m in models.values())
    ]


def versions(program: LlamaProgram | None) -> server_schemas.Versions:
    return {
        "magid": __version__,
        "python": platform.python_version(),
        "llamaServer": program.version if program else None,
        "llamaServerPath": str(program.path) if program else None,
    }
