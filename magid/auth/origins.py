"""Who may be answered at all: Host, Origin and the form of a request's head. Pure.

Sanic accepts a missing Host, two Hosts, `Host : x` and folded headers, and answers every caller.
A daemon on a loopback address is reachable from every web page in a browser on that machine, by
DNS rebinding (the page's own name then resolves to 127.0.0.1) or by a plain cross-site request;
so each request must be addressed to a name of ours and come from a page of ours, or from none.
"""

import ipaddress
import re
import socket
from collections.abc import Iterable, Mapping

from msgspec import Struct

from magid.config.addresses import Address, TcpAddress, is_ip
from magid.errors import HostNotAllowed, InvalidInput, NotAllowed

_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")


class Policy(Struct, frozen=True):
    """The names this daemon answers to, and the other origins that may read it."""

    hosts: frozenset[str]
    origins: frozenset[str] = frozenset()


_ANY = frozenset({"0.0.0.0", "::"})


def make_policy(
    binds: Iterable[Address], allowed_hosts: Iterable[str], allowed_origins: Iterable[str]
) -> Policy:
    """Own names: localhost, the machine's names, every address bound to, and those configured.

    Where every address is bound to, any IP address will do: DNS rebinding needs a name.
    """
    names = {"localhost", socket.gethostname().lower(), *(h.lower() for h in allowed_hosts)}
    names |= {bind.host.lower() for bind in binds if isinstance(bind, TcpAddress)}
    return Policy(frozenset(names), frozenset(o.rstrip("/").lower() for o in allowed_origins))


def check(headers: Mapping[str, str], policy: Policy, *, changes: bool) -> str | None:
    """Raises as `check_host` and `check_origin` do; returns what the latter returns."""
    check_host(headers.get("host"), policy)
    return check_origin(headers, policy, changes=changes)


def check_host(host: str | None, policy: Policy) -> None:
    """Raises InvalidInput without a well-formed Host, HostNotAllowed for a foreign one."""
    match = _HOST.fullmatch(host or "")
    if match is None:
        raise InvalidInput("cannot answer: the request needs one valid Host header")
    name = match[1].strip("[]").lower().rstrip(".")
    if _ANY & policy.hosts and is_ip(name):
        return
    if name in policy.hosts or name.endswith(".localhost") or _is_loopback(name):
        return
    raise HostNotAllowed(
        f"cannot answer for host {name!r}: it is not a name of this daemon; use localhost, or add "
        "the name to allowed_hosts in magid.yaml",
        host=name,
    )


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def check_origin(headers: Mapping[str, str], policy: Policy, *, changes: bool) -> str | None:
    """The foreign origin that may read the answer, if the request comes from one; else None.

    Raises NotAllowed for a page that is neither ours nor configured. A request without Origin
    comes from no page, unless Sec-Fetch-Site says so: then it may read but not change.
    """
    origin = headers.get("origin")
    if origin is None:
        if changes and headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            raise _foreign("another site")
        return None
    origin = origin.lower()
    scheme, _, place = origin.partition("://")
    if scheme in ("http", "https") and place and place == headers.get("host", "").lower():
        return None
    if origin in policy.origins:
        return origin
    raise _foreign(repr(origin))


# What a page of another origin may read of an answer's head.
_EXPOSED = (
    "ETag, X-Request-Id, Retry-After, X-Magi-Model, X-Magi-Server, X-Magi-Route, X-Magi-Draft-Model"
)
_NAMES = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z, -]+")
_PREFLIGHT_AGE_S = 600


def reading_headers(origin: str) -> dict[str, str]:
    """Returns the headers that let a page of `origin`, which `check_origin` has let in, read."""
    return {"Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": _EXPOSED}


def preflight_headers(methods: Iterable[str], requested: str | None) -> dict[str, str]:
    """Returns the answer to a browser that asks whether its page may send a request.

    `check_origin` has let the page in, so each header in `requested` is allowed: the SDKs of model
    vendors send a dozen of their own. No list would last, and a wildcard leaves Authorization out.
    """
    headers = {
        "Access-Control-Allow-Methods": ", ".join(sorted(methods)),
        "Access-Control-Max-Age": str(_PREFLIGHT_AGE_S),
    }
    if requested and _NAMES.fullmatch(requested):
        headers["Access-Control-Allow-Headers"] = requested
    return headers


def _foreign(site: str) -> NotAllowed:
    return NotAllowed(
        f"cannot answer a page of {site}: only pages of this daemon may call it; add the origin to "
        "allowed_origins in magid.yaml if it is yours"
    )
