"""Entries for systemd's journal, by its native protocol: one datagram each, of many fields.

The protocol is systemd's JOURNAL_NATIVE_PROTOCOL.md. Debian's python3-systemd speaks it too, but is
not there in a virtual environment and takes longer to import than all of this.
"""

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Mapping
from typing import Final

SOCKET: Final = "/run/systemd/journal/socket"
_BUFFER_BYTES: Final = 8 * 1024 * 1024  # as sd_journal_send(3) has it
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
_TOO_BIG: Final = (errno.EMSGSIZE, errno.ENOBUFS)


class JournalSocket:
    """Never waits for the journal. Needs no `close` if the process ends with it."""

    def __init__(self, path: str = SOCKET) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)

    def send(self, fields: Mapping[str, str]) -> None:
        """One entry. Raises BlockingIOError if the journal is busy, OSError if there is none."""
        data = encoded(fields)
        try:
            self._socket.sendto(data, self._path)
        except OSError as error:
            if error.errno not in _TOO_BIG:
                raise
            self._send_as_file(data)

    def _send_as_file(self, data: bytes) -> None:
        """Journald takes a file only if it can no longer be changed."""
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
    """A value of several lines goes with its length, so that no text can begin a field. Pure."""
    return b"".join(_field(name.encode("ascii"), value) for name, value in fields.items())


def _field(name: bytes, value: str) -> bytes:
    data = value.encode(errors="backslashreplace")
    if b"\n" not in data:
        return b"%s=%s\n" % (name, data)
    return b"%s\n%s%s\n" % (name, struct.pack("<Q", len(data)), data)
