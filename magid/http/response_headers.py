"""What a client reads in the head of any answer, whichever side of magid writes it. Pure."""

from collections.abc import Iterable
from http import HTTPStatus

PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}

RETRY_AFTER_S = 2
CHALLENGE = 'Bearer realm="magid"'  # RFC 9110 11.6.1: a 401 says how to do better

# An answer is data: opened in a browser it gets no script and no frame, and is not kept.
PLAIN_DATA = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}


def headers_for(status: int, methods: Iterable[str] = ()) -> dict[str, str]:
    """Returns the headers that this status needs. `methods`: what the path has, for a 405."""
    headers = {}
    if status in (429, 503):
        headers["Retry-After"] = str(RETRY_AFTER_S)
    if status == 401:
        headers["WWW-Authenticate"] = CHALLENGE
    if status == 405:
        headers["Allow"] = ", ".join(sorted(methods))
    return headers
