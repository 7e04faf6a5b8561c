"""The listening sockets: passed by systemd, or bound here.

With socket activation PID 1 holds the sockets, so that the port stays open while the daemon is
restarted. A passed descriptor must be a listening stream socket on an address that the daemon may
serve; any other one is refused before it is used.
"""

import os
import socket
import stat
from collections.abc import MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from magid.config.addresses import Address, TcpAddress, UnixAddress, is_loopback
from magid.errors import InvalidConfig
from magid.host.ports import Endpoint, owners_of

_FIRST_FD = 3  # SD_LISTEN_FDS_START of sd_listen_fds(3)
BACKLOG = 1024
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


@dataclass(frozen=True, slots=True)
class Taken:
    """Listening sockets, and the socket files that were created for them here (path, inode)."""

    sockets: list[socket.socket]
    files: tuple[tuple[Path, int], ...] = ()

    @property
    def names(self) -> list[str]:
        """Returns the address of each socket in readable form."""
        return [_name(sock) for sock in self.sockets]

    @property
    def addresses(self) -> list[TcpAddress]:
        """The addresses of the TCP sockets."""
        names = (sock.getsockname() for sock in self.sockets if sock.family != socket.AF_UNIX)
        return [TcpAddress(name[0], name[1]) for name in names]

    @property
    def exposed(self) -> list[str]:
        """Returns the addresses that other machines can reach."""
        return [_written(a.host, a.port) for a in self.addresses if not is_loopback(a.host)]

    def close(self) -> None:
        """Closes all sockets, and removes their files unless they were replaced. Idempotent."""
        for sock in self.sockets:
            sock.close()
        for path, inode in self.files:
            with suppress(OSError):
                if path.lstat().st_ino == inode:
                    path.unlink()


def take(
    addresses: Sequence[Address], env: MutableMapping[str, str], *, has_token: bool = False
) -> Taken:
    """Returns the listening sockets. systemd's take precedence over the configured addresses.

    Raises InvalidConfig, with no socket left open, if a socket cannot be bound, or if other
    machines can reach it and no token exists.
    """
    handed = handed_over(env, has_token=has_token)
    if handed:
        return Taken(handed)
    check_exposure(addresses, has_token=has_token)
    sockets: list[socket.socket] = []
    files: list[tuple[Path, int]] = []
    try:
        for address in addresses:
            if isinstance(address, TcpAddress):
                sockets.append(_bind_tcp(address))
            else:
                sockets.append(_bind_unix(address))
                files.append((Path(address.path), Path(address.path).lstat().st_ino))
    except InvalidConfig:
        Taken(sockets, tuple(files)).close()
        raise
    return Taken(sockets, tuple(files))


def check_exposure(addresses: Sequence[Address], *, has_token: bool) -> None:
    """Raises InvalidConfig if other machines can reach an address and no token exists."""
    for address in addresses:
        if isinstance(address, TcpAddress) and not has_token and not is_loopback(address.host):
            raise InvalidConfig(
                f"cannot listen on {_written(address.host, address.port)}: {_EXPOSED}, or bind a "
                "loopback address"
            )


_EXPOSED = (
    "others than this machine can reach it, and there is no token that would keep them out; make "
    "one: magictl token create --offline --scope admin --name NAME"
)


# -- passed by systemd -----------------------------------------------------------------------


def handed_over(env: MutableMapping[str, str], *, has_token: bool = False) -> list[socket.socket]:
    """Returns LISTEN_FDS as sockets, if LISTEN_PID is this process.

    Removes the variables from `env`, so that no child mistakes its descriptors for these. Raises
    InvalidConfig, with all good sockets closed, for a descriptor that is not a listening stream
    socket, or that other machines can reach while no token exists.
    """
    given = {name: env.pop(name, "") for name in _VARIABLES}
    if given["LISTEN_PID"] != str(os.getpid()):
        return []
    sockets: list[socket.socket] = []
    try:
        for fd in range(_FIRST_FD, _FIRST_FD + _count(given["LISTEN_FDS"])):
            sockets.append(_adopt(fd, has_token=has_token))
    except InvalidConfig:
        Taken(sockets).close()
        raise
    return sockets


def _count(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) < 6:
        return int(text)
    raise InvalidConfig(f"cannot use LISTEN_FDS={text!r}: it is not a number of sockets; unset it")


def _adopt(fd: int, *, has_token: bool) -> socket.socket:
    try:
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise InvalidConfig(
            f"cannot use descriptor {fd} of LISTEN_FDS: {error.strerror}; check the socket unit"
        ) from None
    problem = _problem(sock, has_token=has_token)
    if problem:
        sock.detach()
        raise InvalidConfig(
            f"cannot use descriptor {fd} of LISTEN_FDS: {problem} in the socket unit"
        )
    sock.setblocking(False)
    os.set_inheritable(fd, False)
    return sock


def _problem(sock: socket.socket, *, has_token: bool) -> str:
    """Returns why this socket cannot be used, and which could; empty if it can."""
    stream = sock.type == socket.SOCK_STREAM and sock.family in (
        socket.AF_INET,
        socket.AF_INET6,
        socket.AF_UNIX,
    )
    if not stream or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return "it is not a listening stream socket; use ListenStream="
    is_local = sock.family == socket.AF_UNIX or is_loopback(sock.getsockname()[0])
    if not is_local and not has_token:
        return f"it is {_name(sock)}: {_EXPOSED}, or use ListenStream=127.0.0.1:PORT"
    return ""


def _name(sock: socket.socket) -> str:
    address = sock.getsockname()
    if not isinstance(address, tuple):
        return f"unix:{os.fsdecode(address)}"
    return _written(*address[:2])


def _written(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# -- bound here ------------------------------------------------------------------------------


def _bind_tcp(address: TcpAddress) -> socket.socket:
    host = "127.0.0.1" if address.host == "localhost" else address.host
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        # Binds even if an earlier connection is still in TIME_WAIT.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, address.port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        owners = owners_of(Endpoint(host, address.port))
        why = f"{' and '.join(map(str, owners))} uses it" if owners else error.strerror
        raise InvalidConfig(
            f"cannot listen on {address.host}:{address.port}: {why}; end what uses it, or set bind "
            "in magid.yaml (MAGI_BIND)"
        ) from None
    sock.setblocking(False)
    return sock


def _bind_unix(address: UnixAddress) -> socket.socket:
    """Binds a socket file for owner and group. Replaces a stale socket, but no other file."""
    path = Path(address.path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        before = os.umask(0o117)
        try:
            sock.bind(address.path)
        finally:
            os.umask(before)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise InvalidConfig(
            f"cannot listen on {address.path}: {error.strerror or error}; {_advice(path)}, or set "
            "bind in magid.yaml (MAGI_BIND)"
        ) from None
    sock.setblocking(False)
    return sock


def _remove_stale(path: Path) -> None:
    """Removes a socket file without a listener. Raises OSError."""
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.lstat().st_mode) and not _is_served(path):
            path.unlink()


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        except OSError:
            return True  # its queue is full, or this user may not connect to it
        return True


def _advice(path: Path) -> str:
    if not os.path.lexists(path):
        return "make its folder, writable for the user that runs magid"
    if path.is_socket():
        return "end the program that listens there"
    return "move the file that is in its place away"
