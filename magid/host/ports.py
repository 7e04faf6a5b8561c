"""Which process and user own a TCP port or connection, from the kernel, which cannot be spoofed.

An API key does not authenticate the server: another program on a server's port would get the key
and the prompt with the first request. So magid queries the owner of the listening socket before it
sends anything. Servers run as a user of their own, or as magid's; no other user can own their
sockets. The same query on a client's connection finds callers from a model's sandbox, which can
reach loopback.

inet_diag answers for one socket in 12 us. Kernels without it have /proc/net/tcp, which takes
milliseconds (3.4 ms on 2 CPUs and 24 GiB), because the kernel walks the table of all connections.
"""

import errno
import ipaddress
import os
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from msgspec import Struct

from magid.errors import ServerFailed


class PortOwner(Struct, frozen=True):
    """A process that listens on a port; fields are None for a hidden one of another user."""

    pid: int | None = None
    name: str | None = None
    session: int | None = None  # session id: our child's pid, for the child and its descendants

    def __str__(self) -> str:
        if self.pid is None:
            return "a process of another user (`ss -ltnp`, as root, names it)"
        return f"pid {self.pid} ({self.name})"


class HostPort(Struct, frozen=True):
    """Where one server listens."""

    host: str
    port: int

    @property
    def connect_host(self) -> str:
        """The address to connect to: loopback, for a server that is bound to every address."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(self.host, self.host)

    def __str__(self) -> str:
        host = self.connect_host
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


EVERY_ADDRESS = frozenset({"", "0.0.0.0", "::"})
_TRIES = 3  # to list all connections


def can_bind(endpoint: HostPort) -> bool:
    """Whether a server could listen there now. Blocks.

    Raises ServerFailed if it never could: another machine's address, or a privileged port.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            endpoint.host or None, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            # As llama-server does: a past connection in TIME_WAIT does not block the port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return False
        why = error.strerror or str(error)
        raise ServerFailed(f"cannot listen on {endpoint.host}:{endpoint.port}: {why}") from error
    return True


def owners_of(endpoint: HostPort) -> list[PortOwner]:
    """Returns the processes that listen there now, [] if unknown. Slow: walks all of /proc."""
    pids = {
        pid
        for address, port, pid in listening()
        if port == endpoint.port and _overlap(address, endpoint.host)
    }
    return [_owner(pid) for pid in sorted(pids, key=lambda pid: pid or 0)]


def listening() -> set[tuple[str, int, int | None]]:
    """Returns address, port and pid of all TCP listeners; pid is None for a hidden process.

    Walks all of /proc. Retries, because a process may end while psutil lists its descriptors.
    """
    import psutil

    for _ in range(_TRIES):
        with suppress(OSError, psutil.Error):
            return {
                (one.laddr.ip, one.laddr.port, one.pid)
                for one in psutil.net_connections("tcp")
                if one.status == psutil.CONN_LISTEN and one.laddr
            }
    return set()


def _overlap(one: str, other: str) -> bool:
    return one == other or not EVERY_ADDRESS.isdisjoint((one, other))


def _owner(pid: int | None) -> PortOwner:
    import psutil

    if pid is None:
        return PortOwner()
    try:
        return PortOwner(pid, psutil.Process(pid).name(), os.getsid(pid))
    except (psutil.Error, OSError):
        return PortOwner(pid, "gone or hidden")


def port_taken(endpoint: HostPort, owners: Sequence[PortOwner]) -> str:
    by = " and ".join(str(owner) for owner in owners) or "a connection that is still open"
    return f"port {endpoint.port} is taken by {by}; end it, or give the model another port"


# linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_NLMSG_ERROR = 2
_TCP_LISTEN = 10
_HEAD = struct.Struct("=IHHII")  # nlmsghdr
_FAMILY = struct.Struct("=BBBxI")  # inet_diag_req_v2: family, protocol, ext, states
_SOCKET = struct.Struct("!HH16s16s")  # inet_diag_sockid: ports and addresses, in network order
_ANY = struct.pack("=I", 0) + b"\xff" * 8  # inet_diag_sockid: any interface and any cookie
_REPLY = struct.Struct("=BB62xII")  # inet_diag_msg: family, state, ..., uid, inode
_EVERY_STATE = 0xFFFF_FFFF


Place = tuple[str, int]  # IP address and port


class End(Struct, frozen=True):
    """A socket at one end of a connection; `inode` is 0 once no process has it open."""

    uid: int
    inode: int


class ListeningSocket(Struct, frozen=True):
    """One listening socket. Two queries with the same `inode` found the same socket."""

    uid: int
    inode: int


def listener_at(host: str, port: int) -> ListeningSocket | None:
    """Returns the listener that a connection to this IP address would reach now, if any.

    Raises OSError if the kernel offers neither source, ValueError if `host` is not an IP address.
    Never waits.
    """
    try:
        return _diag_listener(host, port) or _proc_listener(host, port)
    except OSError:
        return _proc_listener(host, port)


def far_ends(here: Place, there: Place) -> tuple[End, ...]:
    """Returns the sockets that may be the other end, at `there`, of our connection at `here`.

    None, if the other end is on another machine or closed. Several, if a firewall rule redirects
    connections: the other end then has another destination, so all sockets at `there` count.
    Raises OSError, ValueError. Never waits.
    """
    try:
        found = _diag_end(there, here)
    except OSError:
        found = None
    if found is not None:
        return (found,)
    address = plain(there[0])
    if not address.is_loopback and address != plain(here[0]):
        return ()
    return _proc_ends(address, there[1])


# -- inet_diag -----------------------------------------------------------------------------------


def _diag_listener(host: str, port: int) -> ListeningSocket | None:
    """None also if the kernel has no inet_diag: both are ENOENT. Raises OSError."""
    found = _parse_reply(_query(_listener_request(host, port)))
    return ListeningSocket(*found[1:]) if found and found[0] == _TCP_LISTEN else None


@lru_cache(maxsize=256)
def _listener_request(host: str, port: int) -> bytes:
    address = ipaddress.ip_address(host)
    return _request(address, _SOCKET.pack(port, 0, address.packed, b""))


def _diag_end(local: Place, remote: Place) -> End | None:
    """Returns the socket with these two addresses. None and OSError as in `_diag_listener`."""
    near, far = ipaddress.ip_address(local[0]), ipaddress.ip_address(remote[0])
    socket_id = _SOCKET.pack(local[1], remote[1], near.packed, far.packed)
    found = _parse_reply(_query(_request(near, socket_id)))
    return End(*found[1:]) if found and found[0] != _TCP_LISTEN else None


class _Netlink:
    """A socket to the kernel's socket diagnostics; closed when its thread ends."""

    _fd = -1  # until it is open: there may be no free descriptor

    def __init__(self) -> None:
        flags = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._fd = socket.socket(socket.AF_NETLINK, flags, _NETLINK_SOCK_DIAG).detach()

    def query(self, request: bytes) -> bytes:
        os.write(self._fd, request)
        return os.read(self._fd, 4096)  # the kernel replies during the write

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)


_local = threading.local()  # one socket per thread, so that each reply belongs to its request


def _query(request: bytes) -> bytes:
    """Keeps the socket: opening one takes longer than a query. Reopens it after an error."""
    if not hasattr(_local, "netlink"):
        _local.netlink = _Netlink()
    try:
        reply: bytes = _local.netlink.query(request)
    except OSError:
        del _local.netlink
        raise
    return reply


def _request(address: "Address", socket_id: bytes) -> bytes:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    body = _FAMILY.pack(family, socket.IPPROTO_TCP, 0, _EVERY_STATE) + socket_id + _ANY
    length = _HEAD.size + len(body)
    return _HEAD.pack(length, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 0, 0) + body


def _parse_reply(reply: bytes) -> tuple[int, int, int] | None:
    """Returns the socket's state, uid and inode."""
    kind = _HEAD.unpack_from(reply)[1]
    if kind == _NLMSG_ERROR or len(reply) < _HEAD.size + _REPLY.size:
        return None
    _, state, uid, inode = _REPLY.unpack_from(reply, _HEAD.size)
    return state, uid, inode


# -- /proc/net/tcp -------------------------------------------------------------------------------


def _proc_listener(host: str, port: int) -> ListeningSocket | None:
    """Prefers the listener that is bound to exactly this address, as the kernel does."""
    found: dict[Address, ListeningSocket] = {}
    for text in _tables():
        found |= {address: listener for address, at, listener in listeners_in(text) if at == port}
    wanted = ipaddress.ip_address(host)
    every = [ipaddress.ip_address("0.0.0.0")] if wanted.version == 4 else []
    return next(
        (found[a] for a in (wanted, *every, ipaddress.ip_address("::")) if a in found), None
    )


def _proc_ends(address: "Address", port: int) -> tuple[End, ...]:
    """Prefers open sockets: a port may be reused while its previous connection is still listed."""
    found = tuple(
        End(uid, inode)
        for text in _tables()
        for state, at, at_port, uid, inode in _rows(text)
        if state != _LISTENS and at_port == port and plain(str(at)) == address
    )
    return tuple(end for end in found if end.inode) or found


def _tables() -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        try:
            yield Path(f"/proc/net/{table}").read_text()
        except FileNotFoundError:
            if table == "tcp":
                raise  # no IPv6 here is no error


Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_LISTENS = "0A"


def listeners_in(table: str) -> Iterator[tuple[Address, int, ListeningSocket]]:
    """Yields address, port and socket of each listener in /proc/net/tcp or tcp6. Pure."""
    for state, address, port, uid, inode in _rows(table):
        if state == _LISTENS:
            yield address, port, ListeningSocket(uid, inode)


def _rows(table: str) -> Iterator[tuple[str, Address, int, int, int]]:
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) >= 10:
            address, _, port = fields[1].partition(":")
            yield fields[3], _address(address), int(port, 16), int(fields[7]), int(fields[9])


def _address(text: str) -> Address:
    """Parses an address of those tables: 32-bit words in the machine's byte order."""
    words = [int(text[at : at + 8], 16) for at in range(0, len(text), 8)]
    return ipaddress.ip_address(struct.pack(f"={len(words)}I", *words))


def plain(text: str) -> Address:
    """Parses an IP address; an IPv4-mapped one becomes IPv4."""
    address = ipaddress.ip_address(text)
    return (address.version == 6 and address.ipv4_mapped) or address
