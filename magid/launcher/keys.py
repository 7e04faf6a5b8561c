"""The keys of the servers that systemd runs: made by root, read by magid.

PORT.key, root:magi 0640, in a folder root:magi 0750: magid may read a key, and neither replace one
nor put another file in its place. `keymaker` writes them, the launcher drops those of servers that
are gone.
"""

import grp
import os
import secrets
from collections.abc import Container
from contextlib import suppress
from pathlib import Path
from typing import Final

from magid.errors import CannotWrite

KEYS: Final = Path("/run/magi-keys")


class KeyRing:
    """Where the keys are; `group` is the one that may read them. Tiny writes to memory: blocks."""

    def __init__(self, folder: Path, group: str) -> None:
        self._folder = folder
        self._group = group

    def prepare(self) -> None:
        """See that the folder hands its group on to the keys (set-group-id). Raises CannotWrite.

        Who writes a key may not give files to a group: systemd-tmpfiles makes the folder.
        """
        try:
            self._folder.mkdir(mode=0o750, exist_ok=True)
            status = self._folder.lstat()
            if (status.st_uid, status.st_gid, status.st_mode & 0o7777) != (0, self._gid(), 0o2750):
                os.chown(self._folder, 0, self._gid(), follow_symlinks=False)
                self._folder.chmod(0o2750)
        except OSError as error:
            raise CannotWrite(
                f"cannot keep server keys in {self._folder}: {error.strerror}; run "
                "`systemd-tmpfiles --create`"
            ) from error

    def write_new(self, port: int) -> str:
        """A fresh 256-bit key in place of the old one, whole at every moment; CannotWrite."""
        key = secrets.token_urlsafe(32)
        temporary = self._folder / f".{int(port)}.new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            temporary.unlink(missing_ok=True)
            with os.fdopen(os.open(temporary, flags, 0o600), "w") as file:
                file.write(key + "\n")
                file.flush()
                os.fchmod(file.fileno(), 0o640)
            temporary.replace(self.path(port))
        except OSError as error:
            raise CannotWrite(
                f"cannot write the key of port {port} to {self._folder}: {error.strerror}; make "
                "room or run `systemd-tmpfiles --create`, then start the server again"
            ) from error
        return key

    def path(self, port: int) -> Path:
        return self._folder / f"{int(port)}.key"

    def remove(self, port: int) -> None:
        """Idempotent; a file that cannot be removed holds a key that opens nothing."""
        with suppress(OSError):
            self.path(port).unlink()

    def keep_only(self, ports: Container[int]) -> None:
        """Drop the keys of servers that are gone."""
        for path in self._folder.glob("*.key"):
            if not (path.stem.isdigit() and int(path.stem) in ports):
                path.unlink(missing_ok=True)

    def _gid(self) -> int:
        try:
            return grp.getgrnam(self._group).gr_gid
        except KeyError:
            return 0
