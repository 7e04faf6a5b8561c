"""Handlers of tokens, which callers need over TCP."""

from datetime import UTC, datetime

from magid.api.context import Context
from magid.api.reply import Call, Reply, reply
from magid.api.schemas import access as access_schemas
from magid.auth.tokens import shown
from magid.errors import NotAllowed


async def list_tokens(ctx: Context, call: Call) -> Reply:
    """All tokens, by name; never a secret."""
    book = ctx.book
    answer: access_schemas.TokensReply = {
        "required": not book.is_open,
        "problem": book.problem.message if book.problem else None,
        "tokens": [shown(token, datetime.now(UTC)) for token in book.all],
    }
    return reply(answer)


async def create_token(ctx: Context, call: Call) -> Reply:
    """Make a token; this answer alone has it. The first one is not made over TCP.

    The first token shuts out all callers without one, and over TCP the caller is still unknown.
    """
    if call.is_tcp and ctx.book.is_open:
        raise NotAllowed(
            "cannot make the first token over TCP: it shuts out who has none; make it over the "
            "unix socket, as root or in group magi (magictl token create), or while magid does "
            "not run (magictl token create --offline)"
        )
    given: access_schemas.TokenBody = call.body
    made, secret = await ctx.book.create(given.name, given.scopes, given.models, given.expires_at)
    answer: access_schemas.TokenCreated = {
        "message": f"Token {made.name!r} made; it is shown only here",
        "token": secret,
        "entry": shown(made, datetime.now(UTC)),
    }
    return reply(answer, 201)


async def revoke_token(ctx: Context, call: Call) -> Reply:
    """Revoke a token; over TCP a token is needed even when the last one is gone."""
    name = call.params["name"]
    await ctx.book.revoke(name)
    return reply({"message": f"Token {name!r} revoked"})
