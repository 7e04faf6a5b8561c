"""Copies a folder, a file or a tar archive into an empty folder of its user alone.

Regular files, folders and links within are taken, nothing else: no devices, pipes, absolute paths,
`..`, links that lead out, set-user-id bits or owners. Links are made last, so that none of them
redirects a file. All of it is bounded. Blocks.
"""

import os
import shutil
import stat
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import IO, Final

from msgspec import Struct

from magid.errors import InvalidInput

MAX_BYTES: Final = 16 << 30
MAX_ENTRIES: Final = 50_000
_MAX_PATH: Final = 1024  # characters
_PIECE: Final = 1 << 20
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class _Entry(Struct):
    """One thing to make. `content` is open for a regular file; `target` is set for a link."""

    path: PurePosixPath
    is_program: bool = False
    content: IO[bytes] | None = None
    target: str = ""


def unpack_archive(
    archive: IO[bytes],
    folder: Path,
    *,
    max_bytes: int = MAX_BYTES,
    max_entries: int = MAX_ENTRIES,
) -> None:
    """Unpacks a tar archive: plain, or with gzip, bzip2 or xz. Raises InvalidInput, OSError."""
    try:
        with tarfile.open(fileobj=archive, mode="r|*") as tar:
            _make(_of_archive(tar), folder, max_bytes, max_entries)
    except (tarfile.TarError, EOFError, UnicodeError) as error:
        raise InvalidInput(f"cannot unpack it: it is no tar archive, or broken: {error}") from None


def copy_folder(source: Path, folder: Path) -> None:
    """Copies what is in `source`. Raises InvalidInput, OSError.

    Its owner may swap folders for links meanwhile: each is opened within the one above.
    """
    top = os.open(source, _FOLDER)
    try:
        _make(_of_folder(top, PurePosixPath()), folder, MAX_BYTES, MAX_ENTRIES)
    finally:
        os.close(top)


def write_program(content: IO[bytes], path: Path) -> None:
    """Writes one executable file that does not exist yet. Raises InvalidInput, OSError."""
    _write(_Entry(PurePosixPath(path.name), is_program=True, content=content), path, MAX_BYTES)


def _make(entries: Iterator[_Entry], folder: Path, max_bytes: int, max_entries: int) -> None:
    links: dict[PurePosixPath, str] = {}
    left = max_bytes
    for number, entry in enumerate(entries):
        if number >= max_entries:
            raise InvalidInput(f"cannot unpack it: it has more entries than {max_entries}")
        if entry.path in links:
            raise InvalidInput(f"cannot unpack it: it has {entry.path} twice")
        if entry.target:
            links[entry.path] = entry.target
        elif entry.content is not None:
            (folder / entry.path).parent.mkdir(0o755, parents=True, exist_ok=True)
            left -= _write(entry, folder / entry.path, left)
        else:
            (folder / entry.path).mkdir(0o755, parents=True, exist_ok=True)
    for path, target in links.items():
        if not links.keys().isdisjoint(path.parents):
            raise InvalidInput(f"cannot unpack it: {path} is below a link")
        (folder / path).parent.mkdir(0o755, parents=True, exist_ok=True)
        (folder / path).symlink_to(target)


def _write(entry: _Entry, path: Path, left: int) -> int:
    """Writes a file that does not exist yet, to the disk. Returns its size."""
    assert entry.content is not None
    size = 0
    mode = 0o755 if entry.is_program else 0o644
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, mode)
    except FileExistsError:
        raise InvalidInput(f"cannot unpack it: it has {entry.path} twice") from None
    with open(descriptor, "wb") as file:  # noqa: PTH123 - of a descriptor
        os.fchmod(descriptor, mode)  # whatever the umask is
        while piece := entry.content.read(_PIECE):
            size += len(piece)
            if size > left:
                raise InvalidInput("cannot unpack it: its files are too large together")
            file.write(piece)
        file.flush()
        os.fsync(descriptor)
    return size


# -- what there is to make -------------------------------------------------------------------


def _of_archive(tar: tarfile.TarFile) -> Iterator[_Entry]:
    for member in tar:
        path = _path(member.name)
        if path is None:
            continue
        if member.isdir():
            yield _Entry(path)
        elif member.isreg():
            yield _Entry(path, bool(member.mode & 0o111), content=tar.extractfile(member))
        elif member.issym():
            yield _Entry(path, target=_target(path, member.linkname))
        elif member.islnk():
            linked = _path(member.linkname)
            up = "../" * (len(path.parts) - 1)
            yield _Entry(path, target=_target(path, f"{up}{linked or '.'}"))
        else:
            raise InvalidInput(f"cannot unpack it: {path} is no file, folder or link")


def _of_folder(folder: int, below: PurePosixPath) -> Iterator[_Entry]:
    for name in sorted(os.listdir(folder)):
        path = _path(str(below / name))
        assert path is not None
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        if stat.S_ISLNK(mode):
            yield _Entry(path, target=_target(path, os.readlink(name, dir_fd=folder)))
        elif stat.S_ISDIR(mode):
            yield _Entry(path)
            inner = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
            try:
                yield from _of_folder(inner, path)
            finally:
                os.close(inner)
        else:
            yield from _of_file(folder, path)


def _of_file(folder: int, path: PurePosixPath) -> Iterator[_Entry]:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(path.name, flags, dir_fd=folder), "rb") as file:  # noqa: PTH123 - by its folder
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise InvalidInput(f"cannot copy {path}: it is no file, folder or link")
        yield _Entry(path, bool(status.st_mode & 0o111), content=file)


def _path(name: str) -> PurePosixPath | None:
    """Returns the path of an entry; None for the top itself. Raises InvalidInput."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or len(name) > _MAX_PATH or "\0" in name:
        raise InvalidInput(f"cannot unpack it: {name[:100]!r} does not stay within it")
    return path if path.parts else None


def _target(path: PurePosixPath, target: str) -> str:
    """Returns the target of a link, if it stays within. Raises InvalidInput.

    Its text tells, because no link is below another one: `..` comes first only, as what it means
    behind a name depends on whether that is a link.
    """
    parts = PurePosixPath(target).parts
    ups = next((at for at, part in enumerate(parts) if part != ".."), len(parts))
    stays = ups <= len(path.parts) - 1 and not {"..", "/"} & set(parts[ups:])
    if stays and target and "\0" not in target and len(target) <= _MAX_PATH:
        return target
    raise InvalidInput(f"cannot unpack it: the link {path} leads out of it, to {target[:100]!r}")


def remove_tree(folder: Path) -> None:
    """Removes a folder that no other user may write to; of a link, the link. Idempotent."""
    if folder.is_symlink():
        with suppress(OSError):
            folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)
