"""Files that are on disk once the call has returned, and say why when they are not.

Everything here blocks for some milliseconds, and far longer on a busy disk: call it in a thread.
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
    """A new synced file beside `path`, under a hidden name that ends in `.tmp`.

    Beside it, because only within one file system a rename is atomic. Leaves nothing behind when
    it fails. Raises OSError. A failed fsync is final for that file: the kernel may have dropped
    the data and would call a second one a success.
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


def discard_leftovers(folder: Path, suffix: str, files: FileSystem = REAL) -> None:
    """Remove what writers of files with this suffix left here who were killed at it.

    For the only process that writes here. Never fails; files of another name stay.
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
    """Make renames, links and removals in this directory durable. Raises OSError."""
    descriptor = files.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        files.fsync(descriptor)
    finally:
        files.close(descriptor)


def discard(path: Path, files: FileSystem = REAL) -> None:
    """Remove the file if that is possible, in silence: something else is being reported."""
    with suppress(OSError):
        files.unlink(path)


_ADVICE: Mapping[int, str] = {
    errno.ENOSPC: "free some space on that disk",
    errno.EDQUOT: "free some space, or raise the quota",
    errno.EROFS: "mount it read-write, or choose another place",
    errno.EACCES: "make its folder writable for the user that runs magid",
    errno.EPERM: "make its folder writable for the user that runs magid",
    errno.EIO: "check the disk: the kernel log says more",
    errno.ENOENT: "create its folder",
    errno.ENOTDIR: "a folder is needed where a file is",
    errno.EISDIR: "move the folder that is in its place away",
    errno.EFBIG: "raise the limit of file sizes of this process",
}


def cannot_write(path: Path, error: OSError) -> CannotWrite:
    """The system's refusal, with the path and what to do about it."""
    why = error.strerror or str(error)
    advice = _ADVICE.get(error.errno or 0, "see to it, then try again")
    name = errno.errorcode.get(error.errno or 0, "")
    return CannotWrite(f"cannot write {path}: {why}; {advice}", path=str(path), errno=name)
