"""The API keys of servers that are child processes."""

import os
import secrets
from contextlib import suppress
from pathlib import Path

from magid.errors import CannotWrite


class KeyFiles:
    """PORT.key with mode 0600 in a folder with mode 0700; a new key for every process.

    Files, not pipes: llama-server accepts nothing else. Tiny writes without fsync: a key need not
    outlive its process.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()

    def path(self, port: int) -> Path:
        return self._folder / f"{port}.key"

    def prepare(self) -> None:
        """Creates the folder and removes keys of an earlier magid. Raises CannotWrite."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for left in self._folder.glob("*.key"):
                left.unlink(missing_ok=True)
        except OSError as error:
            raise CannotWrite(
                f"cannot keep server keys in {self._folder}: {error.strerror}; "
                "give magid a state directory that it can write to"
            ) from error

    def write_new(self, port: int) -> str:
        """Writes a new 256-bit key to its file and returns it. Raises CannotWrite."""
        key = secrets.token_urlsafe(32)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self.path(port).unlink(missing_ok=True)
            with os.fdopen(os.open(self.path(port), flags, 0o600), "w") as file:
                file.write(key + "\n")
        except OSError as error:
            raise CannotWrite(
                f"cannot write the key of port {port} to {self._folder}: {error.strerror}; "
                "make room or permit it, then start the server again"
            ) from error
        return key

    def remove(self, port: int) -> None:
        """Removes the key. Idempotent.

        A file that cannot be removed holds a key that opens nothing.
        """
        with suppress(OSError):
            self.path(port).unlink()
