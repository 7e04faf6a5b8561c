"""The throw-away copy that a container runs on: an overlay over the layers, or a plain copy.

A folder is locked by the session that made it. One whose lock is free belongs to a session that was
killed, and is removed by the next.
"""

import contextlib
import fcntl
import functools
import secrets
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from tests.lab import cgroups
from tests.lab.layers import home, locked, output, remove


def overlay_options(folder: Path, layers: Sequence[Path]) -> str:
    lower = ":".join(map(str, layers))
    return f"lowerdir={lower},upperdir={folder}/upper,workdir={folder}/work"


def runs() -> Path:
    """Where the throw-away copies are."""
    return home() / "run"


class Folder:
    """The place of one container: made locked, so that a sweep leaves it alone."""

    def __init__(self, layers: Sequence[Path], *, copied: bool) -> None:
        with locked(home() / "run.lock"):
            _sweep()
            self.name = f"magi-lab-{secrets.token_hex(4)}"
            self.path = runs() / self.name
            self.path.mkdir(parents=True, mode=0o700)
            self._lock = _lock(self.path)
        self.root = self.path / "root"
        for part in (self.root, self.path / "upper", self.path / "work"):
            part.mkdir()
            part.chmod(0o755)  # becomes the `/` of the container
        self.options = "" if copied else overlay_options(self.path, layers)
        if copied:
            self._copy(layers)

    def _copy(self, layers: Sequence[Path]) -> None:
        try:
            for layer in reversed(layers):
                output(["cp", "-a", "--reflink=auto", f"{layer}/.", str(self.root)])
        except BaseException:  # a full disk, an interrupt
            self.remove()
            raise

    def remove(self) -> None:
        """Idempotent. The container must have ended.

        No sweep meanwhile: one that found the folder without its lock file would make another.
        """
        try:
            with locked(home() / "run.lock"):
                _remove(self.path)
        finally:
            self._lock.close()


@functools.cache
def overlay_works(layers: tuple[Path, ...]) -> bool:
    """Whether the cache's file system can be one half of an overlay mount."""
    folder = Folder(layers, copied=False)
    try:
        command = ["mount", "-t", "overlay", "overlay", "-o", folder.options, str(folder.root)]
        done = subprocess.run(["unshare", "--mount", *command], capture_output=True, check=False)
        return done.returncode == 0
    finally:
        folder.remove()


def sweep_up() -> None:
    """Remove what killed sessions left; also done whenever a folder is made."""
    with locked(home() / "run.lock"):
        _sweep()


def _sweep() -> None:
    for path in runs().glob("magi-lab-*"):
        with contextlib.suppress(BlockingIOError), _lock(path):
            _remove(path)


def _lock(path: Path) -> IO[str]:
    """Raises BlockingIOError when another session holds it."""
    handle = (path / "lock").open("a")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        raise
    return handle


def _remove(path: Path) -> None:
    cgroups.remove(path.name)
    remove(path)
