"""Handlers of running servers: state, start and stop, plans."""

import asyncio

from magid.api import views
from magid.api.context import Context
from magid.api.reply import Call, Reply, reply
from magid.api.schemas import models
from magid.control.planner import Plan


async def list_servers(ctx: Context, call: Call) -> Reply:
    """All servers and their states."""
    return reply(views.servers_reply(await ctx.servers()))


async def start(ctx: Context, call: Call) -> Reply:
    """Start a model's servers."""
    ctx.need_listing()
    model_id = ctx.daemon.model(call.params["modelId"]).model_id
    return await _act(ctx, call, model_id, "Start", ctx.daemon.start(model_id))


async def stop(ctx: Context, call: Call) -> Reply:
    """Stop a model's servers."""
    model_id = ctx.daemon.known_id(call.params["modelId"])
    return await _act(ctx, call, model_id, "Stop", ctx.daemon.stop(model_id))


async def restart(ctx: Context, call: Call) -> Reply:
    """Restart a model's servers."""
    ctx.need_listing()
    model_id = ctx.daemon.model(call.params["modelId"]).model_id
    return await _act(ctx, call, model_id, "Restart", ctx.daemon.restart(model_id))


async def _act(
    ctx: Context, call: Call, model_id: str, verb: str, work: asyncio.Task[None]
) -> Reply:
    """202 at once; with ?wait=SECONDS 200 when the work is done, or the error that ended it."""
    wait_s = call.query.get("wait")
    if wait_s:
        await ctx.daemon.finished(model_id, work, wait_s)
    answer: models.ServerAction = {
        "message": f"{verb} of {model_id} {'done' if wait_s else 'requested'}",
        "modelId": model_id,
        "servers": await ctx.servers_of(model_id),
    }
    return reply(answer, 200 if wait_s else 202)


async def start_all(ctx: Context, call: Call) -> Reply:
    """Start every wanted server that does not run."""
    return _planned("Start of all wanted servers requested", ctx.daemon.start_all())


async def stop_all(ctx: Context, call: Call) -> Reply:
    """Stop every server."""
    return _planned("Stop of all servers requested", ctx.daemon.stop_all())


async def apply(ctx: Context, call: Call) -> Reply:
    """Make what runs equal what is wanted."""
    if call.query.get("dryRun"):
        return reply(views.plan_reply("Nothing was changed", ctx.daemon.make_plan()))
    return _planned("Applying what is wanted", ctx.daemon.apply())


def _planned(message: str, plan: Plan) -> Reply:
    if plan.is_empty:
        return reply(views.plan_reply("Nothing to do: what runs is what is wanted", plan))
    return reply(views.plan_reply(message, plan), 202)
