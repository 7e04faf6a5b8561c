"""Handlers of the logs of servers and of magid: last lines, search, following, resuming."""

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from msgspec import Struct

from magid.api.context import Context
from magid.api.reply import Call, Reply, Stream
from magid.api.schemas import servers as server_schemas
from magid.api.sse import KEEP_ALIVE_S, RETRY, comment, event_of
from magid.errors import InvalidInput, NotFound
from magid.http.json_text import to_json
from magid.llama.spec import ServerSpec
from magid.log.buffer import LogLine
from magid.servers.backend import ObservedServer

LINES = 200  # the default of `lines`
# Number of newest lines that a search covers; also the most that a follower gets at once.
DEPTH = 10_000

_SPAN = re.compile(r"([0-9]{1,6})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LEVELS: tuple[server_schemas.LogLevel, ...] = (
    "critical", "critical", "critical", "error", "warning", "info", "info", "debug",
)  # fmt: skip


class Source(Struct, frozen=True):
    """One log: how to read it, wait for more lines, and format a line."""

    last: Callable[[int, str | None], Awaitable[list[LogLine]]]
    wait: Callable[[str | None], Coroutine[Any, Any, None]]
    entry: Callable[[LogLine], Mapping[str, Any]]


async def server_logs(ctx: Context, call: Call) -> Reply | Stream:
    """The log of one of a model's servers, oldest line first."""
    model_id = ctx.daemon.resolve_id(call.params["modelId"])
    port = _port_of(ctx, model_id, call.query.get("instance", 0))
    launcher = ctx.daemon.launcher
    source = Source(
        last=lambda lines, after: launcher.logs(port, lines=lines, after=after),
        wait=partial(launcher.wait_logs, port),
        entry=lambda line: _server_entry(line, port),
    )
    return await _answer(ctx, call, source, {"modelId": model_id})


async def own_logs(ctx: Context, call: Call) -> Reply | Stream:
    """The log of magid itself, oldest entry first."""
    return await _answer(ctx, call, Source(ctx.log.last, ctx.log.wait, _own_entry), {})


async def _answer(
    ctx: Context, call: Call, source: Source, head: Mapping[str, Any]
) -> Reply | Stream:
    """Returns the last lines, or a stream. A search covers the newest DEPTH lines."""
    chosen, wanted = _chosen(call), call.query.get("lines", LINES)
    follow = call.query.get("follow", False)
    after = call.last_event_id if follow else None
    is_all = not (call.query.get("grep") or call.query.get("since"))
    run = "all" if after else call.query.get("run", "all")  # who resumes misses nothing
    lines = await source.last(wanted if is_all and run != "previous" else DEPTH, after)
    shown = [line for line in of_run(lines, run) if chosen(line)][-wanted:]
    if follow:
        read = lines[-1].cursor if lines else after
        return Stream(_follow(ctx, source, shown, read, chosen))
    answer = {**head, "lines": [source.entry(line) for line in shown]}
    return Reply(escaped(to_json(answer)))


def of_run(lines: Sequence[LogLine], which: str) -> Sequence[LogLine]:
    """Returns the lines of the `current` or `previous` run of a server, or `all`. Pure.

    A line of no run belongs to the run before it. Raises InvalidInput for another word.
    """
    if which == "all":
        return lines
    if which not in ("current", "previous"):
        raise InvalidInput(
            f"cannot read run={which[:80]!r}: give current, previous or all", field="run"
        )
    runs: list[str] = []
    for line in lines:
        runs.append(line.run or (runs[-1] if runs else ""))
    order = list(dict.fromkeys(filter(None, runs)))
    back = 1 if which == "current" else 2
    if len(order) < back:
        return lines if which == "current" else []
    return [line for line, run in zip(lines, runs, strict=True) if run == order[-back]]


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
    source: Source,
    lines: list[LogLine],
    cursor: str | None,
    chosen: Callable[[LogLine], bool],
) -> AsyncGenerator[bytes]:
    """Yields `lines`, then new ones. An error after the first byte can only end the stream."""
    head = RETRY
    if not lines:  # the head is sent with the first bytes: clients need not wait for a line
        yield head + comment()
        head = b""
    while True:
        for line in lines:
            yield head + event_of("log", escaped(to_json(source.entry(line))), line.cursor)
            head = b""
        if not await _either(source.wait(cursor), ctx.fanout.closed.wait()):
            yield comment()
        if ctx.fanout.closed.is_set():
            return
        fresh = await source.last(DEPTH, cursor)
        cursor = fresh[-1].cursor if fresh else cursor
        lines = [line for line in fresh if chosen(line)]


async def _either(*events: Coroutine[Any, Any, object]) -> bool:
    """Waits for the first of `events`. Returns False when it is time for a comment instead."""
    tasks = [asyncio.create_task(wait) for wait in events]
    try:
        done, _ = await asyncio.wait(
            tasks, timeout=KEEP_ALIVE_S, return_when=asyncio.FIRST_COMPLETED
        )
    finally:
        for task in tasks:
            task.cancel()
    for task in done:
        task.result()  # raises the error of the wait
    return bool(done)


def _chosen(call: Call) -> Callable[[LogLine], bool]:
    since = _since(call.query.get("since"))
    needle = (call.query.get("grep") or "").casefold()
    return lambda line: line.at >= since and needle in line.text.casefold()


def _since(text: str | None) -> float:
    """Returns epoch seconds of an RFC 3339 time or a span back from now (90s, 10m, 2h, 1d)."""
    if not text:
        return 0.0
    span = _SPAN.fullmatch(text)
    if span:
        return time.time() - timedelta(seconds=int(span[1]) * _SECONDS[span[2]]).total_seconds()
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput(
            f"cannot read since={text[:80]!r}: it is neither a time nor a span; give an RFC 3339 "
            "time, or a span such as 90s, 10m, 2h",
            field="since",
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


# -- formatting --------------------------------------------------------------------------------


def _server_entry(line: LogLine, port: int) -> server_schemas.LogEntry:
    return {
        "cursor": line.cursor,
        "timestamp": _when(line),
        "port": port,
        "message": line.text,
        "run": line.run or None,
    }


def _own_entry(line: LogLine) -> server_schemas.OwnLogEntry:
    fields = line.fields
    priority = fields.get("PRIORITY", "")
    return {
        "cursor": line.cursor,
        "timestamp": _when(line),
        "level": _LEVELS[int(priority)] if priority in list("01234567") else "info",
        "message": line.text,
        "event": fields.get("MAGI_EVENT"),
        "messageId": fields.get("MESSAGE_ID"),
        "modelId": fields.get("MAGI_MODEL"),
        "unit": fields.get("MAGI_UNIT"),
        "requestId": fields.get("MAGI_REQUEST_ID"),
        "clientRequestId": fields.get("MAGI_CLIENT_REQUEST_ID"),
    }


def _when(line: LogLine) -> str:
    moment = datetime.fromtimestamp(line.at, UTC).isoformat(timespec="milliseconds")
    return moment.replace("+00:00", "Z")


# DEL and C1 controls, direction marks, invisible characters, line separators.
_UNSEEN = re.compile(
    rb"\x7f|\xc2[\x80-\x9f]|\xd8\x9c|\xe2\x80[\x8b-\x8f\xa8-\xae]|\xe2\x81[\xa0-\xaf]|\xef\xbb\xbf"
)


def escaped(data: bytes) -> bytes:
    """Returns equivalent JSON that is safe on a terminal, where `curl` shows it. Pure.

    JSON itself requires escapes only below U+0020.
    """
    return _UNSEEN.sub(lambda found: b"\\u%04x" % ord(found[0].decode()), data)
