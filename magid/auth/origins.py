"""Who may be answered at all: Host, Origin and the form of a request's head. Pure.

Sanic accepts a missing Host, two Hosts, `Host : x` and folded headers, and answers every caller.
A daemon on a loopback address is reachable from every web page in a browser on that machine, by
DNS rebinding (the page's own name then resolves to 127.0.0.1) or by a plain cross-site request;
so each request must be addressed to a name of ours and come from a page of ours, or from none.

A proxy in front may give magid another Host than the browser's. Then the browser's own word counts
(Sec-Fetch-Site, which no page can set), and X-Forwarded-Host of a proxy that is configured.
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
    """The names this daemon answers to, and the other origins that may read it."""

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
    """Whether the address is in a network. An IPv4 address may be written as an IPv6 one."""
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
    """Own names: localhost, the machine's names, every address bound to, and those configured.

    Where every address is bound to, any IP address will do: DNS rebinding needs a name.
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

    The host that a proxy forwards must be a name of this daemon too: to a page with a rebound name
    in front of that proxy, it would be the page's own.
    """
    check_host(headers.get("host"), policy)
    forwarded = _forwarded_host(headers, policy)
    if forwarded is not None:
        check_host(forwarded, policy)
    return check_origin(headers, policy, changes=changes)


def _forwarded_host(headers: Mapping[str, str], policy: Policy) -> str | None:
    """The host as the browser knows it; of several the one that the nearest proxy has added."""
    given = headers.get("x-forwarded-host") if policy.is_proxied else None
    return None if given is None else given.rpartition(",")[2].strip()


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
    origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
    if origin is None:
        if changes and site not in ("none", "same-origin"):
            raise _foreign("another site")
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
        f"cannot answer a page of {site}: only pages of this daemon may call it; if it is yours, "
        "add the origin to allowed_origins in magid.yaml, or the proxy in front of magid to "
        "trusted_proxies"
    )
