"""Handlers of running servers: state, start and stop, plans, logs."""

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

from magid.api import schemas, views
from magid.api.context import Context
from magid.api.replies import Call, Reply, Stream, reply
from magid.api.sse import KEEP_ALIVE_S, comment, event
from magid.errors import InvalidInput, NotFound
from magid.planner import Plan
from magid.units import LogLine, ObservedServer, ServerSpec

_SPAN = re.compile(r"([0-9]{1,6})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


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
    answer: schemas.ServerAction = {
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


# -- logs ------------------------------------------------------------------------------------


async def logs(ctx: Context, call: Call) -> Reply | Stream:
    """The log of one of a model's servers, oldest line first."""
    model_id = ctx.daemon.known_id(call.params["modelId"])
    port = _port_of(ctx, model_id, call.query.get("instance", 0))
    chosen = _chosen(call)
    follow = call.query.get("follow", False)
    after = call.last_event_id if follow else None
    lines = await ctx.daemon.launcher.logs(port, lines=call.query.get("lines", 200), after=after)
    if follow:
        return Stream(_follow(ctx, port, lines, after, chosen))
    answer: schemas.LogsReply = {
        "modelId": model_id,
        "lines": [_entry(line, port) for line in lines if chosen(line)],
    }
    return reply(answer)


def _port_of(ctx: Context, model_id: str, instance: int) -> int:
    servers: list[ObservedServer | ServerSpec] = [*ctx.daemon.observed().values()]
    servers += ctx.daemon.snapshot.wanted.specs
    for server in servers:
        if server.model_id == model_id and server.instance == instance:
            return server.port
    raise NotFound(
        f"cannot show logs of {model_id!r}: it has no server {instance}; start it first",
        modelId=model_id,
    )


async def _follow(
    ctx: Context,
    port: int,
    lines: list[LogLine],
    cursor: str | None,
    chosen: Callable[[LogLine], bool],
) -> AsyncGenerator[bytes]:
    """`lines`, then what comes. An error after the first byte can only end the stream."""
    launcher = ctx.daemon.launcher
    while True:
        for line in lines:
            if chosen(line):
                yield event("log", _entry(line, port), line.cursor)
        if lines:
            cursor = lines[-1].cursor
        if not await _either(launcher.wait_logs(port, cursor), ctx.fanout.closed.wait()):
            yield comment()
        if ctx.fanout.closed.is_set():
            return
        lines = await launcher.logs(port, lines=1000, after=cursor)


async def _either(*events: Coroutine[Any, Any, object]) -> bool:
    """Wait for the first of these; False if none came before it is time for a comment."""
    tasks = [asyncio.create_task(wait) for wait in events]
    try:
        done, _ = await asyncio.wait(
            tasks, timeout=KEEP_ALIVE_S, return_when=asyncio.FIRST_COMPLETED
        )
    finally:
        for task in tasks:
            task.cancel()
    for task in done:
        task.result()  # raises what the wait has raised
    return bool(done)


def _chosen(call: Call) -> Callable[[LogLine], bool]:
    since = _since(call.query.get("since"))
    needle = (call.query.get("grep") or "").casefold()
    return lambda line: line.at >= since and needle in line.text.casefold()


def _since(text: str | None) -> float:
    """Seconds since the epoch, from an RFC 3339 time or a span back from now (90s, 10m, 2h, 1d)."""
    if not text:
        return 0.0
    span = _SPAN.fullmatch(text)
    if span:
        return time.time() - timedelta(seconds=int(span[1]) * _SECONDS[span[2]]).total_seconds()
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput(
            f"cannot read since={text!r}; give an RFC 3339 time, or a span such as 90s, 10m, 2h",
            field="since",
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _entry(line: LogLine, port: int) -> schemas.LogEntry:
    moment = datetime.fromtimestamp(line.at, UTC).isoformat(timespec="milliseconds")
    return {
        "cursor": line.cursor,
        "timestamp": moment.replace("+00:00", "Z"),
        "port": port,
        "message": line.text,
    }
