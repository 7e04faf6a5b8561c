"""The Sanic application. It registers the route table and defines no route itself.

`magid.api.request` reads and checks requests. This module adds the headers to each answer and
gives every error, Sanic's own included, the same shape.
"""

import asyncio
import itertools
import logging
import re
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, cast

from sanic import HTTPResponse, Request, Sanic
from sanic import exceptions as sanic_errors
from sanic.handlers import ErrorHandler

from magid import errors
from magid.api import openapi
from magid.api import request as incoming
from magid.api.context import Context
from magid.api.protocol import Application, Response, WireRequest
from magid.api.reply import NOBODY, Call, Reply, Stream, error_reply, unexpected
from magid.api.routes import ROUTES, Access, Handler, Route
from magid.auth import origins, peers
from magid.config.addresses import Address
from magid.gateway.frontend.context import FrontendContexts
from magid.gateway.routing.endpoints import nearest
from magid.http import request_rules
from magid.http.request_rules import MAX_HEAD_BYTES
from magid.http.response_headers import PLAIN_DATA
from magid.log import access_log

log = logging.getLogger(__name__)

# A watcher that takes no bytes for this long counts as gone, whatever the state of its socket.
SEND_TIMEOUT_S = 30.0
# Longer than the longest `?wait=`: Sanic answers 503 by itself when a handler takes longer.
RESPONSE_TIMEOUT_S = 3700

_count = itertools.count()
_HEADERS = {**PLAIN_DATA, "Vary": "Origin"}


def make_app(
    ctx: Context, table: Iterable[Route] = ROUTES, addresses: Sequence[Address] = ()
) -> Sanic[Any, Any]:
    """Returns an application over `ctx` that serves `table`.

    It accepts `addresses` besides the configured ones. One process may have several applications.
    """
    config = ctx.daemon.config
    policy = origins.make_policy(
        (*config.addresses, *addresses), config.allowed_hosts, config.allowed_origins,
        config.trusted_proxies,
    )  # fmt: skip
    table = tuple(table)
    routes = [*table, openapi.make_route(table)]
    paths = sorted({route.path for route in routes})
    routes += [
        Route("OPTIONS", path, _preflight(routes, path), None, Access.PUBLIC, 204) for path in paths
    ]
    app = Application(
        f"magid-{next(_count)}",
        configure_logging=False,
        error_handler=_Errors(routes),
        request_class=WireRequest,
    )
    app.config.update(
        REQUEST_TIMEOUT=config.request_timeout,
        RESPONSE_TIMEOUT=RESPONSE_TIMEOUT_S,
        KEEP_ALIVE_TIMEOUT=75,
        SEND_TIMEOUT=config.send_timeout,
        # With Sanic's default of 5 s a client on a slow line would lose the end of its answer.
        GRACEFUL_TCP_CLOSE_TIMEOUT=config.send_timeout,
        # Bounds only bodies that Sanic itself reads; below MAX_HEAD_BYTES it would bound heads too.
        REQUEST_MAX_SIZE=max(config.max_body_bytes, MAX_HEAD_BYTES),
        REQUEST_MAX_HEADER_SIZE=MAX_HEAD_BYTES,
        GRACEFUL_SHUTDOWN_TIMEOUT=config.drain_timeout,
        TOUCHUP=False,  # Application does without
        ACCESS_LOG=False,
        MOTD=False,
    )

    app.ctx.has_model_users = ctx.daemon.launcher.has_model_users
    authenticator = ctx.authenticator
    app.ctx.contexts = FrontendContexts(ctx.gateway, ctx.downloads, policy, config, authenticator)

    async def check(request: Request) -> None:
        incoming.begin(request)
        incoming.check(request, policy)

    app.register_middleware(check, "request")
    for route in routes:
        _register(app, ctx, route, policy)
    return app


def _register(app: Sanic[Any, Any], ctx: Context, route: Route, policy: origins.Policy) -> None:
    methods = ["GET", "HEAD"] if route.method == "GET" else [route.method]
    app.add_route(
        _endpoint(ctx, route, policy),
        route.path.replace("{", "<").replace("}", ">"),
        methods=methods,
        name=f"{route.method} {route.path}",
        stream=True,
        # Without it Sanic guesses the format from the handler's source: 1 ms for each route.
        error_format="json",
    )


def _endpoint(
    ctx: Context, route: Route, policy: origins.Policy
) -> Callable[..., Coroutine[Any, Any, HTTPResponse | None]]:
    limit, deadline = ctx.daemon.config.max_body_bytes, ctx.daemon.config.request_timeout
    authenticator, public_path = ctx.authenticator, ctx.daemon.config.public_path
    if not route.takes_large:
        limit = min(limit, incoming.MAX_BODY_BYTES)

    async def endpoint(request: Request, **raw: str) -> HTTPResponse | None:
        if route.is_for_own_pages:
            incoming.check_own_page(request, policy)
        caller = incoming.admit(request, route.access, authenticator)
        data = await incoming.read_body(request, limit, deadline)
        data = await incoming.decode_body(request, data, limit, ctx.gateway.slices)
        params = {name: incoming.decode(text) for name, text in raw.items()}
        query = incoming.parse_query(request, route.query)
        body, outline = await incoming.parse_body(request, route.body, data, ctx.gateway.slices)
        call = Call(
            params=params,
            query=query,
            body=body,
            outline=outline,
            if_match=request.headers.get("if-match"),
            if_none_match=request.headers.get("if-none-match"),
            last_event_id=request.headers.get("last-event-id"),
            accept=request.headers.get("accept"),
            accept_encoding=request.headers.get("accept-encoding"),
            host=incoming.host_of(request),
            requested_headers=request.headers.get("access-control-request-headers"),
            sender=incoming.sender(request, policy, public_path) if route.signs_in else NOBODY,
            # Taken before the handler, which may wait: a closed connection has no peer.
            by=peers.name_of(caller, request.transport) if route.access is Access.CHANGE else "",
        )
        ctx.daemon.refresh_profile()
        is_change = route.access is Access.CHANGE and route.method != "GET"
        answer = await route.handler(ctx, call)
        if isinstance(answer, Stream):
            return await _send_stream(request, answer, lambda: authenticator.is_valid(caller))
        if is_change and not query.get("dryRun"):
            access_log.log_change(call.by, answer.status, **_named(request))
        return _response(request, answer)

    return endpoint


# -- what goes out ---------------------------------------------------------------------------


def _response(request: Request, answer: Reply) -> HTTPResponse:
    kind = {"Content-Type": answer.content_type} if answer.body else {}
    return _finished(request, answer.body, answer.status, {**answer.headers, **kind})


def _finished(
    request: Request, body: bytes | None, status: int, own: Mapping[str, str]
) -> HTTPResponse:
    """Returns an answer with the headers that all answers have."""
    incoming.end_if_unread(request)
    headers = {**_HEADERS, "X-Request-Id": request.ctx.request_id, **own}
    origin = getattr(request.ctx, "origin", None)
    if origin:
        headers |= origins.reading_headers(origin)
    took_s = time.monotonic() - request.ctx.began
    if log.isEnabledFor(logging.DEBUG):
        log.debug("%s %s %d %.1f ms", request.method, request.path, status, took_s * 1000)
    if "wait" not in request.args:
        access_log.log_slow(took_s, status=status, **_named(request))
    return Response(body, status, headers)


def _named(request: Request) -> dict[str, str]:
    """Returns the log fields of a request. Leaves out the query, which may hold private data."""
    return {
        "request_id": request.ctx.request_id,
        "client_request_id": request.ctx.client_request_id,
        "method": request.method or "?",
        "path": request.path,
    }


def _log_defect(what: str, request: Request, error: BaseException) -> None:
    ids = request.ctx
    access_log.log_defect(
        what, error, request_id=ids.request_id, client_request_id=ids.client_request_id
    )


async def _send_stream(
    request: Request, answer: Stream, may_go_on: Callable[[], bool]
) -> HTTPResponse | None:
    """Sends the stream until it ends or the caller's token is revoked or expires."""
    headers = {"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"}
    empty = _finished(request, None, 200, headers)
    if request.method == "HEAD":
        await answer.close()
        return empty
    response = await request.respond(empty)
    assert response is not None
    has_begun = False
    try:
        async for chunk in answer.events:
            has_begun = True
            if not may_go_on():
                break
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await response.send(chunk)
        await response.eof()
    except Exception as error:
        if not has_begun:
            raise  # nothing is sent yet, so the error can still be the answer
        if not isinstance(error, TimeoutError):
            _log_defect("stream", request, error)
        # Abort instead of a proper end: the caller must not take the stream for complete.
        cast(asyncio.Transport, request.transport).abort()
    finally:
        await answer.close()
    return None


def _preflight(routes: Iterable[Route], path: str) -> Handler:
    """Returns the handler for preflights from configured origins; others have already got a 403."""

    async def preflight(ctx: Context, call: Call) -> Reply:
        methods = allowed_methods(path, routes)
        return Reply(b"", 204, origins.preflight_headers(methods, call.requested_headers))

    return preflight


class _Errors(ErrorHandler):
    """Gives every error the same shape, Sanic's own included."""

    def __init__(self, routes: Iterable[Route]) -> None:
        super().__init__()
        self._routes = tuple(routes)

    def default(self, request: Request, exception: BaseException) -> HTTPResponse:
        incoming.begin(request)
        if isinstance(exception, sanic_errors.RequestCancelled):
            return Response(status=204)  # the caller has disconnected: the answer is not read
        ours = _translated(request, exception)
        if ours is None:
            _log_defect("request", request, exception)
            return _response(request, unexpected(request.ctx.request_id))
        is_405 = isinstance(ours, errors.MethodNotAllowed)
        methods = allowed_methods(request.path, self._routes) if is_405 else ()
        answer = _response(request, error_reply(ours, methods))
        access_log.log_error(answer.status, ours.code, ours.message, **_named(request))
        return answer


def allowed_methods(path: str, routes: Iterable[Route]) -> set[str]:
    """Returns the methods of a path. Sanic does not say them when a path has parameters. Pure."""
    path = path.rstrip("/") or "/"
    fitting = [
        route for route in routes if re.fullmatch(re.sub(r"{\w+}", "[^/]+", route.path), path)
    ]
    fewest = min((route.path.count("{") for route in fitting), default=0)
    methods = {route.method for route in fitting if route.path.count("{") == fewest}
    return methods | ({"HEAD"} if "GET" in methods else set())


def _translated(request: Request, exception: BaseException) -> errors.MagidError | None:
    """Returns magid's error, or the one that corresponds to Sanic's; None for an internal error."""
    match exception:
        case errors.MagidError():
            return exception
        case sanic_errors.MethodNotAllowed():
            return request_rules.wrong_method(request.method, request.path)
        case sanic_errors.NotFound():
            return request_rules.unknown_path(request.path, nearest(request.path))
        case sanic_errors.PayloadTooLarge():
            return errors.TooLarge("cannot take this request: its head or body is too large")
        case sanic_errors.RequestTimeout():
            return request_rules.too_slow()
        case sanic_errors.ServiceUnavailable():
            return errors.TimedOut("cannot answer in time: the operation takes too long")
        case sanic_errors.BadRequest() if str(exception) == "Bad Request":  # Sanic's for any head
            return errors.InvalidInput(
                "cannot read the request: it is not HTTP/1.1; send METHOD /PATH HTTP/1.1, and no "
                "TLS to a port that has none"
            )
        case sanic_errors.BadRequest() | sanic_errors.ExpectationFailed():
            return errors.InvalidInput(f"cannot read the request: {exception}")
        case _:
            return None
