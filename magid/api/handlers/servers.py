"""Handlers of servers: state, start and stop, plans; probes and the dashboard's status."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterable
from typing import Literal

from magid.api import views
from magid.api.context import Context
from magid.api.dashboard_status import dashboard_status
from magid.api.reply import Call, Reply, reply
from magid.api.schemas import servers as server_schemas
from magid.control import planner
from magid.control.conditions import DaemonCondition, Severity, messages
from magid.control.planner import Plan
from magid.discovery.tiers import Tier
from magid.servers.backend import ServerState

Status = Literal["started", "starting", "already_running", "stopped", "not_running", "restarted"]


async def list_servers(ctx: Context, call: Call) -> Reply:
    """The servers that run; with ?all=true the others too."""
    servers = await ctx.servers()
    shown = servers if call.query.get("all") else views.servers_that_run(servers)
    return reply(views.servers_reply(shown))


def _runs(ctx: Context, model_id: str) -> bool:
    return any(
        s.model_id == model_id and s.state.is_running for s in ctx.daemon.observed().values()
    )


def start_status(plan: Plan, *, runs: bool) -> Status:
    """Returns `starting` where the plan starts a server of a model that `runs` already. Pure."""
    if not runs:
        return "started"
    return "starting" if plan.start else "already_running"


async def start(ctx: Context, call: Call) -> Reply:
    """Start a model's servers."""
    ctx.need_listing()
    model_id = ctx.daemon.model(call.params["modelId"]).model_id
    plan = planner.only(model_id, ctx.daemon.snapshot.wanted, ctx.daemon.observed())
    status = start_status(plan, runs=_runs(ctx, model_id))
    return await _act(ctx, call, model_id, "Start", status, ctx.daemon.start(model_id))


async def stop(ctx: Context, call: Call) -> Reply:
    """Stop a model's servers."""
    model_id = ctx.daemon.resolve_id(call.params["modelId"])
    status: Status = "stopped" if _runs(ctx, model_id) else "not_running"
    return await _act(ctx, call, model_id, "Stop", status, ctx.daemon.stop(model_id))


async def restart(ctx: Context, call: Call) -> Reply:
    """Restart a model's servers."""
    ctx.need_listing()
    model_id = ctx.daemon.model(call.params["modelId"]).model_id
    return await _act(ctx, call, model_id, "Restart", "restarted", ctx.daemon.restart(model_id))


async def _act(
    ctx: Context, call: Call, model_id: str, verb: str, status: Status, work: asyncio.Task[None]
) -> Reply:
    """Returns 202 at once; with ?wait=SECONDS 200 when the work is done, or raises its error."""
    wait_s = call.query.get("wait")
    done = "has stopped" if verb == "Stop" else "is ready"
    if wait_s:
        await ctx.daemon.finished(model_id, work, wait_s, first_try=True)
    answer: server_schemas.ServerAction = {
        "message": f"{model_id} {done}" if wait_s else f"{verb} of {model_id} requested",
        "modelId": model_id,
        "status": status,
        "servers": await ctx.servers_of(model_id),
    }
    return reply(answer, 200 if wait_s else 202)


async def start_all(ctx: Context, call: Call) -> Reply:
    """Start every wanted server that does not run."""
    plan = ctx.daemon.start_all()
    done = _plan_reply("Start of all wanted servers requested", plan, ctx.conditions())
    started = len(plan.start)
    answer: server_schemas.StartAllReply = {
        **done, "started": started, "total": started + len(plan.keep),
    }  # fmt: skip
    return _planned(answer, plan)


async def stop_all(ctx: Context, call: Call) -> Reply:
    """Stop every server."""
    plan = ctx.daemon.stop_all()
    done = _plan_reply("Stop of all servers requested", plan, ())
    answer: server_schemas.StopAllReply = {**done, "stopped": len(plan.stop)}
    return _planned(answer, plan)


async def apply(ctx: Context, call: Call) -> Reply:
    """Make what runs equal what is wanted."""
    if call.query.get("dryRun"):
        plan = ctx.daemon.make_plan()
        return reply(views.plan_reply("Nothing was changed", plan, ctx.conditions()))
    plan = ctx.daemon.apply()
    return _planned(_plan_reply("Applying what is wanted", plan, ctx.conditions()), plan)


def _plan_reply(
    message: str, plan: Plan, found: Iterable[DaemonCondition]
) -> server_schemas.PlanReply:
    if plan.is_empty:
        message = "Nothing to do: what runs is what is wanted"
    return views.plan_reply(message, plan, found)


def _planned(answer: server_schemas.PlanReply, plan: Plan) -> Reply:
    return reply(answer, 200 if plan.is_empty else 202)


async def livez(ctx: Context, call: Call) -> Reply:
    """Whether the daemon's event loop runs; depends on nothing else."""
    answer: server_schemas.LiveReply = {"status": "ok"}
    return reply(answer)


async def readyz(ctx: Context, call: Call) -> Reply:
    """Whether all that is wanted runs; the reasons where not."""
    await ctx.look_for_program()
    found = ctx.conditions()
    model = call.query.get("model")
    reasons = _model_reasons(ctx, model) if model else messages(found, Severity.ERROR)
    answer: server_schemas.HealthReply = {
        "status": "unavailable" if reasons else "ok",
        "phase": ctx.daemon.phase,
        "reasons": reasons,
        "warnings": messages(found, Severity.WARNING),
        "conditions": views.conditions(found),
    }
    return reply(answer, 503 if reasons else 200)


def _model_reasons(ctx: Context, name: str) -> list[str]:
    model_id = ctx.daemon.resolve_id(name)
    servers = [s for s in ctx.daemon.observed().values() if s.model_id == model_id]
    if any(s.state is ServerState.READY for s in servers):
        return []
    if not servers:
        return [f"{model_id} has no server"]
    return [f"{s.unit} {s.described}" for s in servers]


async def status(ctx: Context, call: Call) -> Reply:
    """One summary for a dashboard.

    It is of one moment: nothing is awaited after the servers.
    """
    await ctx.look_for_program()
    versions = await ctx.versions()
    memory = await ctx.memory()
    servers = await ctx.servers()
    daemon = ctx.daemon
    snapshot = daemon.snapshot
    plan: Plan = daemon.make_plan()
    is_read = snapshot.disk.is_read
    tiers = Counter(model.tier for model in snapshot.models.values())
    states = Counter(server["state"] for server in servers)
    found = ctx.conditions()
    reasons = messages(found, Severity.ERROR)
    gateway, now = ctx.gateway, time.time()
    records = gateway.records
    answer: server_schemas.StatusReply = {
        **dashboard_status(
            servers, records.running.values(), records.ended, gateway.statistics, now
        ),
        "phase": daemon.phase,
        "ready": not reasons,
        "activeProfile": snapshot.active.name,
        "totalModels": snapshot.known_count,
        "enabledModels": sum(m.enabled for m in snapshot.models.values()) if is_read else None,
        "modelsByTier": {str(tier): tiers[tier] if is_read else None for tier in Tier},
        "serversByState": {str(state): states[state] for state in ServerState},
        "servers": servers,
        "problems": messages(found, Severity.WARNING) + reasons,
        "conditions": views.conditions(found),
        "pendingChanges": {"stop": len(plan.stop), "start": len(plan.start)},
        "memory": memory,
        "versions": versions,
        "uptimeSeconds": int(now - ctx.started_at),
    }
    return reply(answer)
