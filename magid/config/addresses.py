"""Parses the addresses in settings: where to listen, and who can reach it. Pure."""

import ipaddress
import os
import re

from msgspec import Struct

_UNIX = "unix:"
_MAX_UNIX_PATH = 107  # bytes of sockaddr_un.sun_path, less the final NUL
_HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*"
)
_ORIGIN = re.compile(r"https?://[a-z0-9.\-]+(:[0-9]{1,5})?|https?://\[[0-9a-f:.]+\](:[0-9]{1,5})?")
# Of an application that shows pages of its own, such as app://obsidian.md or moz-extension://UUID.
_APP_ORIGIN = re.compile(
    r"(?!(?:file|https?|wss?)://)[a-z][a-z0-9+.\-]{0,63}://[a-z0-9._~\-]{1,253}(:[0-9]{1,5})?"
)


class TcpAddress(Struct, frozen=True):
    """Where to listen on TCP. `host` is an IP address without brackets, or `localhost`."""

    host: str
    port: int


class UnixAddress(Struct, frozen=True):
    """Where to listen on a unix socket."""

    path: str


Address = TcpAddress | UnixAddress


def parse_address(text: str) -> Address:
    """Parses `127.0.0.1:8000`, `[::1]:8000`, `localhost:8000` or `unix:/run/x.sock`.

    Pure. Raises ValueError; its text continues "should be".
    """
    if text.startswith(_UNIX):
        path = text.removeprefix(_UNIX)
        if not path.startswith("/") or len(os.fsencode(path)) > _MAX_UNIX_PATH:
            raise ValueError(f"an absolute path of at most {_MAX_UNIX_PATH} bytes after 'unix:'")
        return UnixAddress(path)
    host, _, port = text.rpartition(":")
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise ValueError("HOST:PORT with a port of 1 to 65535, [IPV6]:PORT, or unix:/PATH")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if bare != "localhost" and (not is_ip(bare) or (":" in bare) != (bare != host)):
        raise ValueError("an IP address (IPv6 in brackets) or localhost before the port")
    return TcpAddress(bare, int(port))


def rpc_server(text: str) -> str:
    """Returns ADDRESS:PORT if it is an IPv4 address that cannot be reached from the internet.

    llama.cpp's RPC protocol has neither a password nor encryption, and knows no IPv6. A name could
    lead elsewhere later, and a unit's firewall takes addresses. Raises ValueError; its text
    continues "should be".
    """
    host, _, port = text.rpartition(":")
    if not re.fullmatch(r"[1-9][0-9]{0,4}", port) or int(port) > 65535:
        raise ValueError("should be ADDRESS:PORT with a port of 1 to 65535")
    try:
        address = ipaddress.IPv4Address(host)
    except ValueError:
        raise ValueError("should have an IPv4 address before the port, no name") from None
    if not any(address in network for network in PRIVATE):
        raise ValueError(
            "should be in a private network: llama.cpp's RPC has neither a password nor "
            f"encryption, so {host} must not be reached over the internet; use a tunnel"
        )
    return text


PRIVATE = tuple(
    map(
        ipaddress.IPv4Network,
        ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16",
         "100.64.0.0/10"),  # the last one is that of carriers, which VPNs use
    )
)  # fmt: skip


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address. False for names other than localhost."""
    return host == "localhost" or (is_ip(host) and ipaddress.ip_address(host).is_loopback)


def is_ip(text: str) -> bool:
    """Whether this is an IPv4 or IPv6 address, without brackets."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_host(text: str) -> bool:
    """Whether this is an IP address or a host name in lower case (RFC 1123), without a port."""
    return is_ip(text) or _HOST_NAME.fullmatch(text) is not None


def is_origin(text: str) -> bool:
    """Whether this is a web or app origin in lower case: scheme, host and optional port."""
    return (_ORIGIN.fullmatch(text) or _APP_ORIGIN.fullmatch(text)) is not None


def is_network(text: str) -> bool:
    """Whether this is an IP address or a network such as 10.0.0.0/8."""
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True
