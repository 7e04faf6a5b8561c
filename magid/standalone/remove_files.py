"""Removes files of a model below one folder, and says as JSON what it has freed.

    remove_files.py [DEV:INO:]ROOT DEV:INO:PATH...

Every folder of a path is opened by its name within its parent, never through a link and never on
another file system than ROOT's: whatever is renamed meanwhile, nothing outside it is reached. With
DEV:INO, ROOT has to be that folder, because systemd binds into a unit what is there by then. A file
is first moved to a name of our own within its folder, so that what is compared with DEV:INO is what
is removed; a file that is another one gets its name back. Links are removed, not followed.
Folders that are empty then go too, but for ROOT, and so does a hidden file that says where a model
came from (`.FILE.origin.json`).

Runs as `python3 -I -S` with the standard library only, as root in a unit that may write to ROOT
alone, or as magid's user. The answer is a list with an object for each file: `path`, `freed` bytes,
`links` that are left to a file of several names, `problem`. Exit status 2 for wrong arguments.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import stat
import sys
from contextlib import ExitStack, suppress

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ROOT = re.compile(r"(?:([0-9]{1,20}):([0-9]{1,20}):)?(/.+)", re.DOTALL)
_FILE = re.compile(r"([0-9]{1,20}):([0-9]{1,20}):(/.+)", re.DOTALL)
# As model files are named: with their ending, or after their content in a cache or a store.
_NAME = re.compile(r".*\.gguf|[0-9a-f]{40}|(?:sha256-)?[0-9a-f]{64}", re.DOTALL | re.IGNORECASE)
_BLOCK = 512  # bytes of st_blocks, whatever the file system has


def main(arguments: list[str]) -> int:
    if len(arguments) < 2 or (top := _ROOT.fullmatch(arguments[0])) is None:
        return 2
    found = [_FILE.fullmatch(file) for file in arguments[1:]]
    if not all(found):
        return 2
    seen = (int(top[1]), int(top[2])) if top[1] else None
    answer = [
        removed(top[3], match[3], (int(match[1]), int(match[2])), seen) for match in found if match
    ]
    sys.stdout.write(json.dumps(answer))
    return 0


def removed(
    root: str, path: str, identity: tuple[int, int], seen: tuple[int, int] | None = None
) -> dict[str, object]:
    """Removes a file, if it is the one of this device and inode; returns its answer.

    `seen` are those of the root; None: whatever folder is there.
    """
    try:
        freed, links = _remove(root, path, identity, seen)
    except OSError as error:
        return {"path": path, "freed": 0, "links": 0, "problem": error.strerror or str(error)}
    return {"path": path, "freed": freed, "links": links, "problem": ""}


def _remove(
    root: str, path: str, identity: tuple[int, int], seen: tuple[int, int] | None
) -> tuple[int, int]:
    *folders, name = _parts_below(root, path)
    if not _NAME.fullmatch(name):
        raise OSError("it has not the name of a model file")
    with ExitStack() as held:
        opened = [_open_root(root, held)]
        top = os.fstat(opened[0])
        device = top.st_dev
        if seen not in (None, (device, top.st_ino)):
            raise OSError(f"{root} was replaced by another folder meanwhile")
        for folder in folders:
            opened.append(os.open(folder, _FOLDER, dir_fd=opened[-1]))
            held.callback(os.close, opened[-1])
            if os.fstat(opened[-1]).st_dev != device:
                raise OSError("it is on another file system, which is mounted there")
        freed, links = _unlink(opened[-1], name, identity)
        with suppress(OSError):
            os.unlink(f".{name}.origin.json", dir_fd=opened[-1])
        _drop_empty(opened, folders)
        return freed, links


def _parts_below(root: str, path: str) -> list[str]:
    top = root.rstrip("/") + "/"
    parts = path.removeprefix(top).split("/")
    if not path.startswith(top) or {"", ".", ".."} & set(parts):
        raise OSError(f"it is not below {root}")
    return parts


def _open_root(root: str, held: ExitStack) -> int:
    above = os.open("/", _FOLDER)
    held.callback(os.close, above)
    for part in root.strip("/").split("/"):
        above = os.open(part, _FOLDER, dir_fd=above)
        held.callback(os.close, above)
    return above


def _unlink(folder: int, name: str, identity: tuple[int, int]) -> tuple[int, int]:
    """Returns the bytes that were freed, and how many other names the file has."""
    _check(os.stat(name, dir_fd=folder, follow_symlinks=False), identity)
    aside = f".removing-{secrets.token_hex(8)}"
    os.rename(name, aside, src_dir_fd=folder, dst_dir_fd=folder)
    status = os.stat(aside, dir_fd=folder, follow_symlinks=False)
    try:
        _check(status, identity)
    except OSError:
        _give_back(folder, aside, name, status.st_mode)
        raise
    os.unlink(aside, dir_fd=folder)
    os.fsync(folder)
    if not stat.S_ISREG(status.st_mode):
        return 0, 0
    links = status.st_nlink - 1
    return (0 if links else status.st_blocks * _BLOCK), links


def _give_back(folder: int, aside: str, name: str, mode: int) -> None:
    """Gives what is not ours to remove its name back. Raises OSError.

    A name that was taken meanwhile is not replaced: the file stays under ours then. A link is made
    again, because another user's is not to be had under a second name (protected_hardlinks).
    """
    if stat.S_ISDIR(mode):
        os.rename(aside, name, src_dir_fd=folder, dst_dir_fd=folder)
        return
    if stat.S_ISLNK(mode):
        os.symlink(os.readlink(aside, dir_fd=folder), name, dir_fd=folder)
    else:
        os.link(aside, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    os.unlink(aside, dir_fd=folder)


def _check(status: os.stat_result, identity: tuple[int, int]) -> None:
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)):
        raise OSError("it is no file")
    if (status.st_dev, status.st_ino) != identity:
        raise OSError("it was replaced by another file meanwhile")


def _drop_empty(opened: list[int], folders: list[str]) -> None:
    """Removes the folders that are empty now, from the innermost on."""
    with suppress(OSError):  # it is not empty, or not ours
        for above, folder in zip(reversed(opened[:-1]), reversed(folders), strict=True):
            os.rmdir(folder, dir_fd=above)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
