"""From the wire to a checked request: who asks, the body within its limits, typed values.

Sanic 25.12 never cuts a slow request body, lifts the size limit for streamed ones and accepts
malformed heads. So every route is registered as a streaming one, and all of that is done here.
"""

import asyncio
import re
import secrets
import sys
import time
from collections.abc import Iterable
from typing import Any, cast
from urllib.parse import unquote

from pydantic import BaseModel, ValidationError
from sanic import Request
from sanic.http import Http

from magid import errors
from magid.api.routes import Access, Query
from magid.auth import authenticator, origins, sandboxed
from magid.auth.token_store import Caller
from magid.auth.tokens import Credential, credential_from_headers
from magid.gateway.frontend.request_reader import (
    MAX_SMALL_CHUNKS,
    SMALL_CHUNK_BYTES,
    too_many_chunks,
)
from magid.gateway.proxy.time_slices import TimeSlices
from magid.gateway.routing.outline import WHOLE_BYTES, Outline, outlined
from magid.http import framing

# An answer given before its body was read must not be lost to a reset: so long we go on reading.
LINGER_S = 2.0

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
MAX_BODY_BYTES = WHOLE_BYTES  # of a route that takes no request to a model
MAX_VALUES = 4096
_READS = 64
_SHOWN = 200  # characters of a caller's own key that an error repeats


def begin(request: Request) -> None:
    """Give the request an id of magid's own, and keep the caller's beside it. Idempotent."""
    if not hasattr(request.ctx, "request_id"):
        given = request.headers.get("x-request-id", "")
        request.ctx.client_request_id = given if _REQUEST_ID.fullmatch(given) else ""
        request.ctx.request_id = secrets.token_hex(16)
        request.ctx.began = time.monotonic()


def check(request: Request, policy: origins.Policy) -> None:
    """Refuse a head that is malformed, addressed to someone else, or sent by a foreign page."""
    if not request.head:
        return  # Sanic's stand-in for a head that it could not parse: an error already
    stream = _stream(request)
    if cast(Any, stream.protocol).is_models:  # `front`, which knows this module, says so
        raise sandboxed.refuse()
    try:
        framing.check_head(request.head)
    except errors.InvalidInput:
        stream.keep_alive = False  # where the next request begins is anyone's guess
        raise
    if "transfer-encoding" in request.headers:
        stream.keep_alive = False  # Sanic does not check what stands between the chunks
    stream.upgrade_websocket = False  # it would end all timeouts of the connection
    authenticator.check_url(request.query_string)
    if _is_local_socket(request):
        return  # no browser reaches it: file permissions decide
    origins.check_host(request.headers.get("host"), policy)
    changes = request.method not in ("GET", "HEAD", "OPTIONS")
    request.ctx.origin = origins.check_origin(request.headers, policy, changes=changes)


def _stream(request: Request) -> Http:
    return cast(Http, request.stream)


def host_of(request: Request) -> str | None:
    """What the caller calls us, which was checked; on a unix socket it means nothing."""
    return None if _is_local_socket(request) else request.headers.get("host")


def _is_local_socket(request: Request) -> bool:
    return not isinstance(request.transport.get_extra_info("sockname"), tuple)


def admit(request: Request, need: Access, door: authenticator.Authenticator) -> Caller:
    """Who asks, if it may. Before the body: who may not ask need not be listened to.

    Raises Unauthenticated, NotAllowed, NotReady.
    """
    if need.scope is None or _is_local_socket(request):
        return authenticator.LOCAL
    peer = request.transport.get_extra_info("peername")
    return door.enter(_presented(request), need.scope, str(peer[0]) if peer else "unknown")


def _presented(request: Request) -> Credential | None:
    held = [request.headers.get(name, "") for name in ("authorization", "x-api-key")]
    authorization, api_key = (text.encode(errors="surrogateescape") for text in held)
    return credential_from_headers(authorization, api_key)


# -- the body --------------------------------------------------------------------------------


async def read_body(request: Request, limit: int, deadline_s: float) -> bytes:
    """The whole body. Raises TooLarge, and SlowRequest if it is not here in time."""
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
                if not count % _READS:  # what has arrived is read without waiting for anything
                    await asyncio.sleep(0)
                if count > MAX_SMALL_CHUNKS + len(received) // SMALL_CHUNK_BYTES:
                    raise too_many_chunks()
    except TimeoutError:
        raise errors.SlowRequest(
            f"cannot wait longer: the request did not arrive within {deadline_s:g} s"
        ) from None
    if size > limit:
        raise errors.TooLarge(
            f"cannot take this body: it is over {limit} bytes (max_body_bytes in magid.yaml; "
            f"{MAX_BODY_BYTES} for what is not a request to a model)"
        )
    return bytes(received)


def end_if_unread(request: Request) -> None:
    """Before an answer goes out: a connection with an unread body in it cannot be used again.

    Sanic reads what is left of the body after the answer, up to the size limit but without a
    deadline. Who still waits for "100 Continue" will not send any.
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
        asyncio.get_running_loop().call_later(LINGER_S, transport.abort)


def _discard(stream: Any) -> None:
    """What is left of a chunked body is thrown away as it comes, and not chunk by chunk."""
    if stream.request_body == "chunked":
        stream.request_body, stream.request_bytes_left = True, sys.maxsize


def _is_empty(request: Request) -> bool:
    return request.headers.get("content-length", "chunked").strip().strip("0") == ""


async def parse_body(
    request: Request, model: type[BaseModel] | None, data: bytes, slices: TimeSlices
) -> tuple[Any, Outline | None]:
    """The body as the route's model; of a route without one it only has to be JSON by type.

    A large one is read in outline, with marks in the place of long strings.
    """
    if model is None and not data:
        return None, None
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise errors.UnsupportedMediaType(
            f"cannot read a body of type {kind or 'unknown'!r}; send Content-Type: application/json"
        )
    if model is None:
        return None, None
    outline = None
    try:
        if len(data) > WHOLE_BYTES:
            outline = await slices.run(outlined(data))
            return model.model_validate(outline.fields), outline
        _check_values(data)
        return model.model_validate_json(data), None
    except ValidationError as error:
        raise _invalid(error) from None


def _check_values(data: bytes) -> None:
    """Each may be wrong, and be an error of its own."""
    if data.count(b",") + data.count(b"[") + data.count(b"{") > MAX_VALUES:
        raise errors.InvalidInput(
            f"cannot use the request body: it has over {MAX_VALUES} values, commas and brackets"
        )


def _invalid(error: ValidationError) -> errors.InvalidInput:
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    shown = [{"field": _field(fault["loc"]), "reason": fault["msg"]} for fault in faults[:10]]
    first = shown[0]
    where = f"{first['field']}: " if first["field"] else ""
    return errors.InvalidInput(
        f"cannot use the request body: {where}{first['reason']}; /openapi.json has what it may be",
        field=first["field"],
        errors=shown,
    )


def _field(path: Iterable[int | str]) -> str:
    """`tierConfig[0].maxScore`."""
    words = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in path]
    return "".join(words).removeprefix(".")[:_SHOWN]


# -- path and query --------------------------------------------------------------------------


def decode(text: str) -> str:
    """Percent-decoding, exactly once. What is not UTF-8 cannot be the name of anything."""
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise errors.NotFound(
            "cannot find this path: it is not valid UTF-8; /openapi.json lists all paths"
        ) from None


def parse_query(request: Request, known: tuple[Query, ...]) -> dict[str, Any]:
    """The known parameters that are given; others do not matter."""
    args = request.get_args(keep_blank_values=True)
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
