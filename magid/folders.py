"""Walk the model folders: which GGUF files are there, and what cannot be one.

Decides by names and `stat` alone; no file is opened.

- Every folder below a root is entered, except hidden ones (`.cache`, `.git`, a trash) and links
  to folders: so there are no loops and nothing outside the roots is seen.
- A file counts if its name ends in `.gguf` in any case and does not begin with a dot (rsync's and
  macOS's leftovers do).
- A link to a file is followed if the file is a regular one below a root, which is how a Hugging
  Face cache is laid out (`snapshots/` into `blobs/`). The link's name is the model's name.
- Each file counts once, however many names lead to it: the first in path order, real names first.
"""

import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TypeAlias

StatKey: TypeAlias = tuple[int, int, int, int, int]
"""dev, ino, size, mtime_ns, ctime_ns: who replaces a file can keep its mtime, but not its ctime."""


class File(NamedTuple):
    """One GGUF file. A tuple, so that comparing a thousand of them takes no time."""

    path: str  # absolute, the folder's links resolved; the name is the one that counts
    real: str  # the same, or where the link leads
    key: StatKey

    @property
    def folder(self) -> str:
        return self.path.rpartition("/")[0]

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


@dataclass(slots=True)
class Listing:
    """What one walk saw. Reasons are for a person and do not repeat the path."""

    files: list[File] = field(default_factory=list)  # in path order
    broken: list[tuple[str, str]] = field(default_factory=list)  # path, reason
    unreadable_roots: list[tuple[str, str]] = field(default_factory=list)


def walk(roots: Sequence[Path]) -> Listing:
    """List all GGUF files below the roots. Blocks. Never raises for what is on disk."""
    found = Listing()
    links: list[str] = []
    tops = [os.path.realpath(root) for root in roots]
    visited: set[str] = set()
    for top in tops:
        if reason := _walk_root(top, visited, found, links):
            found.unreadable_roots.append((printable(top), reason))
    within = tuple(top.rstrip("/") + "/" for top in tops)
    found.files.sort()
    linked = [file for link in sorted(links) if (file := _follow(link, within, found.broken))]
    found.files = _each_once(chain(found.files, linked))
    if linked:
        found.files.sort()
    found.broken.sort()
    return found


def printable(path: str) -> str:
    """A path that can go into JSON: bytes that are no UTF-8 are shown as `\\xff`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _walk_root(top: str, visited: set[str], found: Listing, links: list[str]) -> str | None:
    """Walk one root, without what was visited from another; the reason if it is unreadable."""
    if top in visited:
        return None
    pending: list[str] = []
    if reason := _list_folder(top, pending, found, links):
        return reason
    visited.add(top)
    while pending:
        folder = pending.pop()
        if folder in visited:
            continue
        visited.add(folder)
        if reason := _list_folder(folder, pending, found, links):
            found.broken.append((printable(folder), reason))
    return None


def _list_folder(
    folder: str, subfolders: list[str], found: Listing, links: list[str]
) -> str | None:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                _sort_in(entry, subfolders, found, links)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None


def _sort_in(
    entry: os.DirEntry[str], subfolders: list[str], found: Listing, links: list[str]
) -> None:
    name = entry.name
    if name[0] == ".":
        return
    if entry.is_dir(follow_symlinks=False):
        subfolders.append(entry.path)
    elif name[-5:].lower() != ".gguf":
        return
    elif not _is_utf8(entry.path):
        reason = "has a name that is not valid UTF-8; rename the file or its folder"
        found.broken.append((printable(entry.path), reason))
    elif entry.is_symlink():
        links.append(entry.path)
    else:
        _add_file(entry, found)


def _add_file(entry: os.DirEntry[str], found: Listing) -> None:
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:  # gone since the folder was listed
        return
    except OSError as error:
        found.broken.append((entry.path, f"cannot be read: {error.strerror}"))
        return
    if stat.S_ISREG(status.st_mode):
        found.files.append(File(entry.path, entry.path, stat_key(status)))
    else:
        found.broken.append((entry.path, "is not a regular file"))


def stat_key(status: os.stat_result) -> StatKey:
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def _follow(link: str, within: tuple[str, ...], broken: list[tuple[str, str]]) -> File | None:
    """The file behind a link. The target is looked at as it is: if it became a link, it is none."""
    try:
        target = os.path.realpath(link, strict=True)
        status = os.lstat(target)
    except FileNotFoundError:
        broken.append((link, "is a link to a file that is not there"))
    except OSError as error:  # among them ELOOP
        broken.append((link, f"is a link that cannot be followed: {error.strerror}"))
    else:
        if reason := _refused(target, status, within):
            broken.append((link, reason))
        else:
            return File(link, target, stat_key(status))
    return None


def _refused(target: str, status: os.stat_result, within: tuple[str, ...]) -> str | None:
    if not _is_utf8(target):
        return "is a link to a file whose name is not valid UTF-8"
    if not target.startswith(within):
        return "is a link to a file outside the model folders; add that folder to them"
    if not stat.S_ISREG(status.st_mode):
        return "is a link to something that is not a regular file"
    return None


def _each_once(files: Iterable[File]) -> list[File]:
    seen: set[tuple[int, ...]] = set()
    once = []
    for file in files:
        inode = file.key[:2]
        if inode not in seen:
            seen.add(inode)
            once.append(file)
    return once


def _is_utf8(path: str) -> bool:
    if path.isascii():
        return True
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
