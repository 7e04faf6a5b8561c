"""The lock on a state directory: one magid at a time writes in it."""

import fcntl
import os
from pathlib import Path

from magid.errors import AlreadyRunning
from magid.files.atomic import cannot_write


class Lock:
    """The lock, held until `release` or the end of the process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        """Idempotent."""
        if self._descriptor >= 0:
            # Closing is not enough: a child between fork and exec still has the file open.
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)
            self._descriptor = -1


def lock(state_dir: Path) -> Lock:
    """Locks the state directory for this process; creates the directory if it does not exist.

    Raises AlreadyRunning with the pid of the holder, CannotWrite if the lock file cannot be used.
    The kernel releases the lock when the process ends, however that happens; children do not
    inherit it.
    """
    path = state_dir / "magid.lock"
    try:
        state_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o640)
    except OSError as error:
        raise cannot_write(path, error) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise AlreadyRunning(
            f"cannot use {state_dir}: magid with pid {holder or 'unknown'} is using it; stop "
            "that one, or set another state_dir (MAGI_STATE_DIR)",
            pid=int(holder) if holder.isascii() and holder.isdigit() else None,
        ) from None
    except OSError as error:
        os.close(descriptor)
        raise cannot_write(path, error) from None
    return Lock(descriptor)


def is_held(state_dir: Path) -> bool:
    """Whether a magid is using this state directory, by the kernel's table. Takes no lock."""
    try:
        inode = (state_dir / "magid.lock").stat().st_ino
        table = Path("/proc/locks").read_text()
    except OSError:
        return False
    rows = (line.split() for line in table.splitlines())
    return any("FLOCK" in row and any(f.endswith(f":{inode}") for f in row) for row in rows)
