"""Handlers for probes and dashboards."""

import time
from collections import Counter

from magid.api.context import Context
from magid.api.reply import Call, Reply, reply
from magid.api.schemas import models
from magid.control.planner import Plan
from magid.discovery.tiers import Tier
from magid.servers.backend import ServerState


async def livez(ctx: Context, call: Call) -> Reply:
    """Whether the daemon's event loop runs; depends on nothing else."""
    answer: models.LiveReply = {"status": "ok"}
    return reply(answer)


async def readyz(ctx: Context, call: Call) -> Reply:
    """Whether all that is wanted runs; the reasons where not."""
    reasons = _model_reasons(ctx, call.query["model"]) if call.query.get("model") else None
    if reasons is None:
        await ctx.look_for_program()
        reasons = ctx.unready_reasons()
    answer: models.HealthReply = {
        "status": "unavailable" if reasons else "ok",
        "phase": ctx.daemon.phase,
        "reasons": reasons,
        "warnings": ctx.problems(),
    }
    return reply(answer, 503 if reasons else 200)


def _model_reasons(ctx: Context, name: str) -> list[str]:
    model_id = ctx.daemon.known_id(name)
    servers = [s for s in ctx.daemon.observed().values() if s.model_id == model_id]
    if any(s.state is ServerState.READY for s in servers):
        return []
    if not servers:
        return [f"{model_id} has no server"]
    return [f"{s.unit} is {s.state}{': ' + s.reason if s.reason else ''}" for s in servers]


async def status(ctx: Context, call: Call) -> Reply:
    """One summary for a dashboard."""
    daemon = ctx.daemon
    snapshot = daemon.snapshot
    servers = await ctx.servers()
    plan: Plan = daemon.make_plan()
    tiers = Counter(model.tier for model in snapshot.models.values())
    states = Counter(server["state"] for server in servers)
    await ctx.look_for_program()
    reasons = ctx.unready_reasons()
    answer: models.StatusReply = {
        "phase": daemon.phase,
        "ready": not reasons,
        "activeProfile": snapshot.active.name,
        "totalModels": len(snapshot.models),
        "enabledModels": sum(model.enabled for model in snapshot.models.values()),
        "modelsByTier": {str(tier): tiers[tier] for tier in Tier},
        "serversByState": {str(state): states[state] for state in ServerState},
        "servers": servers,
        "problems": ctx.problems() + reasons,
        "pendingChanges": {"stop": len(plan.stop), "start": len(plan.start)},
        "memory": ctx.memory(),
        "versions": await ctx.versions(),
        "uptimeSeconds": int(time.time() - ctx.started_at),
    }
    return reply(answer)
