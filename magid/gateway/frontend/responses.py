"""The heads of the gateway's answers, and errors in the shape each client's SDK expects. Pure.

OpenAI: {"error": {"message", "type", "param", "code"}}, and the same as one event of a stream.
Anthropic: {"type": "error", "error": {"type", "message"}}, as an event named `error`.
Ollama: {"error": message}, and the same as one line of a stream.
"""

import re
from collections.abc import Mapping
from typing import Any

from magid import errors
from magid.auth import origins
from magid.gateway.frontend.request_reader import RequestHead
from magid.gateway.routing.endpoints import Style, methods_of, style_of
from magid.http.json_text import to_json
from magid.http.limits import parsed
from magid.http.response_headers import PHRASES, PLAIN_DATA, headers_for


def header_lines(headers: Mapping[str, str]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode("latin-1")


# A server's answer may have been made by an attacker: a browser gives it no origin either.
_SANDBOXED = {"Content-Security-Policy": f"{PLAIN_DATA['Content-Security-Policy']}; sandbox"}
_PLAIN = header_lines({**PLAIN_DATA, **_SANDBOXED, "X-Accel-Buffering": "no"})


def head_bytes(
    status: int, fields: bytes, head: RequestHead | None, request_id: str, *, closes: bool
) -> bytes:
    """The head, to its empty line. `fields` are whole lines; `head` is the request's head."""
    origin = b""
    if head is not None and head.origin:
        origin = header_lines({**origins.reading_headers(head.origin), "Vary": "Origin"})
    name = request_id.encode()
    if head is not None and style_of(head.path) is Style.ANTHROPIC:
        fields += b"Request-Id: %b\r\n" % name  # where Anthropic's SDK looks
    return b"HTTP/1.1 %d %b\r\n%b%b%bX-Request-Id: %b\r\nConnection: %b\r\n\r\n" % (
        status, PHRASES.get(status, b""), fields, _PLAIN, origin,
        name, b"close" if closes else b"keep-alive",
    )  # fmt: skip


def error_fields(status: int, error: errors.MagidError, head: RequestHead | None) -> bytes:
    """The lines that an error of this status needs."""
    methods = methods_of(head.path) if head is not None else ()
    needed = headers_for(status, methods)
    if isinstance(error, errors.RateLimited):
        needed["Retry-After"] = str(error.details["retryAfterSeconds"])
    return header_lines({"Content-Type": "application/json", **needed})


def preflight_fields(head: RequestHead) -> bytes:
    """The lines that tell a browser what its page may send; empty for a page of magid's own."""
    if head.origin is None:
        return b""
    return header_lines(origins.preflight_headers(methods_of(head.path), head.requested_headers))


_CODES: dict[type[errors.MagidError], str] = {
    errors.ModelNotFound: "model_not_found",
    errors.Unauthenticated: "invalid_api_key",
    errors.QueueFull: "rate_limit_exceeded",
    errors.RateLimited: "rate_limit_exceeded",
    errors.NotReady: "model_not_ready",
    errors.ServerFailed: "server_failed",
    errors.ModelNotRunning: "model_not_running",
    errors.ServerLost: "server_lost",
    errors.ServerStopped: "server_stopped",
}
# OpenAI's and Anthropic's words for classes of statuses.
_OPENAI = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error",
           404: "not_found_error", 429: "rate_limit_error"}  # fmt: skip
_ANTHROPIC = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error",
              404: "not_found_error", 413: "request_too_large", 429: "rate_limit_error",
              503: "overloaded_error"}  # fmt: skip


def error_body(style: Style, status: int, error: errors.MagidError) -> bytes:
    details = error.details
    if isinstance(error, errors.ContextExceeded) and "promptTokens" in details:
        prompt, room = details["promptTokens"], details["contextTokens"]
        return to_json(_overflow(style, prompt, room, details["hint"]))
    if style is Style.OLLAMA:
        return to_json({"error": error.message})
    return to_json(_shape(style, status, error.message, _code(error), error.details.get("field")))


def error_event(style: Style, status: int, error: errors.MagidError) -> bytes:
    """Returns the last event, or line, of a stream that fails."""
    body = error_body(style, status, error)
    if style is Style.OLLAMA:
        return body + b"\n"
    name = b"event: error\n" if style is Style.ANTHROPIC else b""
    return b"%bdata: %b\n\n" % (name, body)


def reshaped(style: Style, status: int, body: bytes) -> bytes:
    """An error of llama-server, which is nearly of OpenAI's shape, in that of the client's SDK.

    Others stay.
    """
    try:
        match parsed(body):
            case {"error": {"type": "exceed_context_size_error", **figures}} if isinstance(
                prompt := figures.get("n_prompt_tokens"), int
            ) and isinstance(room := figures.get("n_ctx"), int):
                return to_json(_overflow(style, prompt, room, ""))
            case {"error": {"message": str(message)}} if style is Style.OLLAMA:
                return to_json({"error": message})
            case {"error": {"message": str(message)}} if style is Style.ANTHROPIC:
                return to_json(_shape(style, status, message, "", None))
            case _:
                return body
    except ValueError:
        return body


def without_path(body: bytes) -> bytes:
    """Returns an answer of /props with the name of the model's file instead of its path."""
    try:
        match parsed(body):
            case {"model_path": str(path), **rest}:
                return to_json({**rest, "model_path": path.rpartition("/")[2]})
            case _:
                return body
    except ValueError:
        return _NO_ANSWER


_NO_ANSWER = b"{}"  # unreadable content could contain any path


def _overflow(style: Style, prompt: int, room: int, hint: str) -> dict[str, Any]:
    """A prompt of `prompt` tokens that does not fit into `room`, in the words clients look for.

    They shorten the conversation by them: OpenAI's code and its "maximum context length is",
    llama-server's type, figures and "exceeds the available context size", Anthropic's sentence.
    Ollama itself cuts a prompt off and has no words for it: llama-server's serve there.
    """
    if style is Style.ANTHROPIC:
        message = f"prompt is too long: {prompt} tokens > {room} maximum{hint}"
        return _shape(style, 400, message, "", None)
    message = (
        f"cannot answer: the request ({prompt} tokens) exceeds the available context size ({room} "
        f"tokens): this model's maximum context length is {room} tokens; shorten it{hint}"
    )
    if style is Style.OLLAMA:
        return {"error": message}
    shape = _shape(style, 400, message, "context_length_exceeded", None)
    error = {"type": "exceed_context_size_error", "n_prompt_tokens": prompt, "n_ctx": room}
    return {"error": {**shape["error"], **error}}


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
