"""Rules for clients' requests, shared by the API and the gateway."""

import re
import secrets
from collections.abc import Mapping
from itertools import count

from magid.errors import (
    InvalidInput,
    MethodNotAllowed,
    NotFound,
    SlowRequest,
    TooLarge,
    UnsupportedMediaType,
)

MAX_HEAD_BYTES = 16_384
# Reading goes on for this long after an early response, which a connection reset would destroy.
LINGER_S = 2.0
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})  # RFC 9110 9.2.1: they change nothing

_CLIENT_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_serial = count(1)
_PROCESS = secrets.token_hex(8)  # keeps ids unique across restarts of the daemon


def next_request_id() -> str:
    """Returns a unique id for a request."""
    return f"{_PROCESS}{next(_serial):x}"


def client_request_id(given: str) -> str:
    """Returns the request id that the client sent, or "" if it is not safe to log. Pure."""
    return given if _CLIENT_ID.fullmatch(given) else ""


def is_json(content_type: str) -> bool:
    """Whether this is the type of JSON, which a form on another site cannot send."""
    return _media_type(content_type) == "application/json"


def counts_as_json(headers: Mapping[str, str]) -> bool:
    """Whether the body is JSON by its type, or by none or curl's if no browser has sent it.

    `curl -d` calls any body a form. A page can send a body without a type to any site, but not
    without one of these two headers; what an older browser sends for a form is no JSON.
    """
    content_type = headers.get("content-type")
    if content_type is None or _media_type(content_type) == _FORM:
        return headers.keys().isdisjoint(("origin", "sec-fetch-site"))
    return is_json(content_type)


_FORM = "application/x-www-form-urlencoded"


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


# Some JSON encoders send each word as a chunk of its own.
MAX_SMALL_CHUNKS = 16_384
SMALL_CHUNK_BYTES = 64


def check_chunks(chunks: int, size: int) -> None:
    """Raises InvalidInput if a body of `size` bytes has far more chunks than it needs."""
    if chunks > MAX_SMALL_CHUNKS + size // SMALL_CHUNK_BYTES:
        raise InvalidInput(
            f"cannot read the request: it has over {MAX_SMALL_CHUNKS} chunks of a few bytes each; "
            "collect what you send, or send its Content-Length"
        )


# -- errors ----------------------------------------------------------------------------------


def too_slow() -> SlowRequest:
    return SlowRequest("cannot wait longer: the request did not arrive in time")


def head_too_large() -> TooLarge:
    return TooLarge(
        f"cannot read this request: its head is over {MAX_HEAD_BYTES} bytes; send fewer or "
        "shorter headers"
    )


def body_too_large(limit: int, setting: str) -> TooLarge:
    """`setting` names the key of magid.yaml that sets the limit, or says that it is fixed."""
    return TooLarge(f"cannot read this body: it is over {limit} bytes ({setting})")


def not_json(content_type: str) -> UnsupportedMediaType:
    return UnsupportedMediaType(
        f"cannot read a body of type {_media_type(content_type)[:80] or 'unknown'!r}; send "
        "Content-Type: application/json"
    )


def unknown_path(path: str, meant: str = "") -> NotFound:
    hint = f"did you mean {meant}? " if meant else ""
    return NotFound(f"cannot find {path}: no such path; {hint}/openapi.json lists all paths")


def wrong_method(method: str, path: str) -> MethodNotAllowed:
    return MethodNotAllowed(
        f"cannot {method} {path}: the path does not have this method; /openapi.json lists methods"
    )
