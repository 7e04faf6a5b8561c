"""Who is at the other end of a connection."""

import socket
import struct
from asyncio import BaseTransport

from magid.auth.token_store import Caller

_CREDENTIALS = struct.Struct("3i")  # struct ucred


def uid_of_peer(transport: BaseTransport) -> int:
    """Returns the user who has connected to a unix socket."""
    sock = transport.get_extra_info("socket")
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(raw)
    return int(uid)


def name_of(caller: Caller, transport: BaseTransport) -> str:
    """Returns who calls, for the log: a token, the user of a unix socket, or an address.

    "unknown" where the connection is closed already.
    """
    if caller.person:
        return f"{caller.person}, by a sign-in link"
    if caller.name:
        return f"token {caller.name}"
    if transport.is_closing():
        return "unknown"
    if not isinstance(transport.get_extra_info("sockname"), tuple):
        return f"uid {uid_of_peer(transport)}"
    peer = transport.get_extra_info("peername")
    return str(peer[0]) if peer else "unknown"
