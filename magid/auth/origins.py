"""Checks Host and Origin of a request. Pure.

Sanic accepts a missing Host, two Hosts, `Host : x` and folded headers, and answers every caller.
Every web page in a browser on this machine can reach a daemon on a loopback address, by DNS
rebinding (the page's own name resolves to 127.0.0.1) or by a cross-site request. So the Host of
each request must be one of our names, and its Origin must be one of our pages, or absent.

A reverse proxy may send another Host than the browser's. Then Sec-Fetch-Site decides, which no
page can set, and the X-Forwarded-Host of a configured proxy.
"""

import ipaddress
import re
import socket
from collections.abc import Iterable, Mapping

from msgspec import Struct
from msgspec.structs import replace

from magid.config.addresses import Address, TcpAddress, is_ip
from magid.errors import HostNotAllowed, InvalidInput, NotAllowed

_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")


class Policy(Struct, frozen=True):
    """The daemon's names, and the other origins that may read its answers."""

    hosts: frozenset[str]
    origins: frozenset[str] = frozenset()
    proxies: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()
    is_proxied: bool = False  # for connections from one of these

    def for_peer(self, address: str) -> "Policy":
        """Returns the policy for connections from this address."""
        if self.proxies and _is_in(address, self.proxies):
            return replace(self, is_proxied=True)
        return self


def _is_in(address: str, networks: Iterable[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> bool:
    """Whether the address is in a network. It may be an IPv4-mapped IPv6 address."""
    try:
        peer = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    plain = getattr(peer, "ipv4_mapped", None) or peer
    return any(plain in network for network in networks)


_ANY = frozenset({"0.0.0.0", "::"})


def make_policy(
    binds: Iterable[Address],
    allowed_hosts: Iterable[str],
    allowed_origins: Iterable[str],
    proxies: Iterable[str] = (),
) -> Policy:
    """Our names are localhost, the machine's names, the bound addresses and those configured.

    If magid is bound to every address, any IP address is allowed: DNS rebinding needs a name.
    """
    names = {"localhost", socket.gethostname().lower(), *(h.lower() for h in allowed_hosts)}
    names |= {bind.host.lower() for bind in binds if isinstance(bind, TcpAddress)}
    return Policy(
        frozenset(names),
        frozenset(o.rstrip("/").lower() for o in allowed_origins),
        tuple(map(ipaddress.ip_network, proxies)),
    )


def check(headers: Mapping[str, str], policy: Policy, *, changes: bool) -> str | None:
    """Raises as `check_host` and `check_origin` do; returns what the latter returns.

    The host that a proxy forwards must be one of our names too: a page that reaches the proxy by
    DNS rebinding sends its own.
    """
    check_host(headers.get("host"), policy)
    forwarded = _forwarded_host(headers, policy)
    if forwarded is not None:
        check_host(forwarded, policy)
    return check_origin(headers, policy, changes=changes)


def _forwarded_host(headers: Mapping[str, str], policy: Policy) -> str | None:
    """Returns the host in the browser's URL: the last one, which the nearest proxy has added."""
    given = headers.get("x-forwarded-host") if policy.is_proxied else None
    return None if given is None else given.rpartition(",")[2].strip()


def check_host(host: str | None, policy: Policy) -> None:
    """Raises InvalidInput without a well-formed Host, HostNotAllowed for a foreign one."""
    match = _HOST.fullmatch(host or "")
    if match is None:
        raise InvalidInput("cannot answer: the request needs exactly one valid Host header")
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
    """Returns the request's origin if it is a foreign one that may read the answer, else None.

    Raises NotAllowed for the page of an origin that is neither ours nor configured. A request
    without Origin does not come from a page, unless Sec-Fetch-Site says so: then it may only read.
    A link is no exception: a window that a page has opened follows as many as the page tells it to.
    """
    origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
    if origin is None:
        if changes and site not in ("none", "same-origin"):
            raise _unnamed()
        return None
    scheme, _, place = origin.lower().partition("://")
    host = _forwarded_host(headers, policy) or headers.get("host", "")
    if scheme in ("http", "https") and place and place == host.lower():
        return None
    if origin.lower() in policy.origins:
        return origin  # as the browser wrote it: it compares to the letter
    if site == "same-origin":
        return None
    raise _foreign(repr(origin.lower()))


# The response headers that a page of another origin may read.
_EXPOSED = ", ".join(
    (
        *("ETag", "X-Request-Id", "Request-Id", "Retry-After"),
        *("X-Magi-Model", "X-Magi-Server", "X-Magi-Route", "X-Magi-Draft-Model"),
        "X-Magi-Captured",
        *(
            f"X-RateLimit-{figure}-{what}"
            for what in ("Requests", "Tokens")
            for figure in ("Limit", "Remaining", "Reset")
        ),
    )
)
_NAMES = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z, -]+")
_PREFLIGHT_AGE_S = 600


def reading_headers(origin: str) -> dict[str, str]:
    """Returns the CORS headers that let a page of `origin`, as `check_origin` returned it, read."""
    return {"Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": _EXPOSED}


def preflight_headers(methods: Iterable[str], requested: str | None) -> dict[str, str]:
    """Returns the headers of the answer to a CORS preflight request.

    `check_origin` has accepted the page, so all headers in `requested` are allowed: the SDKs of
    model vendors send a dozen of their own. A list would be out of date soon, and a wildcard does
    not cover Authorization.
    """
    headers = {
        "Access-Control-Allow-Methods": ", ".join(sorted(methods)),
        "Access-Control-Max-Age": str(_PREFLIGHT_AGE_S),
    }
    if requested and _NAMES.fullmatch(requested):
        headers["Access-Control-Allow-Headers"] = requested
    return headers


def _unnamed() -> NotAllowed:
    """Returns the error for a link, an image or a form of a page whose origin is not told."""
    return NotAllowed(
        "cannot answer a page of another site, or a link there: the browser does not say whose "
        "it is, so that allowed_origins cannot let it through; paste the address into the "
        "browser's address bar, or have the page call it by fetch() from an allowed origin"
    )


def _foreign(origin: str) -> NotAllowed:
    return NotAllowed(
        f"cannot answer a page of {origin}: only pages of this daemon may call it; if it is yours, "
        "add the origin to allowed_origins in magid.yaml, or the proxy in front of magid to "
        "trusted_proxies"
    )
