"""Response headers that the API and the gateway have in common. Pure."""

from collections.abc import Iterable
from http import HTTPStatus

PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}

RETRY_AFTER_S = 2
CHALLENGE = 'Bearer realm="magid"'  # RFC 9110 11.6.1: a 401 says how to authenticate

# Answers are data: a browser that opens one must not run scripts in it, frame it or cache it.
PLAIN_DATA = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}


def headers_for(status: int, methods: Iterable[str] = ()) -> dict[str, str]:
    """Returns the headers that this status needs. `methods` are those of the path, for a 405."""
    headers = {}
    if status in (429, 503):
        headers["Retry-After"] = str(RETRY_AFTER_S)
    if status == 401:
        headers["WWW-Authenticate"] = CHALLENGE
    if status == 405:
        headers["Allow"] = ", ".join(sorted(methods))
    return headers
