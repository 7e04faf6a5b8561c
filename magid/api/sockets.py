"""The listening sockets: passed by systemd, or bound here.

With socket activation PID 1 holds the sockets, so that the port stays open while the daemon is
restarted. A passed descriptor must be a listening stream socket on an address that the daemon may
serve; any other one is refused before it is used.
"""

import os
import socket
import stat
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from magid.config.addresses import Address, TcpAddress, UnixAddress, is_loopback
from magid.errors import InvalidConfig
from magid.host.ports import HostPort, owners_of

_FIRST_FD = 3  # SD_LISTEN_FDS_START of sd_listen_fds(3)
BACKLOG = 1024
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


class OllamaSocket(socket.socket):
    """An address beside magid's own, where clients of Ollama look; served like any other."""


class ViewSocket(socket.socket):
    """A listening unix socket whose clients may only read."""


class Taken(Struct, frozen=True):
    """Listening sockets, and the socket files that were created for them here (path, inode).

    `missing` says which addresses nothing listens on, and why: whole sentences for a person.
    """

    sockets: list[socket.socket]
    files: tuple[tuple[Path, int], ...] = ()
    missing: tuple[str, ...] = ()
    are_passed: bool = False  # by systemd, which has them open too

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
        """Closes what was bound here, and removes files unless they were replaced. Idempotent."""
        for sock in [] if self.are_passed else self.sockets:
            sock.close()
        for path, inode in self.files:
            with suppress(OSError):
                if path.lstat().st_ino == inode:
                    path.unlink()


def take(
    addresses: Sequence[Address], passed: Sequence[socket.socket] = (), *, has_token: bool = False
) -> Taken:
    """Returns the listening sockets: those that systemd passed, or else the configured addresses.

    An address that cannot be bound keeps no other one from being served; it is in `missing`.
    Raises InvalidConfig if none can be bound, or if other machines can reach one and no token
    exists; then nothing is left open that was bound here.
    """
    if passed:
        bound = [_address(sock) for sock in passed]
        check_exposure(bound, has_token=has_token, advice=_PASSED_ADVICE)
        usual = [_address(sock) for sock in passed if not isinstance(sock, OllamaSocket)]
        return Taken(list(passed), missing=tuple(_not_passed(usual)), are_passed=True)
    check_exposure(addresses, has_token=has_token)
    sockets: list[socket.socket] = []
    files: list[tuple[Path, int]] = []
    missing: list[str] = []
    for address in addresses:
        try:
            if isinstance(address, TcpAddress):
                sockets.append(_bind_tcp(address))
            else:
                sockets.append(_bind_unix(address))
                files.append((Path(address.path), Path(address.path).lstat().st_ino))
        except InvalidConfig as error:
            missing.append(error.message)
    if missing and not sockets:
        raise InvalidConfig(missing[0])
    return Taken(sockets, tuple(files), tuple(missing))


def check_exposure(
    addresses: Sequence[Address], *, has_token: bool, advice: str = "or bind a loopback address"
) -> None:
    """Raises InvalidConfig if other machines can reach an address and no token exists."""
    for address in addresses:
        if isinstance(address, TcpAddress) and not has_token and not is_loopback(address.host):
            raise InvalidConfig(
                f"cannot listen on {_written(address.host, address.port)}: {_EXPOSED}, {advice}"
            )


_EXPOSED = (
    "other machines can reach it and no token exists; make one: magictl token create --offline "
    "--scope admin --name NAME"
)


_PASSED_ADVICE = "or name loopback addresses only in magid.socket"
_TCP_UNIT = "magid.socket"
# Of magid-view.socket. Either is enough: a lost name must not let readers change anything.
_VIEW_NAME = "magid-view"
_VIEW_PATH = "/run/magi/view.sock"
_OLLAMA_NAME = "magid-ollama"  # of magid-ollama.socket
_MASK = Path("/etc/systemd/system") / _TCP_UNIT  # a link to /dev/null, where a person wants no TCP


# -- passed by systemd -----------------------------------------------------------------------


def handed_over(env: MutableMapping[str, str]) -> list[socket.socket]:
    """Returns LISTEN_FDS as sockets, if LISTEN_PID is this process.

    Removes the variables from `env`, so that no child mistakes its descriptors for these. Raises
    InvalidConfig, with all good sockets closed, for a descriptor that is not a listening stream
    socket.
    """
    given = {name: env.pop(name, "") for name in _VARIABLES}
    if given["LISTEN_PID"] != str(os.getpid()):
        return []
    sockets: list[socket.socket] = []
    try:
        names = given["LISTEN_FDNAMES"].split(":")
        for number in range(_count(given["LISTEN_FDS"])):
            sockets.append(_adopt(_FIRST_FD + number, *names[number : number + 1]))
    except InvalidConfig:
        Taken(sockets).close()
        raise
    return sockets


def _count(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) < 6:
        return int(text)
    raise InvalidConfig(f"cannot use LISTEN_FDS={text!r}: it is not a number of sockets; unset it")


def _adopt(fd: int, name: str = "") -> socket.socket:
    """`name` is what the socket unit calls it (FileDescriptorName=)."""
    try:
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise InvalidConfig(
            f"cannot use descriptor {fd} of LISTEN_FDS: {error.strerror}; check the socket unit"
        ) from None
    if not _is_listening_stream(sock):
        sock.detach()
        raise InvalidConfig(
            f"cannot use descriptor {fd} of LISTEN_FDS: it is not a listening stream socket; use "
            "ListenStream= in the socket unit"
        )
    is_unix = sock.family == socket.AF_UNIX
    if is_unix and (name == _VIEW_NAME or sock.getsockname() == _VIEW_PATH):
        sock = ViewSocket(fileno=sock.detach())
    elif not is_unix and name == _OLLAMA_NAME:
        sock = OllamaSocket(fileno=sock.detach())
    sock.setblocking(False)
    os.set_inheritable(fd, False)
    return sock


def _is_listening_stream(sock: socket.socket) -> bool:
    families = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
    is_stream = sock.type == socket.SOCK_STREAM and sock.family in families
    return is_stream and bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _not_passed(bound: Sequence[Address]) -> Iterator[str]:
    """Yields that TCP is missing because its socket unit failed; only systemd knows why."""
    is_wanted = os.path.realpath(_MASK) != os.devnull
    if is_wanted and not any(isinstance(address, TcpAddress) for address in bound):
        yield (
            f"cannot listen on TCP: {_TCP_UNIT} did not start; `magid --check` says why, then: "
            "systemctl restart magid"
        )


def _address(sock: socket.socket) -> Address:
    name = sock.getsockname()
    if not isinstance(name, tuple):
        return UnixAddress(os.fsdecode(name))
    return TcpAddress(name[0], name[1])


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
        owners = owners_of(HostPort(host, address.port))
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
