"""Handlers of tokens, which callers need over TCP."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from magid.api.context import Context
from magid.api.reply import Call, Reply, reply
from magid.api.schemas import access as access_schemas
from magid.auth.tokens import TokenLimits, shown
from magid.errors import NotAllowed

if TYPE_CHECKING:  # they are imported with the first body
    from pydantic import BaseModel

    from magid.api.schemas import bodies


async def list_tokens(ctx: Context, call: Call) -> Reply:
    """List the tokens, by name, without their secrets."""
    store = ctx.tokens
    answer: access_schemas.TokensReply = {
        "required": not store.is_open,
        "problem": store.problem.message if store.problem else None,
        "tokens": [shown(token, datetime.now(UTC)) for token in store.all],
    }
    return reply(answer)


async def create_token(ctx: Context, call: Call) -> Reply:
    """Make a token, which only this answer contains. The first one cannot be made over TCP.

    The first token shuts out all callers without one, and over TCP the caller is still unknown.
    """
    if call.is_tcp and ctx.tokens.is_open:
        raise NotAllowed(
            "cannot make the first token over TCP: it shuts out every caller without a token; make "
            "it over the unix socket, as root or in group magi (magictl token create), or while "
            "magid is stopped (magictl token create --offline)"
        )
    given: bodies.TokenBody = call.body
    made, secret = await ctx.tokens.create(
        given.name, given.scopes, given.models, given.expires_at, _limits(given.limits)
    )
    answer: access_schemas.TokenCreated = {
        "message": f"Token {made.name!r} made; it is shown only once",
        "token": secret,
        "entry": shown(made, datetime.now(UTC)),
    }
    return reply(answer, 201)


async def limit_token(ctx: Context, call: Call) -> Reply:
    """Change what a token may ask of the gateway; null, or left out, lifts a limit."""
    limits = _limits(call.body) or TokenLimits()
    made = await ctx.tokens.limit(call.params["name"], limits)
    answer: access_schemas.TokenLimitsReply = {
        "message": f"Limits updated for token {made.name!r}",
        "entry": shown(made, datetime.now(UTC)),
    }
    return reply(answer)


def _limits(body: "BaseModel | None") -> TokenLimits | None:
    return None if body is None else TokenLimits(**body.model_dump())


async def revoke_token(ctx: Context, call: Call) -> Reply:
    """Revoke a token. TCP still requires a token after the last one is revoked."""
    name = call.params["name"]
    await ctx.tokens.revoke(name)
    return reply({"message": f"Token {name!r} revoked"})
