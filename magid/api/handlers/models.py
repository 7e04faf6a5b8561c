"""Handlers of the registry: the models that exist, and the user's decisions about them."""

from typing import TYPE_CHECKING

from magid.api import views
from magid.api.context import Context
from magid.api.reply import Call, Reply, cached, reply
from magid.api.schemas import models
from magid.catalog.effective import Model, server_specs
from magid.catalog.registry import utc_now
from magid.control.conditions import ABOUT_MODELS
from magid.control.snapshot import Snapshot
from magid.control.transitions import check_draft
from magid.discovery.tiers import Tier
from magid.errors import Conflict, InvalidInput, MagidError
from magid.llama import engines, options
from magid.llama.arguments import why_undrafted

if TYPE_CHECKING:  # they are imported with the first body
    from magid.api.schemas import bodies


async def get_registry(ctx: Context, call: Call) -> Reply:
    """All models, and what the last scan saw."""
    return cached(*ctx.registry(), call)


async def rescan(ctx: Context, call: Call) -> Reply:
    """Read the model folders again; running servers are untouched."""
    result = await ctx.daemon.rescan()
    answer: models.RescanReply = {
        "message": "Re-scan completed successfully",
        "modelsFound": result.found,
        "modelsAdded": len(result.added),
        "modelsRemoved": len(result.removed),
        "timestamp": views.when(utc_now()) or "",
        "added": list(result.added),
        "removed": list(result.removed),
        "modelsBroken": views.broken_models(result.broken),
        "conditions": views.conditions(one for one in ctx.conditions() if one.code in ABOUT_MODELS),
        "durationMs": round(result.duration_s * 1000, 1),
    }
    return reply(answer)


async def get_model(ctx: Context, call: Call) -> Reply:
    """One model: effective values, where each comes from, and the argv it would run with."""
    ctx.need_listing()
    daemon = ctx.daemon
    model = daemon.model(call.params["modelId"])
    commands, problem = await _commands(ctx, model)
    fit = await daemon.gpus.fits.now(model)
    why = await _why_undrafted(ctx, model)
    origin = await ctx.downloads.origin(model.found.path)
    now = daemon.snapshot
    return reply(views.model_detail(model, fit, commands, problem, now, why, origin))


async def _why_undrafted(ctx: Context, model: Model) -> str:
    """Returns why llama-server cannot use the model's draft; "" if it can, or is not there."""
    port = ctx.daemon.config.port_range[0]
    specs = server_specs(model, ctx.daemon.config.llama_server_host, (port,))
    if not specs or model.drafting.draft is None:
        return ""
    try:
        return why_undrafted(specs[0], (await ctx.program(specs[0].engine)).flags)
    except MagidError:
        return ""


async def _commands(ctx: Context, model: Model) -> tuple[list[list[str]], str]:
    """Returns the command line of each of the model's servers, and why there is none if so.

    Of a server that runs with the present settings it has what was decided at its start.
    """
    config = ctx.daemon.config
    running = (one for one in ctx.daemon.observed().values() if one.state.is_running)
    places = {one.spec_hash: one.placement for one in running}
    ports = model.entry.ports or (config.port_range[0],)
    try:
        return [
            await ctx.daemon.launcher.command(spec, places.get(spec.hash))
            for spec in server_specs(model, config.llama_server_host, ports)
        ], ""
    except MagidError as error:
        return [], error.message


async def get_tier(ctx: Context, call: Call) -> Reply:
    """The models of one effective tier."""
    ctx.need_listing()
    name = call.params["tier"]
    if name not in set(Tier):
        raise InvalidInput(
            f"cannot list tier {name!r}: the tiers are {', '.join(Tier)}", field="tier"
        )

    def listed(now: Snapshot) -> bytes:
        chosen = {model_id: model for model_id, model in now.models.items() if model.tier == name}
        return b"[%s]" % b",".join(ctx.models_json(chosen).values())

    return cached(*ctx.prepared(f"tier {name}", listed), call)


async def put_tier(ctx: Context, call: Call) -> Reply:
    """Override the tier; null clears the override."""
    body: bodies.TierBody = call.body
    ctx.need_listing()
    model = await ctx.daemon.set_tier(call.params["modelId"], body.tier)
    answer: models.TierReply = {
        "message": f"Tier updated for {model.model_id}",
        "modelId": model.model_id,
        "tier": model.tier,
        "override": model.entry.tier_override is not None,
        "restartRequired": ctx.daemon.restart_required(model.model_id),
    }
    return reply(answer)


async def put_thinking(ctx: Context, call: Call) -> Reply:
    """Override the thinking capability; true without a tier override makes it powerful."""
    body: bodies.ThinkingBody = call.body
    ctx.need_listing()
    model, tier_changed = await ctx.daemon.set_thinking(call.params["modelId"], body.thinking)
    answer: models.ThinkingReply = {
        "message": f"Thinking capability updated for {model.model_id}",
        "modelId": model.model_id,
        "thinking": model.is_thinking,
        "override": model.entry.thinking_override is not None,
        "tierChanged": tier_changed,
        "tier": model.tier,
        "restartRequired": ctx.daemon.restart_required(model.model_id),
    }
    return reply(answer)


async def put_enabled(ctx: Context, call: Call) -> Reply:
    """Enable or disable a model; null leaves it to the active profile."""
    body: bodies.EnabledBody = call.body
    ctx.need_listing()
    model = await ctx.daemon.set_enabled(call.params["modelId"], body.enabled)
    answer: models.EnabledReply = {
        "message": f"Model {model.model_id} {'enabled' if model.enabled else 'disabled'}",
        "modelId": model.model_id,
        "enabled": model.enabled,
        "override": model.entry.enabled_override is not None,
        "restartRequired": ctx.daemon.restart_required(model.model_id),
    }
    return reply(answer)


async def enable_all(ctx: Context, call: Call) -> Reply:
    """Enable every model; starts none."""
    return await _enable_all(ctx, enabled=True)


async def disable_all(ctx: Context, call: Call) -> Reply:
    """Disable every model; running servers stay until the next apply."""
    return await _enable_all(ctx, enabled=False)


async def _enable_all(ctx: Context, *, enabled: bool) -> Reply:
    ctx.need_listing()
    changed = await ctx.daemon.set_all_enabled(enabled)
    answer: models.EnabledAllReply = {
        "message": f"All models {'enabled' if enabled else 'disabled'} ({changed} changed)",
        "modelsUpdated": changed,
        "enabled": enabled,
        "timestamp": views.when(utc_now()) or "",
        "restartRequired": not ctx.daemon.make_plan().is_empty,
    }
    return reply(answer)


async def put_port_range(ctx: Context, call: Call) -> Reply:
    """Confirm the range of ports; magid.yaml decides it, so another one is a 409."""
    body: bodies.PortRangeBody = call.body
    start, end = ctx.daemon.config.port_range
    if body.start > body.end:
        raise InvalidInput(
            f"cannot use the ports {body.start} to {body.end}: the first is above the last",
            field="start",
        )
    if (body.start, body.end) != (start, end):
        raise Conflict(
            "cannot change the range of ports over the API: the administrator decides it; set "
            f"port_range: [{body.start}, {body.end}] in magid.yaml and restart magid (now it is "
            f"[{start}, {end}])"
        )
    answer: models.PortRangeReply = {
        "message": f"The ports of servers are {start} to {end}",
        "start": start,
        "end": end,
        "restartRequired": False,
    }
    return reply(answer)


async def put_port(ctx: Context, call: Call) -> Reply:
    """Choose the model's port; null leaves it to magid."""
    body: bodies.PortBody = call.body
    ctx.need_listing()
    model = await ctx.daemon.set_port(call.params["modelId"], body.port, exchange=body.exchange)
    answer: models.PortReply = {
        "message": f"Port updated for {model.model_id}",
        "modelId": model.model_id,
        "port": model.port,
        "override": model.entry.port_pinned,
        "restartRequired": ctx.daemon.restart_required(model.model_id),
    }
    return reply(answer)


async def put_settings(ctx: Context, call: Call) -> Reply:
    """Change how the model runs; null puts a setting back to its default."""
    body: bodies.SettingsChange = call.body
    ctx.need_listing()
    given = body.given()
    options.check_extra_args(given.get("extra_args") or ())
    check_draft(ctx.daemon.snapshot, call.params["modelId"], given)
    await _check_engine(ctx, given.get("engine"))
    model = await ctx.daemon.set_settings(call.params["modelId"], given)
    answer: models.SettingsReply = {
        "message": f"Runtime settings updated for {model.model_id}",
        "modelId": model.model_id,
        "runtimeSettings": views.chosen_settings(model.entry.settings),
        "restartRequired": ctx.daemon.restart_required(model.model_id),
    }
    return reply(answer)


async def _check_engine(ctx: Context, engine: str | None) -> None:
    """Raises InvalidInput if the engine is not installed, NotReady while that cannot be seen.

    See `control/engines` for later.
    """
    if engine is None or not engines.is_named(engine):
        return
    if engine not in (await ctx.engines.look()).installed:
        raise InvalidInput(
            f"cannot set engine: there is no engine {engine!r}; `magictl engine ls` lists them, "
            "and `magictl engine add` adds one",
            field="engine",
        )
