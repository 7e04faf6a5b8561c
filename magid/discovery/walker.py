"""Walk the model folders: which GGUF files are there, and what cannot be one.

Decides by names and `stat` alone; no file is opened. Each root is walked on its own
(see `header_workers`), because it may be a mount that does not answer; then all are joined.

- Every folder below a root is entered, except hidden ones (`.cache`, `.git`, a trash) and links
  to folders: so there are no loops and nothing outside the roots is seen. A link to a folder with
  models elsewhere is told (see `links`).
- A file counts if its name ends in `.gguf` in any case and does not begin with a dot (rsync's and
  macOS's leftovers do).
- A link to a file is followed if the file is a regular one below a root, which is how a Hugging
  Face cache is laid out (`snapshots/` into `blobs/`). The link's name is the model's name.
- A file with that of a downloader beside it is unfinished (see `downloads`).
- Of the revisions in such a cache, the one that `main` names counts (see `hub_cache`).
- Each file counts once, however many names lead to it: the first in path order, real names first.
"""

import os
import stat
from collections.abc import Callable, Container, Iterable, Sequence
from itertools import chain
from typing import Final, NamedTuple, TypeAlias

from msgspec import Struct, field
from msgspec.structs import replace

from magid.discovery import downloads, hub_cache

NO_ANSWER: Final = "is a link to a file system that does not answer"

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


class Look(Struct):
    """What one root showed. Links are not followed yet: they may lead into another root."""

    top: str  # the root's own links resolved
    files: list[File] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    marks: list[str] = field(default_factory=list)  # files that downloaders keep beside theirs
    revisions: list[tuple[str, str]] = field(default_factory=list)  # folder, commit of `main`
    broken: list[tuple[str, str]] = field(default_factory=list)  # path, reason
    reason: str = ""  # why the root cannot be read
    is_absent: bool = False
    is_late: bool = False  # it has not answered
    empty: list[str] = field(default_factory=list)  # folders that hold nothing at all


class UnreadableRoot(Struct, frozen=True):
    """A model folder of which nothing can be seen at present, and why."""

    path: str  # links resolved, printable
    reason: str
    is_absent: bool = False
    is_late: bool = False  # it has not answered: what was known of it still counts


class Listing(Struct):
    """What all roots showed. Reasons are for a person and do not repeat the path."""

    files: list[File] = field(default_factory=list)  # in path order
    broken: list[tuple[str, str]] = field(default_factory=list)  # path, reason
    unreadable_roots: list[UnreadableRoot] = field(default_factory=list)
    late: tuple[str, ...] = ()  # the tops of roots that have not answered
    unfinished: dict[str, str] = field(default_factory=dict)  # path of a file -> name of its mark
    marks: frozenset[str] = frozenset()  # the paths of all marks
    empty: tuple[str, ...] = ()  # folders that hold nothing at all, printable


def look_at(root: str, others: Container[str], tell: Callable[[], None]) -> Look:
    """Walk one root, but for the folders that are other roots. Blocks; never raises OSError.

    `tell` is called while it goes on.
    """
    look = Look(os.path.realpath(root))
    pending: list[str] = []
    try:
        _list_folder(look.top, pending, look, tell)
    except OSError as error:
        look.reason = _unreadable(error)
        look.is_absent = isinstance(error, FileNotFoundError)
    while pending:
        folder = pending.pop()
        if folder in others:
            continue
        try:
            _list_folder(folder, pending, look, tell)
        except OSError as error:
            look.broken.append((printable(folder), _unreadable(error)))
        if commit := hub_cache.main_revision(folder):
            look.revisions.append((folder, commit))
    return look


def join(looks: Sequence[Look], linked: Iterable[File | tuple[str, str]]) -> Listing:
    """All of it as one; `linked` is what became of the links. Pure."""
    found = Listing(
        late=tuple(look.top for look in looks if look.is_late),
        empty=tuple(sorted({printable(folder) for look in looks for folder in look.empty})),
    )
    broken = {one for look in looks for one in look.broken}
    real = sorted(file for look in looks for file in look.files)
    behind = []
    for one in linked:
        if isinstance(one, File):
            behind.append(one)
        elif one[1]:
            broken.add(one)
    found.files = _each_once(_current(chain(real, sorted(behind)), looks))
    found.files.sort()
    found.marks = frozenset(mark for look in looks for mark in look.marks)
    found.unfinished = _unfinished(found)
    marked = {f"{file.rpartition('/')[0]}/{mark}" for file, mark in found.unfinished.items()}
    broken.update((mark, downloads.ALONE) for mark in found.marks - marked)
    found.broken = sorted(broken)
    unreadable = {
        UnreadableRoot(printable(look.top), look.reason, look.is_absent, look.is_late): None
        for look in looks
        if look.reason
    }
    found.unreadable_roots = list(unreadable)
    return found


def _current(files: Iterable[File], looks: Sequence[Look]) -> Iterable[File]:
    """Without what another revision replaces in a cache of huggingface_hub."""
    main = dict(one for look in looks for one in look.revisions)
    if not main:
        return files
    listed = list(files)
    kept = set(hub_cache.current(listed, main))
    return (file for file in listed if file in kept)


def _unfinished(found: Listing) -> dict[str, str]:
    """The files that are there and not complete, with the names of their marks."""
    paths = {file.path for file in found.files}
    marked = {}
    for mark in sorted(found.marks):
        folder, _, name = mark.rpartition("/")
        file = f"{folder}/{downloads.file_of(name)}"
        if file in paths:
            marked[file] = name
    return marked


def with_known(found: Listing, known: Iterable[File]) -> Listing:
    """Of what does not answer, what was known before is taken to be there still. Pure."""
    silent = {path for path, reason in found.broken if reason == NO_ANSWER}
    if not (silent or found.late):
        return found
    kept = [file for file in known if file.path in silent or is_below(file.path, found.late)]
    back = {file.path for file in kept}
    files = _each_once(sorted(chain(found.files, kept)))
    broken = [one for one in found.broken if one[0] not in back]
    return replace(found, files=files, broken=broken)


def printable(path: str) -> str:
    """A path that can go into JSON: bytes that are no UTF-8 are shown as `\\xff`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def is_below(path: str, folders: Iterable[str]) -> bool:
    return path.startswith(tuple(folder.rstrip("/") + "/" for folder in folders))


def why_unusable(path: str) -> tuple[str, str] | None:
    """What cannot be done with a model's file (open, read), and why. Blocks."""
    try:
        regular = stat.S_ISREG(os.stat(path).st_mode)  # noqa: PTH116 - pathlib would only wrap it
    except OSError as error:
        return "open", error.strerror or str(error)
    if not regular or not os.access(path, os.R_OK):
        return "read", "check its permissions"
    return None


def _unreadable(error: OSError) -> str:
    return f"cannot be read: {error.strerror}"


def _list_folder(folder: str, subfolders: list[str], found: Look, tell: Callable[[], None]) -> None:
    is_empty = True
    with os.scandir(folder) as entries:
        for entry in entries:
            is_empty = False
            tell()
            _sort_in(entry, subfolders, found)
    if is_empty:
        found.empty.append(folder)


def _sort_in(entry: os.DirEntry[str], subfolders: list[str], found: Look) -> None:
    name = entry.name
    if name[0] == ".":
        return
    if entry.is_dir(follow_symlinks=False):
        subfolders.append(entry.path)
    elif name[-5:].lower() != ".gguf":
        if not is_utf8(entry.path):
            return
        if downloads.file_of(name):
            found.marks.append(entry.path)
        elif entry.is_symlink():
            found.links.append(entry.path)
    elif not is_utf8(entry.path):
        reason = "has a name that is not valid UTF-8; rename the file or its folder"
        found.broken.append((printable(entry.path), reason))
    elif entry.is_symlink():
        found.links.append(entry.path)
    else:
        _add_file(entry, found)


def _add_file(entry: os.DirEntry[str], found: Look) -> None:
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:  # gone since the folder was listed
        return
    except OSError as error:
        found.broken.append((entry.path, _unreadable(error)))
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


def _each_once(files: Iterable[File]) -> list[File]:
    seen: set[tuple[int, ...]] = set()
    once = []
    for file in files:
        inode = file.key[:2]
        if inode not in seen:
            seen.add(inode)
            once.append(file)
    return once


def is_utf8(path: str) -> bool:
    if path.isascii():
        return True
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
