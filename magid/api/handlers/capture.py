"""Handlers of the capture of texts: switched on and off, and read, by administrators alone."""

from typing import TYPE_CHECKING

from magid.api import views
from magid.api.context import Context
from magid.api.reply import Call, Reply, reply
from magid.api.schemas import gateway as schemas
from magid.errors import NotAllowed, NotFound
from magid.gateway.accounting.text_capture import MAX_BYTES, Exchange

if TYPE_CHECKING:  # they are imported with the first body
    from magid.api.schemas import bodies


async def get_capture(ctx: Context, call: Call) -> Reply:
    """Whether texts are captured, until when, and of which requests, the newest first."""
    return reply(_shown(ctx))


async def start_capture(ctx: Context, call: Call) -> Reply:
    """Capture the texts of requests and answers for a while; again: until so long from now.

    They are in memory only. Callers without a token are unknown, and may not do this over TCP.
    """
    _check_known(ctx, call)
    given: bodies.CaptureBody = call.body
    ctx.gateway.capture.start(given.seconds, call.by)
    return reply(_shown(ctx))


async def end_capture(ctx: Context, call: Call) -> Reply:
    """End the capture, and drop all texts. Idempotent."""
    ctx.gateway.capture.end(f"by {call.by}", call.by)
    return reply(_shown(ctx))


async def get_texts(ctx: Context, call: Call) -> Reply:
    """The captured texts of one request."""
    _check_known(ctx, call)
    request_id = call.params["requestId"]
    exchange = ctx.gateway.capture.find(request_id)
    if exchange is None:
        raise NotFound(
            f"cannot show texts of request {request_id[:100]!r}: none are kept; POST /api/capture "
            "keeps those of requests that begin then, until it ends"
        )
    ctx.gateway.capture.log_reader(call.by)
    answer: schemas.CapturedTexts = {
        **_listed(exchange),
        "request": exchange.request.decode(errors="replace"),
        "answer": exchange.answer.decode(errors="replace"),
        "contentType": exchange.content_type.decode(errors="replace") or None,
    }
    return reply(answer)


def _check_known(ctx: Context, call: Call) -> None:
    """Raises NotAllowed where magid does not know who asks: texts are those of others."""
    if call.is_tcp and ctx.tokens.is_open:
        raise NotAllowed(
            "cannot show the texts of others over TCP while callers need no token: magid does not "
            "know who asks; use magictl capture on the server, as root or in group magi, or make "
            "a token (magictl token create)"
        )


def _shown(ctx: Context) -> schemas.CaptureReply:
    capture = ctx.gateway.capture
    return {
        "on": capture.is_on,
        "until": views.when(capture.until),
        "bytes": capture.bytes,
        "maxBytes": MAX_BYTES,
        "dropped": capture.dropped,
        "requests": [_listed(one) for one in capture.newest()],
    }


def _listed(exchange: Exchange) -> schemas.CapturedRequest:
    record = exchange.record
    return {
        "id": record.id,
        "model": record.model_id or record.requested_model,
        "token": record.token or None,
        "path": record.path,
        "requestBytes": exchange.request_bytes,
        "answerBytes": exchange.answer_bytes,
    }
