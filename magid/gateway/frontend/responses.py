"""The heads of the gateway's answers, and errors in the shape each client's SDK expects. Pure.

OpenAI: {"error": {"message", "type", "param", "code"}}, and the same as one event of a stream.
Anthropic: {"type": "error", "error": {"type", "message"}}, as an event named `error`.
"""

import re
from typing import Any

from pydantic_core import to_json

from magid import errors
from magid.gateway.frontend.request_reader import RequestHead
from magid.gateway.routing.endpoints import Style, methods_of
from magid.http.limits import parsed
from magid.http.status import CHALLENGE, RETRY_AFTER_S

_PHRASES = {200: b"OK", 204: b"No Content", 400: b"Bad Request", 404: b"Not Found"}
# A server's answer is data: opened in a browser it gets no script, no frame, no origin.
_PLAIN = (
    b"X-Content-Type-Options: nosniff\r\n"
    b"Content-Security-Policy: default-src 'none'; frame-ancestors 'none'; sandbox\r\n"
    b"Cache-Control: no-store\r\nX-Accel-Buffering: no\r\n"
)
_EXPOSED = (
    "Access-Control-Expose-Headers: X-Request-Id, Retry-After, X-Magi-Model, X-Magi-Server, "
    "X-Magi-Route, X-Magi-Draft-Model\r\nVary: Origin\r\n"
)
# Of an answer to a browser that asks what it may send.
PREFLIGHT = (
    b"Access-Control-Allow-Methods: GET, POST\r\n"
    b"Access-Control-Allow-Headers: Content-Type, Authorization, X-Api-Key, X-Request-Id, "
    b"Anthropic-Version, Anthropic-Beta, OpenAI-Beta, X-Conversation-Id\r\n"
    b"Access-Control-Max-Age: 600\r\n"
)


def head_bytes(
    status: int, fields: bytes, asked: RequestHead | None, request_id: str, *, closes: bool
) -> bytes:
    """The head, to its empty line. `fields` are whole lines; `asked` is the request's head."""
    origin = b""
    if asked is not None and asked.origin:
        origin = f"Access-Control-Allow-Origin: {asked.origin}\r\n{_EXPOSED}".encode()
    return b"HTTP/1.1 %d %b\r\n%b%b%bX-Request-Id: %b\r\nConnection: %b\r\n\r\n" % (
        status, _PHRASES.get(status, b"-"), fields, _PLAIN, origin,
        request_id.encode(), b"close" if closes else b"keep-alive",
    )  # fmt: skip


def error_fields(status: int, asked: RequestHead | None) -> bytes:
    """The lines that an error of this status needs."""
    lines = b"Content-Type: application/json\r\n"
    if status in (429, 503):
        lines += b"Retry-After: %d\r\n" % RETRY_AFTER_S
    if status == 401:
        lines += f"WWW-Authenticate: {CHALLENGE}\r\n".encode()
    if status == 405 and asked is not None:
        lines += f"Allow: {', '.join(sorted(methods_of(asked.path)))}\r\n".encode()
    return lines


_CODES: dict[type[errors.MagidError], str] = {
    errors.ModelNotFound: "model_not_found",
    errors.Unauthenticated: "invalid_api_key",
    errors.QueueFull: "rate_limit_exceeded",
    errors.NotReady: "model_not_ready",
    errors.ServerFailed: "server_failed",
    errors.ServerLost: "server_lost",
}
# OpenAI's and Anthropic's words for classes of statuses.
_OPENAI = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error",
           404: "not_found_error", 429: "rate_limit_error"}  # fmt: skip
_ANTHROPIC = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error",
              404: "not_found_error", 413: "request_too_large", 429: "rate_limit_error",
              503: "overloaded_error"}  # fmt: skip


def error_body(style: Style, status: int, error: errors.MagidError) -> bytes:
    return to_json(_shape(style, status, error.message, _code(error), error.details.get("field")))


def error_event(style: Style, status: int, error: errors.MagidError) -> bytes:
    """For a stream of server-sent events that cannot go on."""
    body = error_body(style, status, error)
    name = b"event: error\n" if style is Style.ANTHROPIC else b""
    return b"%bdata: %b\n\n" % (name, body)


def reshaped(status: int, body: bytes) -> bytes:
    """An error of llama-server, which is of OpenAI's shape, in Anthropic's; others stay."""
    try:
        match parsed(body):
            case {"error": {"message": str(message)}}:
                return to_json(_shape(Style.ANTHROPIC, status, message, "", None))
            case _:
                return body
    except ValueError:
        return body


def without_path(status: int, body: bytes) -> bytes:
    """An answer of /props that names the model's file, and not where it lies."""
    del status  # as of `reshaped`: whichever it is
    try:
        match parsed(body):
            case {"model_path": str(path), **rest}:
                return to_json({**rest, "model_path": path.rpartition("/")[2]})
            case _:
                return body
    except ValueError:
        return _NO_ANSWER


_NO_ANSWER = b"{}"  # what cannot be read could name anything


def _shape(style: Style, status: int, message: str, code: str, param: object) -> dict[str, Any]:
    if style is Style.ANTHROPIC:
        kind = _ANTHROPIC.get(status, _fallback(status, "api_error"))
        return {"type": "error", "error": {"type": kind, "message": message}}
    kind = _OPENAI.get(status, _fallback(status, "server_error"))
    return {"error": {"message": message, "type": kind, "param": param, "code": code or None}}


def _fallback(status: int, otherwise: str) -> str:
    return "invalid_request_error" if status < 500 else otherwise


def _code(error: errors.MagidError) -> str:
    for kind in type(error).__mro__:
        if kind in _CODES:
            return _CODES[kind]
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__).lower()
