"""Writes entries to systemd's journal by its native protocol: one datagram of fields per entry.

The protocol is described in systemd's JOURNAL_NATIVE_PROTOCOL.md. Debian's python3-systemd has it
too, but is missing in a virtual environment, and importing it takes longer than all of this.
"""

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Mapping
from typing import Final

SOCKET: Final = "/run/systemd/journal/socket"
_BUFFER_BYTES: Final = 8 * 1024 * 1024  # as in sd_journal_send(3)
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
_TOO_BIG: Final = (errno.EMSGSIZE, errno.ENOBUFS)


class JournalSocket:
    """A socket to the journal, which never blocks."""

    def __init__(self, path: str = SOCKET) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)

    def send(self, fields: Mapping[str, str]) -> None:
        """Sends one entry. Raises BlockingIOError if the journal is busy, OSError without one."""
        data = encoded(fields)
        try:
            self._socket.sendto(data, self._path)
        except OSError as error:
            if error.errno not in _TOO_BIG:
                raise
            self._send_as_file(data)

    def _send_as_file(self, data: bytes) -> None:
        """Sends a big entry as a memfd; journald accepts only sealed ones."""
        file = os.memfd_create("journal-entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            with os.fdopen(os.dup(file), "wb") as writing:
                writing.write(data)
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", file))
            self._socket.sendmsg([], [rights], 0, self._path)
        finally:
            os.close(file)

    def close(self) -> None:
        self._socket.close()


def encoded(fields: Mapping[str, str]) -> bytes:
    """Encodes an entry. Multi-line values have their length, so they cannot add fields. Pure."""
    return b"".join(_field(name.encode("ascii"), value) for name, value in fields.items())


def _field(name: bytes, value: str) -> bytes:
    data = value.encode(errors="backslashreplace")
    if b"\n" not in data:
        return b"%s=%s\n" % (name, data)
    return b"%s\n%s%s\n" % (name, struct.pack("<Q", len(data)), data)
