"""The cookie of a session: its name, and which requests may act with it. Pure.

Browsers send cookies by host and not by port, so a page of another server on this host can send
requests with it. So it counts only for requests of magid's own page, told by Origin and
Sec-Fetch-Site, and a change needs a header too, which no form and no foreign page can send.
"""

import hashlib
import re
import secrets
from collections.abc import Mapping

from msgspec import Struct

from magid.auth.tokens import Credential

HEADER = "x-magi-page"  # with the value 1, in each request of the page that changes something
_NAME = "magi-session"
_PORT = re.compile(r":([0-9]{1,5})$")
_VALUE = re.compile(r"[A-Za-z0-9_-]{43}")
_PREFIXES = ("__Host-", "__Secure-")


class SessionCookie(Struct, frozen=True):
    """How a browser is to keep the cookie.

    The name has the port of the request, so that two daemons on one host do not replace each
    other's. The prefixes, which need https, keep other hosts and plain http from setting it
    (draft-ietf-httpbis-rfc6265bis 4.1.3).
    """

    name: str
    path: str = "/"
    is_secure: bool = False

    def header(self, value: str, max_age_s: int) -> str:
        """Returns Set-Cookie; with an age of 0 the browser drops the cookie."""
        secure = "; Secure" if self.is_secure else ""
        return (
            f"{self.name}={value}; Path={self.path}; Max-Age={max_age_s}; HttpOnly; "
            f"SameSite=Strict{secure}"
        )


def cookie_for(host: str, path: str, *, is_secure: bool) -> SessionCookie:
    """Returns the cookie for a request to this Host, below this path of the browser's address."""
    prefix = (_PREFIXES[0] if path == "/" else _PREFIXES[1]) if is_secure else ""
    return SessionCookie(f"{prefix}{_plain_name(host)}", path, is_secure)


def _plain_name(host: str) -> str:
    match = _PORT.search(host)
    return f"{_NAME}-{match[1]}" if match else _NAME


def new_value() -> str:
    """Returns 256 random bits."""
    return secrets.token_urlsafe(32)


def digest(name: str, value: str) -> bytes:
    """Returns what is kept of a cookie. Under another name it is another one."""
    return hashlib.sha256(f"{name}={value}".encode()).digest()


def credential_from_cookie(
    headers: Mapping[str, str], foreign: str | None, *, changes: bool
) -> Credential | None:
    """Returns the credential in the Cookie header, if it counts.

    `headers` by names in lower case. `foreign` is the origin of a page that is not magid's own, as
    `origins.check` returned it. A change that lacks what proves the page gets a credential that
    says so in `lacks`.
    """
    found = _find(headers.get("cookie", ""), headers.get("host", ""))
    site = headers.get("sec-fetch-site", "none")
    if found is None or foreign is not None or site not in ("none", "same-origin"):
        return None
    is_of_page = headers.get(HEADER) == "1" and ("origin" in headers or site == "same-origin")
    lacks = "" if is_of_page or not changes else _UNPROVEN
    return Credential("", digest(*found), is_session=True, lacks=lacks)


_UNPROVEN = (
    "cannot change anything with a session: the request lacks X-Magi-Page: 1 or its Origin, which "
    "the page sends; a program sends a token instead, as Authorization: Bearer TOKEN"
)


def _find(cookies: str, host: str) -> tuple[str, str] | None:
    """Returns name and value of the one cookie that is a session's.

    One with a prefix wins. Two of one name are none: another server on this host has set one of
    them, and the user would act in its session.
    """
    plain = _plain_name(host)
    for name in (*(f"{prefix}{plain}" for prefix in _PREFIXES), plain):
        values = [v for n, v in map(_halves, cookies.split(";")) if n == name]
        if values:
            is_one = len(values) == 1 and _VALUE.fullmatch(values[0])
            return (name, values[0]) if is_one else None
    return None


def _halves(pair: str) -> tuple[str, str]:
    name, _, value = pair.strip().partition("=")
    return name, value
