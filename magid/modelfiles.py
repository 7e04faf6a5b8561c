"""Finding a model's files as root, in folders that somebody else may write to.

Every folder on the way is opened by its name within the one above, never through a link, so that
nothing outside the model folders is ever reached, whatever is renamed meanwhile. What is found is
written down as device and inode, for gate.py to compare. Blocks: it is a handful of system calls.
"""

import os
import re
import stat
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Final

from magid.errors import InvalidInput, NotAllowed, ServerFailed
from magid.sandbox import CheckedFile

MAX_SHARDS: Final = 512
# Of the paths of one model in all. Each is in its unit's file three times, and a line of that file
# may have 1 MiB: at the next daemon-reload systemd would lose the command of a longer one.
MAX_PATHS_BYTES: Final = 128 * 1024
_MAX_LINKS: Final = 40  # as Linux counts

# As llama.cpp names them, and only so: it makes the other names out of the first one.
_SHARD = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})\.gguf", re.DOTALL)
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def real_roots(configured: Iterable[Path]) -> tuple[str, ...]:
    """The model folders that are there, links resolved; only links of root's are followed.

    Any other link could be put there by whoever may write to the folder it is in.
    """
    found = (_resolved(str(path)) for path in configured)
    return tuple(dict.fromkeys(path for path in found if path is not None))


def check_files(paths: Iterable[str], roots: Iterable[str]) -> tuple[CheckedFile, ...]:
    """Each file as it is now.

    Raises NotAllowed outside the roots and for anything but a regular file whose name ends in
    .gguf; ServerFailed if it is not there.
    """
    return tuple(_check(path, tuple(roots)) for path in paths)


def shards(path: str) -> tuple[str, ...]:
    """All files of the model whose first one this is. Pure. Raises InvalidInput."""
    match = _SHARD.fullmatch(path)
    if not match:
        return (path,)
    count = int(match[3])
    if int(match[2]) != 1 or not 1 <= count <= MAX_SHARDS:
        raise InvalidInput(
            f"cannot use {path}: it is not the first of at most {MAX_SHARDS} files of a model",
            field="spec.model_path",
        )
    size = count * len(path.encode())
    if size > MAX_PATHS_BYTES:
        raise InvalidInput(
            f"cannot use {path[:100]}...: the paths of its {count} files have {size} bytes in all, "
            f"and {MAX_PATHS_BYTES} is the most; move the model to a folder with a shorter path",
            field="spec.model_path",
        )
    return tuple(f"{match[1]}-{n:05}-of-{count:05}.gguf" for n in range(1, count + 1))


# -- one file --------------------------------------------------------------------------------


def _check(path: str, roots: tuple[str, ...]) -> CheckedFile:
    root = next((r for r in roots if PurePosixPath(path).is_relative_to(r)), None)
    if root is None or path == root:
        raise NotAllowed(f"cannot use {path}: it is in none of the model folders", path=path)
    if not path.lower().endswith(".gguf"):
        raise NotAllowed(f"cannot use {path}: its name does not end in .gguf", path=path)
    try:
        status = _status_without_links(path)
    except OSError as error:
        raise ServerFailed(f"cannot open the model file {path}: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):
        raise NotAllowed(f"cannot use {path}: it is no regular file", path=path)
    return CheckedFile(path, status.st_dev, status.st_ino)


def _status_without_links(path: str) -> os.stat_result:
    """Raises OSError, with ENOTDIR where a folder on the way is a link."""
    *folders, name = path.strip("/").split("/")
    with ExitStack() as held:
        above: int | None = None
        for folder in ("/", *folders):
            above = os.open(folder, _FOLDER, dir_fd=above)
            held.callback(os.close, above)
        return os.stat(name, dir_fd=above, follow_symlinks=False)


# -- a root ----------------------------------------------------------------------------------


def _resolved(path: str) -> str | None:
    """The path without links; None if it is not there, or is there by a link of somebody else's."""
    todo, done, links = path.split("/"), "", 0
    while todo:
        name = todo.pop(0)
        if name in ("", "."):
            continue
        if name == "..":
            done = done.rpartition("/")[0]
            continue
        here = f"{done}/{name}"
        try:
            target = _target(here)
        except OSError:
            return None
        if target is None:
            done = here
            continue
        links += 1
        if links > _MAX_LINKS:
            return None
        todo = [*target.split("/"), *todo]
        done = "" if target.startswith("/") else done
    return done or "/"


def _target(path: str) -> str | None:
    """Where a link of root's leads; None for anything but a link. OSError for another's link."""
    status = os.lstat(path)
    if not stat.S_ISLNK(status.st_mode):
        return None
    if status.st_uid != 0:
        raise PermissionError(f"{path} is a link that root has not made")
    return str(Path(path).readlink())
