"""The heads of the gateway's answers to its clients. Pure."""

from magid.api.reply import CHALLENGE, RETRY_AFTER_S
from magid.gateway.frontend.request_reader import Head
from magid.gateway.routing.endpoints import methods_of

_PHRASES = {200: b"OK", 204: b"No Content", 400: b"Bad Request", 404: b"Not Found"}
# What a server says is data: whoever opens it in a browser gets no script, no frame, no origin.
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
    status: int, fields: bytes, asked: Head | None, request_id: str, *, closes: bool
) -> bytes:
    """The head, to its empty line. `fields` are whole lines; `asked` is the request's head."""
    origin = b""
    if asked is not None and asked.origin:
        origin = f"Access-Control-Allow-Origin: {asked.origin}\r\n{_EXPOSED}".encode()
    return b"HTTP/1.1 %d %b\r\n%b%b%bX-Request-Id: %b\r\nConnection: %b\r\n\r\n" % (
        status, _PHRASES.get(status, b"-"), fields, _PLAIN, origin,
        request_id.encode(), b"close" if closes else b"keep-alive",
    )  # fmt: skip


def error_fields(status: int, asked: Head | None) -> bytes:
    """The lines that an error of this status needs."""
    lines = b"Content-Type: application/json\r\n"
    if status in (429, 503):
        lines += b"Retry-After: %d\r\n" % RETRY_AFTER_S
    if status == 401:
        lines += f"WWW-Authenticate: {CHALLENGE}\r\n".encode()
    if status == 405 and asked is not None:
        lines += f"Allow: {', '.join(sorted(methods_of(asked.path)))}\r\n".encode()
    return lines
