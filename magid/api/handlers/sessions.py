"""Handlers of sessions: a browser trades a token, or an administrator's link, for a cookie."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

from magid.api.context import Context
from magid.api.reply import Call, Reply, Sender, reply
from magid.api.schemas import access as access_schemas
from magid.api.views import when
from magid.auth import session_cookie
from magid.auth.sessions import LIFE_S, LINK_S, Grant, Session
from magid.auth.token_store import TokenEntry
from magid.auth.tokens import Scope, credential_of
from magid.config.addresses import TcpAddress
from magid.errors import Conflict, MagidError, NotAllowed, TokenNotFound, Unauthenticated

if TYPE_CHECKING:  # they are imported with the first body
    from magid.api.schemas import bodies

log = logging.getLogger(__name__)

Shown = access_schemas.SessionReply


async def get_session(ctx: Context, call: Call) -> Reply:
    """Whether the browser is signed in, and what the caller may do."""
    return reply(_told(ctx, _shown(ctx, call.sender)))


def _told(ctx: Context, shown: Shown) -> Shown:
    """Who may not read the status is told, too, that what they ask is captured."""
    shown["capturedUntil"] = when(ctx.gateway.capture.until)
    return shown


def _shown(ctx: Context, sender: Sender) -> Shown:
    required = not ctx.tokens.is_open
    if sender.is_viewer:
        return _answer(frozenset({Scope.READ}), required=False)
    if sender.is_local or not required:
        return _answer(frozenset(Scope), required=False)
    presented = sender.presented
    if presented is None:
        return _answer(frozenset(), required=True)
    try:
        if presented.is_session:
            return _of_session(ctx.authenticator.session(presented))
        return _of_token(ctx.authenticator.entry(presented, sender.name))
    except MagidError:
        return _answer(frozenset(), required=True)


def _answer(scopes: frozenset[Scope], *, required: bool) -> Shown:
    access: Literal["admin", "read", "infer", "none"] = "none"
    if Scope.ADMIN in scopes:
        access = "admin"
    elif scopes:
        access = "read" if Scope.READ in scopes else "infer"
    return {
        "signedIn": False, "required": required, "access": access, "scopes": sorted(scopes),
        "name": "", "models": None, "expiresAt": None, "capturedUntil": None,
    }  # fmt: skip


def _of_token(entry: TokenEntry) -> Shown:
    shown = _answer(entry.scopes, required=True)
    models = entry.token.models
    shown["name"] = entry.token.name
    shown["models"] = None if models is None else list(models)
    return shown


def _of_session(session: Session) -> Shown:
    shown = _answer(session.scopes, required=True)
    models = session.caller.models
    shown["signedIn"] = True
    shown["name"] = session.caller.name or session.grant.person
    shown["models"] = None if models is None else list(models)
    shown["expiresAt"] = when(session.expires_at)
    return shown


async def sign_in(ctx: Context, call: Call) -> Reply:
    """Sign in: trade a token, or the secret of a link, for a session's cookie.

    The browser's session before it ends. A wrong token or link is answered later each time.
    """
    sender = call.sender
    if sender.is_local or ctx.tokens.is_open:
        raise Conflict("cannot sign in: no token is needed here, so that there is no session")
    try:
        grant = _grant(ctx, call.body, sender)
    except Unauthenticated as error:
        with ctx.delays.failed(sender.name) as delay_s:
            await asyncio.sleep(delay_s)
        raise error from None
    _end(ctx, sender)
    value = session_cookie.new_value()
    session = ctx.authenticator.sessions.begin(
        session_cookie.digest(sender.cookie.name, value), grant
    )
    if session is None:
        raise _unknown_link()  # its token was revoked since
    who = f"token {session.caller.name}" if grant.token else f"the link of {grant.person}"
    log.info("a browser at %s signed in with %s", sender.name, who)
    return _with_cookie(_told(ctx, _of_session(session)), sender, value, int(LIFE_S))


def _grant(ctx: Context, body: "bodies.SessionBody", sender: Sender) -> Grant:
    """Raises Unauthenticated for a wrong token or link, NotReady as `entry` does."""
    if body.token is not None:
        given = credential_of(body.token.encode(errors="surrogateescape"))
        entry = ctx.authenticator.entry(given, sender.name)
        return Grant(entry.token.id, entry.digest)
    grant = ctx.authenticator.sessions.use_link(body.link or "")
    if grant is None:
        raise _unknown_link()
    return grant


def _unknown_link() -> Unauthenticated:
    return Unauthenticated(
        f"cannot sign in: this link was used already, or is older than {LINK_S:.0f} s; make "
        "another one: magictl open"
    )


async def sign_out(ctx: Context, call: Call) -> Reply:
    """Sign out: end the browser's session. Idempotent."""
    presented = call.sender.presented
    if presented is not None and presented.lacks:
        raise NotAllowed(presented.lacks)
    _end(ctx, call.sender)
    shown = _answer(frozenset(), required=not ctx.tokens.is_open)
    return _with_cookie(shown, call.sender, "", 0)


def _end(ctx: Context, sender: Sender) -> None:
    presented = sender.presented
    if presented is not None and presented.is_session and not presented.lacks:
        ctx.authenticator.sessions.end(presented.digest)


def _with_cookie(shown: Shown, sender: Sender, value: str, age_s: int) -> Reply:
    answer = reply(shown)
    headers = dict(answer.headers)
    if sender.cookie.name:  # over TCP
        headers["Set-Cookie"] = sender.cookie.header(value, age_s)
    return Reply(answer.body, answer.status, headers)


async def make_link(ctx: Context, call: Call) -> Reply:
    """Make a link that signs a browser in, once and soon; over the unix socket only.

    Without a token's name it gives all rights, as the socket does, and with one those of the token.
    """
    if not call.sender.is_local:
        raise NotAllowed(
            "cannot make a sign-in link over TCP: it is for who may use the unix socket; run "
            "magictl open there, as root or in group magi"
        )
    addresses = _addresses(ctx)
    if not addresses:
        raise Conflict(
            "cannot open the page: magid listens on no TCP address; name one in bind, or start "
            "magid.socket"
        )
    answer: access_schemas.SignInLink
    if ctx.tokens.is_open:
        answer = {"addresses": addresses, "path": "", "link": None, "expiresAt": None}
        return reply(answer, 201)
    body: bodies.LinkBody = call.body
    grant = _granted(ctx, body.token, call.sender)
    link = ctx.authenticator.sessions.make_link(grant)
    log.info("%s made a sign-in link for %s", call.sender.name, body.token or "all rights")
    answer = {
        "addresses": addresses,
        # In the fragment, which browsers send to no server, so that it gets into no log.
        "path": f"#link={quote(link)}",
        "link": link,
        "expiresAt": when(datetime.now(UTC) + timedelta(seconds=LINK_S)),
    }
    return reply(answer, 201)


def _granted(ctx: Context, name: str | None, sender: Sender) -> Grant:
    if name is None:
        return Grant(person=sender.name)
    entry = ctx.tokens.named(name)
    if entry is None:
        raise TokenNotFound(
            f"cannot find token {name[:100]!r}: it does not exist; magictl token ls lists all",
            name=name[:100],
        )
    return Grant(entry.token.id, entry.digest, sender.name)


def _addresses(ctx: Context) -> list[str]:
    """Where a browser finds the page, the nearest first."""
    config = ctx.daemon.config
    scheme = "http" if config.tls_cert is None else "https"
    found = []
    for address in ctx.addresses:
        if isinstance(address, TcpAddress):
            host = _ANY.get(address.host, address.host)
            host = f"[{host}]" if ":" in host else host
            found.append(f"{scheme}://{host}:{address.port}/")
    return found


_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # of an address that stands for all
