"""sd_notify(3): the watchdog of a service, and file descriptors that outlive its process.

A reference on a unit lasts as long as the connection that it was taken over. Were that closed with
the process, every upgrade, restart or crash of the launcher would make systemd forget the models
that a person has stopped: they could not be started again, and magid would take them for new ones.
So systemd keeps the connection (FDSTORE=; sd_listen_fds(3)) until the next launcher has taken
references of its own. It drops what it keeps when the service is stopped for good.
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
    """How often to say WATCHDOG=1: twice in the time allowed. None: systemd does not expect it.

    Source: sd_watchdog_enabled(3).
    """
    usec = env.get("WATCHDOG_USEC", "")
    if env.get("WATCHDOG_PID", str(pid)) != str(pid) or not (usec.isascii() and usec.isdigit()):
        return None
    return int(usec) / 2_000_000 or None


async def keep_alive(notify: Notify, interval_s: float | None) -> None:
    """Say WATCHDOG=1 for as long as the event loop turns; a blocked one falls silent."""
    while interval_s is not None:
        notify("WATCHDOG=1")
        await asyncio.sleep(interval_s)


_FIRST_FD: Final = 3  # sd_listen_fds(3)
_KEPT: Final = "bus-of-"  # and the process id of the launcher that it was


def received(env: Mapping[str, str], pid: int) -> tuple[socket.socket, dict[str, socket.socket]]:
    """The listening socket, and by name the connections that earlier launchers have left.

    Raises InvalidConfig if it is not systemd that started this process for its socket.
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
    raise InvalidConfig("cannot listen: it is started by magi-launcher.socket only")


def _taken(fd: int) -> socket.socket:
    os.set_inheritable(fd, False)
    return socket.socket(fileno=fd)


def keep(connection: int, env: Mapping[str, str] = os.environ) -> None:
    """Has systemd keep this descriptor. Does nothing without a manager."""
    _tell(f"FDSTORE=1\nFDNAME={_KEPT}{os.getpid()}", env, [connection])


def let_go(left: dict[str, socket.socket], env: Mapping[str, str] = os.environ) -> None:
    """Close what earlier launchers have left, and have systemd close it: its references lapse."""
    for name, sock in left.items():
        _tell(f"FDSTOREREMOVE=1\nFDNAME={name}", env)
        sock.close()
    left.clear()


def _tell(message: str, env: Mapping[str, str], descriptors: Sequence[int] = ()) -> None:
    address = env.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect(address.replace("@", "\0", 1) if address.startswith("@") else address)
        socket.send_fds(sock, [message.encode()], descriptors)
