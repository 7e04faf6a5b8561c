"""A new key with every process of a model's server: `magi-key`, which systemd starts for each.

A unit loads its key, as a credential, from a socket that PID 1 holds. So there is a new one whoever
starts the server: magid, a person, or systemd itself; magid and the launcher need not run. One
connection is one process to be: systemd connects as root before it, from an abstract address that
names the unit, and hands what it reads to the server and to what runs beside it.

Exit status 1, with a line that says why: nothing was handed out, and `gate` refuses to go on.
"""

import os
import re
import socket
import struct
import sys
from typing import Final

from magid.errors import MagidError, NotAllowed
from magid.launcher.keys import KEYS, KeyRing

_PATIENCE_S: Final = 10.0
# systemd.exec(5), LoadCredential=: a random part, and for which credential of which unit.
_ASKER: Final = re.compile(rb"\0[0-9a-f]+/unit/llama-server@([0-9]{1,5})\.service/api-key")


def main() -> int:
    """Answer the connection that is the standard input."""
    try:
        with socket.socket(fileno=os.dup(0)) as connection:
            connection.settimeout(_PATIENCE_S)
            answer(connection, KeyRing(KEYS, "magi"))
    except (MagidError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def answer(connection: socket.socket, ring: KeyRing) -> None:
    """A new key, first to where magid reads it, then to systemd. NotAllowed, CannotWrite, OSError.

    So whoever sees the process finds the key of it, or that of a later one.
    """
    port = port_of(connection)
    connection.sendall(ring.write_new(port).encode())


def port_of(connection: socket.socket) -> int:
    """The port of the server that it is for. Raises NotAllowed unless it is systemd that asks."""
    size = struct.calcsize("3i")
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    _, uid, _ = struct.unpack("3i", credentials)
    if uid != os.geteuid():
        raise NotAllowed(f"cannot make a key for user {uid}: systemd alone may ask")
    asker = connection.getpeername()
    match = _ASKER.fullmatch(asker) if isinstance(asker, bytes) else None
    if not match:
        raise NotAllowed(f"cannot make a key for {asker!r}: it is no credential of a model's unit")
    return int(match[1])


if __name__ == "__main__":
    sys.exit(main())
