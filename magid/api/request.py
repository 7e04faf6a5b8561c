"""Checks and parses requests: the head, the caller, the body within its limits, typed values.

Sanic 25.12 never times out a slow request body, has no size limit for streamed ones and accepts
malformed heads. So every route is registered as a streaming one, and this module does all of that.
"""

import asyncio
import re
import sys
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote

from sanic import Request
from sanic.http import Http

from magid import errors
from magid.api.reply import Sender
from magid.api.routes import Access, Query
from magid.auth import origins, peers, sandboxed
from magid.auth.authenticator import LOCAL, Authenticator, admit_viewer, check_url
from magid.auth.session_cookie import SessionCookie, cookie_for, credential_from_cookie
from magid.auth.token_store import Caller
from magid.auth.tokens import Credential, credential_from_headers
from magid.gateway.frontend.request_reader import BOM
from magid.gateway.proxy.time_slices import TimeSlices
from magid.gateway.routing.outline import WHOLE_BYTES, Outline, outlined
from magid.http import content_coding, framing, request_rules

if TYPE_CHECKING:
    from pydantic_core import ValidationError

MAX_BODY_BYTES = WHOLE_BYTES  # for routes without `takes_large`
MAX_VALUES = 4096
_READS = 64
_SHOWN = 200  # characters of a caller's key that an error quotes


def begin(request: Request) -> None:
    """Gives the request an id of magid's own, and keeps the caller's beside it. Idempotent."""
    if not hasattr(request.ctx, "request_id"):
        given = request.headers.get("x-request-id", "")
        request.ctx.client_request_id = request_rules.client_request_id(given)
        request.ctx.request_id = request_rules.next_request_id()
        request.ctx.began = time.monotonic()


def check(request: Request, policy: origins.Policy) -> None:
    """Refuses a head that is malformed, has a foreign Host, or was sent by a foreign page."""
    if not request.head:
        return  # Sanic's stand-in for a head that it could not parse: already an error
    stream = _stream(request)
    if cast(Any, stream.protocol).is_models:  # set by `protocol.DispatchingProtocol`
        raise sandboxed.refuse()
    try:
        framing.check_head(request.head)
    except errors.InvalidInput:
        stream.keep_alive = False  # the beginning of the next request is unknown
        raise
    if "transfer-encoding" in request.headers:
        stream.keep_alive = False  # Sanic does not check the bytes between chunks
    if request.version == "1.0":
        stream.expecting_continue = False  # HTTP/1.0 has no interim answers (RFC 9110, 10.1.1)
    stream.upgrade_websocket = False  # an upgrade would disable all timeouts of the connection
    check_url(request.query_string)
    if _is_local_socket(request):
        return  # browsers cannot reach it: file permissions decide
    changes = request.method not in request_rules.SAFE_METHODS
    policy = _policy_of(request, policy)
    request.ctx.origin = origins.check(request.headers, policy, changes=changes)


def check_own_page(request: Request, policy: origins.Policy) -> None:
    """Refuses what a page of another site has a browser fetch, as an image, say."""
    if not _is_local_socket(request) and request.method != "OPTIONS":
        policy = _policy_of(request, policy)
        origins.check_origin(request.headers, policy, changes=True)


def _policy_of(request: Request, policy: origins.Policy) -> origins.Policy:
    peer = request.transport.get_extra_info("peername")
    return policy.for_peer(str(peer[0])) if peer else policy


def _stream(request: Request) -> Http:
    return cast(Http, request.stream)


def host_of(request: Request) -> str | None:
    """Returns the checked Host header; None on a unix socket, where it has no meaning."""
    return None if _is_local_socket(request) else request.headers.get("host")


def _is_local_socket(request: Request) -> bool:
    return not isinstance(request.transport.get_extra_info("sockname"), tuple)


def _is_view(request: Request) -> bool:
    return bool(cast(Any, _stream(request).protocol).is_view)


def admit(request: Request, need: Access, authenticator: Authenticator) -> Caller:
    """Returns the caller, if it has the needed access. Runs before the body is read.

    Raises Unauthenticated, NotAllowed, NotReady.
    """
    if need.scope is None:
        return LOCAL
    if _is_local_socket(request):
        return admit_viewer(need.scope) if _is_view(request) else LOCAL
    peer = request.transport.get_extra_info("peername")
    return authenticator.authenticate(
        _presented(request), need.scope, str(peer[0]) if peer else "unknown"
    )


def _presented(request: Request) -> Credential | None:
    held = [request.headers.get(name, "") for name in ("authorization", "x-api-key")]
    authorization, api_key = (text.encode(errors="surrogateescape") for text in held)
    presented = credential_from_headers(authorization, api_key)
    if presented is not None or _is_local_socket(request):
        return presented
    changes = request.method not in request_rules.SAFE_METHODS
    return credential_from_cookie(request.headers, request.ctx.origin, changes=changes)


def sender(request: Request, policy: origins.Policy, public_path: str) -> Sender:
    """Returns who sends the request, for a sign-in. `public_path` counts behind a proxy."""
    transport = request.transport
    if _is_local_socket(request):
        person = f"uid {peers.uid_of_peer(transport)}"
        return Sender(person, None, SessionCookie(""), is_viewer=_is_view(request), is_local=True)
    peer = transport.get_extra_info("peername")
    name = str(peer[0]) if peer else "unknown"
    # A browser on the proxy's machine may come directly, too: then no proxy has said anything.
    scheme = request.headers.get("x-forwarded-proto", "")
    is_proxied = bool(scheme) and policy.for_peer(name).is_proxied
    is_secure = transport.get_extra_info("sslcontext") is not None or (
        is_proxied and scheme.rpartition(",")[2].strip().lower() == "https"
    )
    path = public_path if is_proxied else "/"
    cookie = cookie_for(request.headers.get("host", ""), path, is_secure=is_secure)
    return Sender(name, _presented(request), cookie)


# -- the body --------------------------------------------------------------------------------


async def read_body(request: Request, limit: int, deadline_s: float) -> bytes:
    """Returns the whole body. Raises TooLarge, and SlowRequest after `deadline_s`."""
    stream = _stream(request)
    if not stream.request_body:
        return b""
    received, count = bytearray(), 0
    size = int(request.headers.get("content-length", 0))
    try:
        async with asyncio.timeout(deadline_s - (time.monotonic() - request.ctx.began)):
            while size <= limit and (chunk := await stream.read()):
                received += chunk
                size, count = max(size, len(received)), count + 1
                if not count % _READS:  # reading bytes that have arrived never yields to the loop
                    await asyncio.sleep(0)
                request_rules.check_chunks(count, len(received))
    except TimeoutError:
        raise request_rules.too_slow() from None
    if size > limit:
        raise _too_large(limit)
    return bytes(received)


def _too_large(limit: int) -> errors.TooLarge:
    others = f"{MAX_BODY_BYTES} for what is not a request to a model"
    return request_rules.body_too_large(limit, f"max_body_bytes in magid.yaml; {others}")


async def decode_body(request: Request, data: bytes, limit: int, slices: TimeSlices) -> bytes:
    """Returns the body without its Content-Encoding, at most `limit` bytes.

    Raises UnsupportedMediaType, InvalidInput and TooLarge.
    """
    given = request.headers.get("content-encoding", "") if data else ""
    coding = content_coding.coding_of(given)
    if not coding:
        return data
    return bytes(await slices.run(content_coding.decoded(data, coding, limit, _too_large(limit))))


def end_if_unread(request: Request) -> None:
    """Ends the connection after the answer if the body is unread. Call before the answer is sent.

    Sanic reads the rest of the body after the answer, up to the size limit but without a deadline.
    A client that still waits for "100 Continue" will not send a body.
    """
    stream = cast("Http | None", request.stream)
    if stream is None or not stream.request_body or _is_empty(request):
        return
    stream.keep_alive = False
    if stream.expecting_continue:
        stream.expecting_continue = False
        stream.request_body = None
    else:
        _discard(cast(Any, stream))
        transport = cast(asyncio.Transport, request.transport)
        asyncio.get_running_loop().call_later(request_rules.LINGER_S, transport.abort)


def _discard(stream: Any) -> None:
    """Discards the rest of a chunked body as it arrives, without parsing the chunks."""
    if stream.request_body == "chunked":
        stream.request_body, stream.request_bytes_left = True, sys.maxsize


def _is_empty(request: Request) -> bool:
    return request.headers.get("content-length", "chunked").strip().strip("0") == ""


async def parse_body(
    request: Request, name: str, data: bytes, slices: TimeSlices
) -> tuple[Any, Outline | None]:
    """Returns the body as the model of this name. Without one it only needs the JSON media type.

    A large body is parsed in outline, with marks in the place of long strings.
    """
    if not name and not data:
        return None, None
    content_type = request.headers.get("content-type", "")
    if not request_rules.is_json(content_type):
        raise request_rules.not_json(content_type)
    if not name:
        return None, None
    if not _models:
        _models.update(await asyncio.to_thread(_import_models))
    from pydantic_core import ValidationError  # imported with the models

    model = _models[name]
    data, outline = data.removeprefix(BOM), None
    try:
        if len(data) > WHOLE_BYTES:
            outline = await slices.run(outlined(data))
            return model.model_validate(outline.fields), outline
        _check_values(data)
        return model.model_validate_json(data), None
    except ValidationError as error:
        raise _invalid(error) from None


_models: dict[str, Any] = {}  # of bodies, by name; empty until the first body comes


def _import_models() -> Mapping[str, Any]:
    from magid.api.schemas import bodies  # late: no start waits for pydantic

    return bodies.MODELS


def _check_values(data: bytes) -> None:
    """Refuses a body with too many values: each could be an error of its own."""
    data = _TEXTS.sub(b"", data)
    if data.count(b",") + data.count(b"[") + data.count(b"{") > MAX_VALUES:
        raise errors.InvalidInput(
            f"cannot use the request body: it has over {MAX_VALUES} values, commas and brackets"
        )


# One without an end goes to the end: from none of its escaped quotes is it tried again.
_TEXTS = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)


def _invalid(error: "ValidationError") -> errors.InvalidInput:
    from magid.files.explanation import location_of  # imported with the models

    faults = error.errors(include_url=False, include_context=False)[:10]
    shown = [{"field": _field(location_of(fault)), "reason": fault["msg"]} for fault in faults]
    first = shown[0]
    where = f"{first['field']}: " if first["field"] else ""
    return errors.InvalidInput(
        f"cannot use the request body: {where}{first['reason']}; /openapi.json has what it may be",
        field=first["field"],
        errors=shown,
    )


def _field(path: Iterable[int | str]) -> str:
    """Returns a path as `tierConfig[0].maxScore`."""
    words = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in path]
    return "".join(words).removeprefix(".")[:_SHOWN]


# -- path and query --------------------------------------------------------------------------


def decode(text: str) -> str:
    """Percent-decodes exactly once. Refuses bytes that are not UTF-8: no name has such."""
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise errors.NotFound(
            "cannot find this path: it is not valid UTF-8; /openapi.json lists all paths"
        ) from None


def parse_query(request: Request, known: tuple[Query, ...]) -> dict[str, Any]:
    """Returns the parameters that are given. Raises InvalidInput for one that is not known."""
    args = request.get_args(keep_blank_values=True)
    names = [query.name for query in known]
    for name in args.keys() - set(names) if request.method != "OPTIONS" else ():
        takes = f"takes {', '.join(names)}" if names else "takes none"
        raise errors.InvalidInput(
            f"cannot use the query parameter {name[:_SHOWN]!r}: {request.path[:_SHOWN]} {takes}",
            field=name[:_SHOWN],
        )
    return {q.name: _query_value(q, args.get(q.name) or "") for q in known if q.name in args}


def _query_value(query: Query, text: str) -> Any:
    if query.kind is str:
        return text
    if query.kind is bool:
        if text.lower() in ("true", "1", ""):
            return True
        if text.lower() in ("false", "0"):
            return False
        raise _bad_query(query, text, "true or false")
    low, high = query.low or 0, query.high or 0
    expected = f"a number from {low:g} to {high:g}"
    try:
        value = int(text) if query.kind is int else float(text)
    except ValueError:
        raise _bad_query(query, text, expected) from None
    if not low <= value <= high:
        raise _bad_query(query, text, expected)
    return value


def _bad_query(query: Query, text: str, expected: str) -> errors.InvalidInput:
    return errors.InvalidInput(
        f"cannot read {query.name}={text[:80]!r}: it is not {expected}; give one, or leave it out",
        field=query.name,
    )
