"""`magi-key`: makes a new key for every process of a model's server. systemd starts it for each.

A unit loads its key, as a credential, from a socket that PID 1 holds. So every start has a new key,
whether magid, a person or systemd itself starts the server; magid and the launcher need not run.
Each connection stands for one process: systemd connects as root before it starts the process, from
an abstract address that names the unit, and passes the key to the server and to wait_ready.py.

PORT.key is root:magi 0640, in a folder root:magi 02750, which `launcher.keys` looks after: magid
may read a key, but neither replace it nor put another file in its place.

It imports as little as possible, because it delays every start. Exit status 1, with a line that
says why: no key was sent, and exec_model.py refuses to go on.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from binascii import b2a_base64

FOLDER = "/run/magi-keys"
_PATIENCE_S = 10.0
_HEXADECIMAL = frozenset(b"0123456789abcdef")


class NoKey(Exception):
    """No key was made; the text says why."""


def main() -> int:
    """Answers the connection on standard input; returns the exit status."""
    try:
        with socket.socket(fileno=os.dup(0)) as connection:
            connection.settimeout(_PATIENCE_S)
            answer(connection, FOLDER)
    except (NoKey, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def answer(connection: socket.socket, folder: str) -> None:
    """Writes a new key to the file that magid reads, then sends it to systemd.

    The file comes first: a running process's key, or that of a later process, is always in it.
    Raises NoKey, OSError.
    """
    connection.sendall(write_new(folder, port_of(connection)))


def port_of(connection: socket.socket) -> int:
    """Returns the port of the server that the key is for; NoKey unless systemd asks."""
    size = struct.calcsize("3i")
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    _, uid, _ = struct.unpack("3i", credentials)
    if uid != os.geteuid():
        raise NoKey(f"cannot make a key for user {uid}: systemd alone may ask")
    asker = connection.getpeername()
    port = _port_in(asker) if isinstance(asker, bytes) else None
    if port is None:
        raise NoKey(f"cannot make a key for {asker!r}: it is no credential of a model's unit")
    return port


def _port_in(asker: bytes) -> int | None:
    """systemd.exec(5), LoadCredential=: a random part, then the unit and its credential."""
    head, _, tail = asker.partition(b"/unit/llama-server@")
    port, _, rest = tail.partition(b".")
    is_random = head[:1] == b"\0" and bool(head[1:]) and _HEXADECIMAL.issuperset(head[1:])
    is_port = port.isdigit() and len(port) <= 5
    return int(port) if is_random and is_port and rest == b"service/api-key" else None


def write_new(folder: str, port: int) -> bytes:
    """Replaces the port's key by a fresh one of 256 bits, atomically. Returns it; raises NoKey."""
    key = b2a_base64(os.urandom(32), newline=False).translate(_URL_SAFE, b"=")
    temporary = f"{folder}/.{port}.new"
    try:
        if os.path.lexists(temporary):
            os.unlink(temporary)  # noqa: PTH108 - pathlib is slow to import
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(temporary, flags, 0o600)
        try:
            os.write(file, key + b"\n")
            os.fchmod(file, 0o640)
        finally:
            os.close(file)
        os.replace(temporary, f"{folder}/{port}.key")  # noqa: PTH105 - pathlib is slow to import
    except OSError as error:
        raise NoKey(
            f"cannot write the key of port {port} to {folder}: {error.strerror}; make room or run "
            "`systemd-tmpfiles --create`, then start the server again"
        ) from error
    return key


_URL_SAFE = bytes.maketrans(b"+/", b"-_")

if __name__ == "__main__":
    sys.exit(main())
