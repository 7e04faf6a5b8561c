"""sd_notify(3): the watchdog of a service, and its file descriptor store.

systemd keeps a stopped unit loaded only while a client has a reference on it, and a reference ends
with its D-Bus connection. If the connection closed with the launcher's process, each upgrade,
restart or crash of the launcher would make systemd forget the models that a user has stopped. So
the launcher puts its connection into systemd's descriptor store (FDSTORE=; sd_listen_fds(3)) until
the next launcher has taken its own references. systemd empties the store when the service is
stopped.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from magid.errors import InvalidConfig

log = logging.getLogger(__name__)


Notify = Callable[[str], object]


def watchdog_interval_s(env: Mapping[str, str], pid: int) -> float | None:
    """Returns the interval of WATCHDOG=1: half of the timeout; None if there is no watchdog.

    Source: sd_watchdog_enabled(3).
    """
    usec = env.get("WATCHDOG_USEC", "")
    if env.get("WATCHDOG_PID", str(pid)) != str(pid) or not (usec.isascii() and usec.isdigit()):
        return None
    return int(usec) / 2_000_000 or None


async def keep_alive(notify: Notify, interval_s: float | None) -> None:
    """Sends WATCHDOG=1 from the event loop, so that a blocked loop is noticed."""
    while interval_s is not None:
        notify("WATCHDOG=1")
        await asyncio.sleep(interval_s)


_FIRST_FD: Final = 3  # sd_listen_fds(3)
_KEPT: Final = "bus-of-"  # followed by the pid of the launcher that stored it


def received(env: Mapping[str, str], pid: int) -> tuple[socket.socket, dict[str, socket.socket]]:
    """Returns the listening socket, and name -> connection from the descriptor store.

    Raises InvalidConfig if systemd did not start this process by its socket unit.
    """
    names = env.get("LISTEN_FDNAMES", "").split(":")
    given = env.get("LISTEN_FDS", "")
    if env.get("LISTEN_PID") == str(pid) and given == str(len(names)):
        sockets = list(map(_taken, range(_FIRST_FD, _FIRST_FD + len(names))))
        named = zip(names, sockets, strict=True)
        left = {name: sock for name, sock in named if name.startswith(_KEPT)}
        own = [sock for name, sock in zip(names, sockets, strict=True) if name not in left]
        if len(own) == 1:
            return own[0], left
    raise InvalidConfig("cannot listen: only magi-launcher.socket may start this program")


def _taken(fd: int) -> socket.socket:
    os.set_inheritable(fd, False)
    return socket.socket(fileno=fd)


def keep(connection: int, env: Mapping[str, str] = os.environ) -> None:
    """Puts the descriptor into systemd's store. Does nothing without systemd."""
    _notify(f"FDSTORE=1\nFDNAME={_KEPT}{os.getpid()}", env, [connection])


def release(left: dict[str, socket.socket], env: Mapping[str, str] = os.environ) -> None:
    """Closes earlier launchers' connections, also in systemd's store: their references end."""
    for name, sock in left.items():
        _notify(f"FDSTOREREMOVE=1\nFDNAME={name}", env)
        sock.close()
    left.clear()


def _notify(message: str, env: Mapping[str, str], descriptors: Sequence[int] = ()) -> None:
    address = env.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect(address.replace("@", "\0", 1) if address.startswith("@") else address)
        socket.send_fds(sock, [message.encode()], descriptors)
