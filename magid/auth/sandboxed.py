"""Connections out of a model's sandbox: they are no client's, and are answered nothing.

A model's server needs loopback to be asked, so it reaches magid's own port too. What it may be told
to do by a hostile model or request is not what users decide: no route is for it. Whose the other
end of a connection is says the kernel, once for each connection; which users are a model's says
systemd, which makes them. Without systemd all are one user, who could change magid's files as well.
"""

import re
import socket
import struct
from asyncio import BaseTransport
from pathlib import Path

from magid.errors import NotAllowed
from magid.host.ports import far_ends

USERS = Path("/run/systemd/dynamic-uid")  # of DynamicUser=; "direct:UID" names one
_MODEL = re.compile(r"llama-[0-9]{1,5}")  # as `sandbox` names them
_CREDENTIALS = struct.Struct("3i")  # struct ucred


def is_models(uid: int, users: Path = USERS) -> bool:
    """Whether this user is a model's at present. Reads a link in memory: 2 us."""
    try:
        return _MODEL.fullmatch(str((users / f"direct:{uid}").readlink())) is not None
    except OSError:
        return False


def comes_from_model(transport: BaseTransport, users: Path = USERS) -> bool:
    """Whether a model's process made this connection, or it is too late to tell.

    To be asked when the connection is new: of one whose program has closed it meanwhile the kernel
    does not know the user any more. No program would read the answer.
    """
    here = transport.get_extra_info("sockname")
    if not isinstance(here, tuple):
        return is_models(_uid_of_peer(transport), users)
    there = transport.get_extra_info("peername")
    if not there:
        return True  # it has been reset
    try:
        ends = far_ends(here[:2], there[:2])
    except (OSError, ValueError):
        return False  # the kernel tells by no way at all
    if not ends:
        return _is_loopback(str(there[0]))
    return any(not end.inode or is_models(end.uid, users) for end in ends)


def _uid_of_peer(transport: BaseTransport) -> int:
    sock = transport.get_extra_info("socket")
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(raw)
    return int(uid)


def _is_loopback(address: str) -> bool:
    return address.startswith(("127.", "::ffff:127.")) or address == "::1"


def refuse() -> NotAllowed:
    return NotAllowed(
        "cannot answer: this connection was made by a model's own server, which may not use magid; "
        "look at what that model does (journalctl -u 'llama-server@*')"
    )
