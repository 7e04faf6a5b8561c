"""Who may be answered at all: Host, Origin and the form of a request's head. Pure.

Sanic accepts a missing Host, two Hosts, `Host : x` and folded headers, and answers whoever asks.
A daemon on a loopback address is reachable from every web page in a browser on that machine, by
DNS rebinding (the page's own name then resolves to 127.0.0.1) or by a plain cross-site request;
so each request must be addressed to a name of ours and come from a page of ours, or from none.
"""

import ipaddress
import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from magid.config.addresses import Address, TcpAddress, is_ip
from magid.errors import HostNotAllowed, InvalidInput, NotAllowed

_START = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ /[\x21-\x7e]* HTTP/1\.([01])")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")
_ONCE = frozenset(
    b"host content-length transfer-encoding content-type origin authorization x-api-key".split()
)


@dataclass(frozen=True, slots=True)
class Policy:
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


def check_head(head: bytes) -> None:
    """Refuse a head, with its start line, that two parsers could read differently.

    Raises InvalidInput for a target that is no path (a proxy would be asked by its whole URL, which
    may name another host than Host does), a method that is no word, for Transfer-Encoding from a
    client too old to know it, and as `check_fields` does.
    """
    line, _, fields = head.partition(b"\r\n")
    start = _START.fullmatch(line)
    if start is None:
        raise InvalidInput(
            "cannot read the request: malformed start line; send METHOD /PATH HTTP/1.1"
        )
    check_fields(fields)
    if start[1] == b"0" and re.search(rb"(?mi)^transfer-encoding:", fields):
        raise InvalidInput("cannot read the request: HTTP/1.0 has no transfer-encoding")


def check_fields(raw: bytes) -> None:
    """Refuse a header block that two parsers could read differently. `raw`: without start line.

    Raises InvalidInput for a bare CR or LF, a folded line, space before the colon, control
    characters, a repeated field that decides framing or trust, Content-Length that is not plain
    digits or is beside Transfer-Encoding.
    """
    seen: set[bytes] = set()
    for line in raw.split(b"\r\n"):
        match = _FIELD.fullmatch(line)
        if match is None:
            raise InvalidInput(
                "cannot read the request: malformed header line; send valid HTTP/1.1"
            )
        name = match[1].lower()
        if name in seen and name in _ONCE:
            raise InvalidInput(
                f"cannot read the request: the header {name.decode()} is given twice; send it once"
            )
        seen.add(name)
        if name == b"content-length" and not match[2].strip(b" \t").isdigit():
            raise InvalidInput("cannot read the request: content-length is not a number")
    if b"content-length" in seen and b"transfer-encoding" in seen:
        raise InvalidInput(
            "cannot read the request: content-length and transfer-encoding exclude each other"
        )


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


def _foreign(whom: str) -> NotAllowed:
    return NotAllowed(
        f"cannot answer a page of {whom}: only pages of this daemon may call it; add the origin to "
        "allowed_origins in magid.yaml if it is yours"
    )
