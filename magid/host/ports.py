"""Who has a TCP port of this machine: the kernel's word, which no program can forge.

A key proves something only to a program that knows it already: another program on a server's port
would be handed key and prompt with the first request. So before anything is sent the kernel is
asked whose socket it is. Servers run as a user of their own, or as magid itself; a program of
another user cannot have theirs. The other end of a client's connection is asked for in the same
way: a model's server may reach loopback, and is no client.

inet_diag answers for one socket in 12 us; /proc/net/tcp, where the kernel has no inet_diag, takes
milliseconds (3.4 ms on 2 CPUs and 24 GiB: it walks the table of all connections).
"""

import errno
import ipaddress
import os
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from magid.errors import ServerFailed


@dataclass(frozen=True, slots=True)
class PortOwner:
    """A process that listens on a port; None where another user's process cannot be looked into."""

    pid: int | None = None
    name: str | None = None
    session: int | None = None  # its session id: the pid of our child for all that it made

    def __str__(self) -> str:
        if self.pid is None:
            return "a process of another user (`ss -ltnp`, as root, names it)"
        return f"pid {self.pid} ({self.name})"


@dataclass(frozen=True, slots=True)
class HostPort:
    """Where one server listens."""

    host: str
    port: int

    @property
    def connect_host(self) -> str:
        """The address to connect to: a server bound to every address is asked over loopback."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(self.host, self.host)

    def __str__(self) -> str:
        host = self.connect_host
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


_EVERY_ADDRESS = frozenset({"", "0.0.0.0", "::"})
_LOOKS = 3  # at all connections, before it cannot be told who has a port


def can_bind(endpoint: HostPort) -> bool:
    """Whether a server could listen there now. Blocks.

    Raises ServerFailed if it never could: not an address of this machine, a privileged port.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            endpoint.host or None, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            # As llama-server does: what a past connection left behind (TIME_WAIT) is no hindrance.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return False
        why = error.strerror or str(error)
        raise ServerFailed(f"cannot listen on {endpoint.host}:{endpoint.port}: {why}") from error
    return True


def owners_of(endpoint: HostPort) -> list[PortOwner]:
    """Who listens there now; empty if it cannot be told. Walks all of /proc: in a thread."""
    pids = {
        pid
        for address, port, pid in listening()
        if port == endpoint.port and _overlap(address, endpoint.host)
    }
    return [_owner(pid) for pid in sorted(pids, key=lambda pid: pid or 0)]


def listening() -> set[tuple[str, int, int | None]]:
    """Address, port and pid of all TCP listeners; without the right to see a process no pid.

    Walks all of /proc. Where a process ends just as its descriptors are listed, psutil fails
    (EBADF).
    """
    import psutil

    for _ in range(_LOOKS):
        with suppress(OSError, psutil.Error):
            return {
                (one.laddr.ip, one.laddr.port, one.pid)
                for one in psutil.net_connections("tcp")
                if one.status == psutil.CONN_LISTEN and one.laddr
            }
    return set()


def _overlap(one: str, other: str) -> bool:
    return one == other or not _EVERY_ADDRESS.isdisjoint((one, other))


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
    return f"port {endpoint.port} is taken by {by}; end it or give the model another port"


# linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_NLMSG_ERROR = 2
_TCP_LISTEN = 10
_HEAD = struct.Struct("=IHHII")  # nlmsghdr
_FAMILY = struct.Struct("=BBBxI")  # inet_diag_req_v2: family, protocol, ext, states
_SOCKET = struct.Struct("!HH16s16s")  # inet_diag_sockid: ports and addresses, as on the wire
_ANY = struct.pack("=I", 0) + b"\xff" * 8  # its interface and cookie
_ANSWER = struct.Struct("=BB62xII")  # inet_diag_msg: family, state, ..., uid, inode
_EVERY_STATE = 0xFFFF_FFFF


Place = tuple[str, int]  # IP address and port


@dataclass(frozen=True, slots=True)
class End:
    """A socket that is one end of a connection; `inode` 0: no program has it open any more."""

    uid: int
    inode: int


@dataclass(frozen=True, slots=True)
class ListeningSocket:
    """One listening socket; the same `inode` means that it was there all the time between."""

    uid: int
    inode: int


def listener_at(host: str, port: int) -> ListeningSocket | None:
    """The listener that a connection to this IP address would reach now; None: there is none.

    Raises OSError where the kernel tells by neither way, ValueError for what is no IP address.
    Does not wait for anything.
    """
    try:
        return _asked(host, port) or _looked_up(host, port)
    except OSError:
        return _looked_up(host, port)


def far_ends(here: Place, there: Place) -> tuple[End, ...]:
    """What is at the other end of a connection, seen from our end at `here`.

    Empty: nothing of this machine, or it is gone altogether. More than one: where a firewall rule
    redirects connections the kernel has the other end with another goal, so all that come from
    `there` are told. Raises OSError, ValueError. Does not wait for anything.
    """
    try:
        found = _asked_for_end(there, here)
    except OSError:
        found = None
    if found is not None:
        return (found,)
    address = _plain(there[0])
    if not address.is_loopback and address != _plain(here[0]):
        return ()
    return _ends_looked_up(address, there[1])


# -- inet_diag -----------------------------------------------------------------------------------


def _asked(host: str, port: int) -> ListeningSocket | None:
    """None too if the kernel has no inet_diag: both are ENOENT. Raises OSError."""
    found = _socket_in(_answer_to(_question_of_listener(host, port)))
    return ListeningSocket(*found[1:]) if found and found[0] == _TCP_LISTEN else None


@lru_cache(maxsize=256)
def _question_of_listener(host: str, port: int) -> bytes:
    address = ipaddress.ip_address(host)
    return _question(address, _SOCKET.pack(port, 0, address.packed, b""))


def _asked_for_end(local: Place, remote: Place) -> End | None:
    """The socket with these two names. None and OSError as of `_asked`."""
    near, far = ipaddress.ip_address(local[0]), ipaddress.ip_address(remote[0])
    names = _SOCKET.pack(local[1], remote[1], near.packed, far.packed)
    found = _socket_in(_answer_to(_question(near, names)))
    return End(*found[1:]) if found and found[0] != _TCP_LISTEN else None


class _Netlink:
    """A socket to the kernel's socket diagnostics; closed with the thread that has it."""

    _fd = -1  # where none can be made, as without free descriptors

    def __init__(self) -> None:
        flags = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._fd = socket.socket(socket.AF_NETLINK, flags, _NETLINK_SOCK_DIAG).detach()

    def ask(self, question: bytes) -> bytes:
        os.write(self._fd, question)
        return os.read(self._fd, 4096)  # it was made while we wrote

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)


_kept = threading.local()  # each thread has its own: no answer is another question's


def _answer_to(question: bytes) -> bytes:
    """Keeps its socket: to make one takes longer than to ask. After an error there is a new one."""
    if not hasattr(_kept, "netlink"):
        _kept.netlink = _Netlink()
    try:
        answer: bytes = _kept.netlink.ask(question)
    except OSError:
        del _kept.netlink
        raise
    return answer


def _question(address: "Address", names: bytes) -> bytes:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    body = _FAMILY.pack(family, socket.IPPROTO_TCP, 0, _EVERY_STATE) + names + _ANY
    length = _HEAD.size + len(body)
    return _HEAD.pack(length, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 0, 0) + body


def _socket_in(answer: bytes) -> tuple[int, int, int] | None:
    """Its state, uid and inode."""
    kind = _HEAD.unpack_from(answer)[1]
    if kind == _NLMSG_ERROR or len(answer) < _HEAD.size + _ANSWER.size:
        return None
    _, state, uid, inode = _ANSWER.unpack_from(answer, _HEAD.size)
    return state, uid, inode


# -- /proc/net/tcp -------------------------------------------------------------------------------


def _looked_up(host: str, port: int) -> ListeningSocket | None:
    """Of several the one that is bound to the very address, as the kernel prefers it."""
    found: dict[Address, ListeningSocket] = {}
    for text in _tables():
        found |= {address: listener for address, at, listener in listeners_in(text) if at == port}
    wanted = ipaddress.ip_address(host)
    every = [ipaddress.ip_address("0.0.0.0")] if wanted.version == 4 else []
    return next(
        (found[a] for a in (wanted, *every, ipaddress.ip_address("::")) if a in found), None
    )


def _ends_looked_up(address: "Address", port: int) -> tuple[End, ...]:
    """Those that are open, if any is: a port is used again while a past use is still listed."""
    found = tuple(
        End(uid, inode)
        for text in _tables()
        for state, at, at_port, uid, inode in _rows(text)
        if state != _LISTENS and at_port == port and _plain(str(at)) == address
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
    """Address, port and socket of all listeners, from /proc/net/tcp or /proc/net/tcp6. Pure."""
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
    """The words of 32 bits are in the machine's own byte order."""
    words = [int(text[at : at + 8], 16) for at in range(0, len(text), 8)]
    return ipaddress.ip_address(struct.pack(f"={len(words)}I", *words))


def _plain(text: str) -> Address:
    """An IPv4 address also where a socket of both families has it."""
    address = ipaddress.ip_address(text)
    return (address.version == 6 and address.ipv4_mapped) or address
