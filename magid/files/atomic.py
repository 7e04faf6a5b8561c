"""Durable writes: the file is on disk when the call returns, or the error says why not.

Everything here blocks for some milliseconds, far longer on a busy disk: call it in a thread.
"""

import errno
import os
import re
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from magid.errors import CannotWrite


class FileSystem(Struct, frozen=True):
    """The system calls that a write makes, so that a test can let each of them fail."""

    open: Callable[..., int] = os.open
    write: Callable[[int, bytes | memoryview], int] = os.write
    fsync: Callable[[int], None] = os.fsync
    close: Callable[[int], None] = os.close
    link: Callable[[Path, Path], None] = os.link
    rename: Callable[[Path, Path], None] = os.rename
    unlink: Callable[[Path], None] = os.unlink


REAL = FileSystem()


def write_temporary(path: Path, content: bytes, *, mode: int, files: FileSystem = REAL) -> Path:
    """Writes a new synced file next to `path`, under a hidden name that ends in `.tmp`.

    Next to it, because a rename is atomic only within one file system. Leaves nothing behind if it
    fails. Raises OSError. A failed fsync is final for that file: the kernel may have dropped the
    data and would report success the second time.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = files.open(temporary, flags, mode)
    try:
        try:
            _write_all(files, descriptor, content)
            files.fsync(descriptor)
        finally:
            files.close(descriptor)
    except BaseException:
        discard(temporary, files)
        raise
    return temporary


def replace_file(path: Path, content: bytes, *, mode: int, files: FileSystem = REAL) -> None:
    """Replaces the file durably. Raises OSError; then usually the old file is still there."""
    temporary = write_temporary(path, content, mode=mode, files=files)
    try:
        files.rename(temporary, path)
    except BaseException:
        discard(temporary, files)
        raise
    sync_directory(path.parent, files)


def discard_leftovers(folder: Path, suffix: str, files: FileSystem = REAL) -> None:
    """Removes temporary files of this suffix that killed processes left behind.

    Only the one process that writes in this folder may call it. Never fails.
    """
    with suppress(OSError):
        for path in folder.glob(f".*{suffix}.*.tmp"):
            found = _TEMPORARY.fullmatch(path.name)
            if found and int(found[1]) != os.getpid():
                discard(path, files)


_TEMPORARY = re.compile(r"\..+\.([0-9]+)\.[0-9a-f]{8}\.tmp")


def _write_all(files: FileSystem, descriptor: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        with suppress(InterruptedError):
            written = files.write(descriptor, rest)
            if written <= 0:
                raise OSError(errno.EIO, "nothing could be written")
            rest = rest[written:]


def sync_directory(path: Path, files: FileSystem = REAL) -> None:
    """Makes renames, links and removals in this directory durable. Raises OSError."""
    descriptor = files.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        files.fsync(descriptor)
    finally:
        files.close(descriptor)


def discard(path: Path, files: FileSystem = REAL) -> None:
    """Removes the file if possible. Never fails: the caller is reporting another error."""
    with suppress(OSError):
        files.unlink(path)


_ADVICE: Mapping[int, str] = {
    errno.ENOSPC: "free some space on that disk",
    errno.EDQUOT: "free some space, or raise the quota",
    errno.EROFS: "mount it read-write, or choose another folder",
    errno.EACCES: "make its folder writable for the user that runs magid",
    errno.EPERM: "make its folder writable for the user that runs magid",
    errno.EIO: "check the disk: the kernel log says more",
    errno.ENOENT: "create its folder",
    errno.ENOTDIR: "one of its parents is a file: replace it with a folder",
    errno.EISDIR: "a folder has this name: move it away",
    errno.EFBIG: "raise the file size limit of this process",
}


def cannot_write(path: Path, error: OSError) -> CannotWrite:
    """Translates an OSError into the error for users, with the path and what to do."""
    why = error.strerror or str(error)
    advice = _ADVICE.get(error.errno or 0, "fix that, then try again")
    name = errno.errorcode.get(error.errno or 0, "")
    return CannotWrite(f"cannot write {path}: {why}; {advice}", path=str(path), errno=name)
