"""The keys of the servers that systemd runs: made by root, read by magid.

`magi-key` (`standalone.make_key`) writes the keys; the launcher looks after their folder, and
removes the keys of servers that are gone.
"""

import grp
import os
from collections.abc import Container
from contextlib import suppress
from pathlib import Path
from typing import Final

from magid.errors import CannotWrite
from magid.standalone.make_key import FOLDER

KEYS: Final = Path(FOLDER)


class KeyRing:
    """The folder of the keys; `group` may read them. Methods block: tiny writes to memory."""

    def __init__(self, folder: Path, group: str) -> None:
        self._folder = folder
        self._group = group

    def prepare(self) -> None:
        """Ensures that the keys inherit the folder's group (set-group-id). Raises CannotWrite.

        `magi-key` may not change a file's group. systemd-tmpfiles makes the folder.
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

    def path(self, port: int) -> Path:
        return self._folder / f"{int(port)}.key"

    def remove(self, port: int) -> None:
        """Removes the key. Idempotent. Ignores errors: a key that stays opens nothing."""
        with suppress(OSError):
            self.path(port).unlink()

    def keep_only(self, ports: Container[int]) -> None:
        """Removes the keys of all other ports: their servers are gone."""
        for path in self._folder.glob("*.key"):
            if not (path.stem.isdigit() and int(path.stem) in ports):
                path.unlink(missing_ok=True)

    def _gid(self) -> int:
        try:
            return grp.getgrnam(self._group).gr_gid
        except KeyError:
            return 0
