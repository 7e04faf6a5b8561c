"""The input and output of handlers: `Call`, `Reply`, `Stream`; and the replies for errors."""

import hashlib
from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import Any

import msgspec
from msgspec import Struct, field

from magid import errors
from magid.auth.session_cookie import SessionCookie
from magid.auth.tokens import Credential
from magid.gateway.routing.outline import Outline
from magid.http.response_headers import headers_for
from magid.http.status import status_of


class Sender(Struct, frozen=True):
    """Who sent a request: an address, or the user of a unix socket; and what they presented."""

    name: str = ""
    presented: Credential | None = None
    cookie: SessionCookie = SessionCookie("")
    is_viewer: bool = False  # over the socket of the group magi-view
    is_local: bool = False  # over a unix socket


NOBODY = Sender()  # of routes that need not know


class Call(Struct, frozen=True):
    """One checked and parsed request. `params` are decoded; `body` is the route's model."""

    params: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, Any] = field(default_factory=dict)
    body: Any = None
    outline: Outline | None = None  # of a large body
    if_match: str | None = None
    if_none_match: str | None = None
    last_event_id: str | None = None
    accept: str | None = None
    accept_encoding: str | None = None
    host: str | None = None  # the Host header; None on a unix socket
    requested_headers: str | None = None  # by a browser's preflight
    sender: Sender = NOBODY  # known on the routes of sessions
    by: str = ""  # who sends it, for the log; known on the routes of administrators

    @property
    def is_tcp(self) -> bool:
        """Whether the request came over TCP. The unix socket's mode controls access by itself."""
        return self.host is not None


class Reply(Struct, frozen=True):
    """A complete answer. `body` is encoded already; JSON unless `content_type` says otherwise."""

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"


class Stream(Struct, frozen=True):
    """A streamed answer: text/event-stream."""

    events: AsyncGenerator[bytes]

    async def close(self) -> None:
        """Closes the source of the events. Idempotent; no event may be awaited at the same time."""
        await self.events.aclose()


def reply(payload: object, status: int = 200) -> Reply:
    return Reply(msgspec.json.encode(payload), status, headers_for(status))


def digest(body: bytes) -> str:
    return hashlib.blake2b(body, digest_size=12).hexdigest()


def etag_of(body: bytes) -> str:
    """Returns a strong ETag: equal bytes have equal tags."""
    return f'"{digest(body)}"'


def cached(body: bytes, etag: str, call: Call, headers: Mapping[str, str] | None = None) -> Reply:
    """Returns `body` with its ETag, or a 304 if the caller has it already."""
    tagged = {"ETag": etag, "Cache-Control": "no-cache", **(headers or {})}
    if call.if_none_match and _matches(call.if_none_match, etag):
        return Reply(b"", 304, tagged)
    return Reply(body, 200, tagged)


def _matches(header: str, etag: str) -> bool:
    # RFC 9110 13.1.2: If-None-Match compares weakly, so a proxy's W/ prefix does not count.
    tags = [tag.strip().removeprefix("W/") for tag in header.split(",")]
    return "*" in tags or etag in tags


def error_reply(error: errors.MagidError, methods: Iterable[str] = ()) -> Reply:
    """Returns the reply to a request that failed. `methods`: those of the path, for a 405."""
    status = status_of(error)
    body = {"error": error.code, "message": error.message, "details": dict(error.details)}
    return Reply(msgspec.json.encode(body, enc_hook=str), status, headers_for(status, methods))


def unexpected(request_id: str) -> Reply:
    """Returns the reply to an internal error. The trace is only in the log, under this id."""
    body = {
        "error": "InternalError",
        "message": "cannot answer: an unexpected error; the log has its trace under this request "
        f"id: journalctl -u magid --grep {request_id}",
        "details": {"requestId": request_id},
    }
    return Reply(msgspec.json.encode(body), 500)
