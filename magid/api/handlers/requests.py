"""Handlers of the gateway's requests: explain the route of one, list them, cancel one."""

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

from magid.api.context import Context
from magid.api.reply import Call, Reply, reply
from magid.api.schemas import gateway as gateway_schemas
from magid.errors import InvalidInput, NotFound
from magid.files import schema
from magid.gateway.accounting import token_usage
from magid.gateway.accounting.request_log import Record, Usage
from magid.gateway.accounting.token_usage import GROUPS, SumKey, UsageCounts
from magid.gateway.frontend.rewriting import rewritten
from magid.gateway.proxy.server import UpstreamServer
from magid.gateway.routing import request, variants
from magid.gateway.routing.endpoints import find
from magid.gateway.routing.fleet import ChosenVariant
from magid.http.json_text import to_json

if TYPE_CHECKING:  # they are imported with the first body
    from magid.api.schemas import bodies


async def explain(ctx: Context, call: Call) -> Reply:
    """Where a request to the gateway would go, and why, without sending it."""
    given: bodies.ExplainBody = call.body
    endpoint = find("POST", given.endpoint)
    if endpoint is None:
        raise InvalidInput(
            f"cannot explain {given.endpoint[:200]!r}: it is no endpoint of the gateway that takes "
            "a body",
            field="endpoint",
        )
    outline = call.outline
    fields, model = request.checked(given.request, outline)
    variant = variants.find(model, ctx.gateway.fleet)
    if variant is not None:
        endpoint, fields = rewritten(endpoint, fields, variant)
    body = to_json(fields) if outline is None else b""
    wanted = request.ParsedRequest(endpoint, body, fields, model, outline=outline)
    route, verdicts, chosen = ctx.gateway.explain(wanted)
    candidates = [_candidate(ctx, server, why) for server, why in verdicts]
    answer: gateway_schemas.Explanation = {
        "model": model,
        "variant": None if variant is None else _variant(variant),
        "pool": route.pool,
        "tier": route.tier,
        "route": route.why,
        "score": route.parts.get("score"),
        "parts": route.parts.get("parts", {}),
        "candidates": candidates,
        "chosen": None if chosen is None else _candidate(ctx, chosen, ""),
        "starts": route.starts,
    }
    return reply(answer)


def _variant(chosen: ChosenVariant) -> gateway_schemas.ExplainedVariant:
    # A test checks the answer against the schema.
    parameters = schema.plain(chosen.parameters)
    return cast(gateway_schemas.ExplainedVariant, {"name": chosen.name, **parameters})


def _candidate(ctx: Context, server: UpstreamServer, why_not: str) -> gateway_schemas.Candidate:
    backend = server.backend
    return {
        "modelId": backend.model_id,
        "port": backend.port,
        "tier": ctx.gateway.fleet.offers[backend.model_id].tier,
        "outstanding": server.outstanding,
        "slots": backend.facts.slots,
        "whyNot": why_not or None,
    }


async def list_requests(ctx: Context, call: Call) -> Reply:
    """The gateway's requests: those under way, then the last ones that ended."""
    records = ctx.gateway.records
    answer: gateway_schemas.RequestsReply = {
        "running": len(records.running),
        "waiting": ctx.gateway.waiting,
        "requests": [_shown(r) for r in records.newest(call.query.get("limit", 100))],
    }
    return reply(answer)


def _shown(record: Record) -> gateway_schemas.GatewayRequest:
    usage = record.usage or Usage()
    moment = datetime.fromtimestamp(record.at, UTC).isoformat(timespec="milliseconds")
    return {
        "id": record.id,
        "clientRequestId": record.client_request_id or None,
        "at": moment.replace("+00:00", "Z"),
        "path": record.path,
        "token": record.token or None,
        "model": record.requested_model,
        "variant": record.variant or None,
        "modelId": record.model_id,
        "port": record.port,
        "tier": record.tier,
        "route": record.route,
        "stream": record.is_stream,
        "status": record.status,
        "outcome": record.outcome,
        "error": record.error or None,
        "code": record.problem or None,
        "attempts": record.attempts,
        "waitedSeconds": _rounded(record.sent_s),
        "firstByteSeconds": _rounded(record.first_byte_s),
        "firstTokenSeconds": _rounded(record.first_token_s),
        "durationSeconds": _rounded(record.duration_s),
        "promptTokens": usage.prompt_tokens,
        "cachedTokens": usage.cached_tokens,
        "answerTokens": usage.answer_tokens,
        "tokensPerSecond": _rounded(record.tokens_per_second),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


async def get_usage(ctx: Context, call: Call) -> Reply:
    """Requests and tokens by day, token and model, for the last days.

    Days begin at 00:00 UTC.
    """
    by = _grouping(call.query.get("by", ",".join(GROUPS)))
    days = token_usage.last_days(call.query.get("days", 7), token_usage.day_of(time.time()))
    ctx.gateway.statistics.settle()
    sums = await ctx.gateway.usage.read(days, by)
    total = UsageCounts()
    for counts in sums.counts.values():
        total.add(counts)
    answer: gateway_schemas.UsageReply = {
        "from": days[0],
        "to": days[-1],
        "rows": [_row(key, by, counts) for key, counts in sorted(sums.counts.items())],
        "total": _figures(total),
        "problems": sums.problems,
    }
    return reply(answer)


def _grouping(text: str) -> list[str]:
    by = text.split(",") if text else []
    if unknown := [name for name in by if name not in GROUPS]:
        raise InvalidInput(
            f"cannot group by {unknown[0][:100]!r}: give some of {', '.join(GROUPS)}, with commas",
            field="by",
        )
    return by


def _row(key: SumKey, by: list[str], counts: UsageCounts) -> gateway_schemas.UsageRow:
    day, token, model = (
        value if name in by else None for name, value in zip(GROUPS, key, strict=True)
    )
    return {"day": day, "token": token, "model": model, **_figures(counts)}


def _figures(counts: UsageCounts) -> gateway_schemas.UsageFigures:
    return {
        "requests": counts.requests,
        "promptTokens": counts.prompt_tokens,
        "cachedTokens": counts.cached_tokens,
        "answerTokens": counts.answer_tokens,
    }


async def cancel_request(ctx: Context, call: Call) -> Reply:
    """End a request that is under way; its client gets an error."""
    request_id = call.params["requestId"]
    if not ctx.gateway.kill(request_id):
        raise NotFound(
            f"cannot cancel request {request_id[:100]!r}: none of this id is under way; "
            "GET /api/requests lists them"
        )
    return reply({"message": f"Request {request_id} cancelled"})
