"""`magi-key`: makes a new key for every process of a model's server.

A unit loads its key, as a credential, from a socket that PID 1 holds. So every start has a new key,
whether magid, a person or systemd itself starts the server; magid and the launcher need not run.
systemd starts this program with the first connection; it answers one after another, which takes no
time, and ends when none has come for an hour.
Each connection stands for one process: systemd connects as root before it starts the process, from
an abstract address that names the unit, and passes the key to the server and to wait_ready.py.

PORT.key is root:magi 0640, in a folder root:magi 02750, which `launcher.keys` looks after: magid
may read a key, but neither replace it nor put another file in its place.

A connection for which no key can be made is closed, with a line on stderr that says why: then
exec_model.py refuses to go on. Imports little, because it delays a start. Exit status: 0 when idle,
1 if systemd did not start it by its socket.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from binascii import b2a_base64

FOLDER = "/run/magi-keys"
_PATIENCE_S = 10.0
_IDLE_S = 3600.0
_SOCKET = 3  # sd_listen_fds(3): the first descriptor
_HEXADECIMAL = frozenset(b"0123456789abcdef")


class NoKey(Exception):
    """No key was made; the text says why."""


def main() -> int:
    """Answers connections until none has come for an hour; returns the exit status."""
    environment = os.environ
    if environment.get("LISTEN_PID") != str(os.getpid()) or environment.get("LISTEN_FDS") != "1":
        sys.stderr.write("error: cannot listen: only magi-key.socket may start this program\n")
        return 1
    with socket.socket(fileno=_SOCKET) as listening:
        serve(listening, FOLDER, _IDLE_S)
    return 0


def serve(listening: socket.socket, folder: str, idle_s: float) -> None:
    """Answers each connection; returns when none has come for so long."""
    listening.settimeout(idle_s)
    while True:
        try:
            connection, _ = listening.accept()
        except TimeoutError:
            return
        with connection:
            connection.settimeout(_PATIENCE_S)
            try:
                answer(connection, folder)
            except (NoKey, OSError) as error:
                sys.stderr.write(f"error: {error}\n")
                sys.stderr.flush()


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
    is_port = port.isdigit() and len(port) <= 5 and port == b"%d" % int(port)  # no second spelling
    is_port = is_port and 0 < int(port) < 65_536  # as systemd.unit_names.port_in
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
