"""`magi-key`: makes a new key for every process of a model's server. systemd starts it for each.

A unit loads its key, as a credential, from a socket that PID 1 holds. So every start has a new key,
whether magid, a person or systemd itself starts the server; magid and the launcher need not run.
Each connection stands for one process: systemd connects as root before it starts the process, from
an abstract address that names the unit, and passes the key to the server and to wait_ready.py.

Exit status 1, with a line that says why: no key was sent, and exec_model.py refuses to go on.
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
# systemd.exec(5), LoadCredential=: a random part, then the unit and its credential.
_ASKER: Final = re.compile(rb"\0[0-9a-f]+/unit/llama-server@([0-9]{1,5})\.service/api-key")


def main() -> int:
    """Answers the connection on standard input; returns the exit status."""
    try:
        with socket.socket(fileno=os.dup(0)) as connection:
            connection.settimeout(_PATIENCE_S)
            answer(connection, KeyRing(KEYS, "magi"))
    except (MagidError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def answer(connection: socket.socket, ring: KeyRing) -> None:
    """Writes a new key to the file that magid reads, then sends it to systemd.

    The file comes first: a running process's key, or that of a later process, is always in it.
    Raises NotAllowed, CannotWrite, OSError.
    """
    port = port_of(connection)
    connection.sendall(ring.write_new(port).encode())


def port_of(connection: socket.socket) -> int:
    """Returns the port of the server that the key is for; NotAllowed unless systemd asks."""
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
