"""Errors of the gateway as each client's SDK expects them, before an answer and within one.

OpenAI: {"error": {"message", "type", "param", "code"}}, and the same as one event of a stream.
Anthropic: {"type": "error", "error": {"type", "message"}}, as an event named `error`. Pure.
"""

import re
from typing import Any

from pydantic_core import to_json

from magid import errors
from magid.gateway.routing.endpoints import Style
from magid.http.limits import parsed

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
