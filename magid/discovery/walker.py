"""Walks the model folders and lists their GGUF files, by names and `stat` only.

No file is opened. A model folder is called a root here. Each root is walked in its own process (see
`header_workers`), because it may be a mount that does not answer; `join` combines the results.

- The walk enters every folder below a root, except hidden ones (`.cache`, `.git`, a trash) and
  links to folders: so there are no loops, and nothing outside the roots is read. A link to a
  folder with models elsewhere is reported (see `links`).
- A file counts if its name ends in `.gguf`, in any case, and does not begin with a dot, as the
  temporary files of rsync and macOS do.
- A link to a file is followed if it leads to a regular file below a root, as in the cache of
  Hugging Face (`snapshots/` into `blobs/`). The link's name is the model's name.
- A file with a downloader's marker file is unfinished (see `downloads`).
- In such a cache, the revision counts that `main` names (see `hub_cache`).
- In a store of Ollama, the blobs count that a manifest names (see `ollama_store`).
- A file with several names counts once: by the first name in path order, real names before links.
"""

import os
import stat
from collections.abc import Callable, Container, Iterable, Sequence
from itertools import chain
from typing import Final, NamedTuple, TypeAlias

from msgspec import Struct, field
from msgspec.structs import replace

from magid.discovery import downloads, hub_cache, ollama_store

NO_ANSWER: Final = "is a link to a file system that does not answer"

StatKey: TypeAlias = tuple[int, int, int, int, int]
"""dev, ino, size, mtime_ns, ctime_ns. A program can set the mtime, but not the ctime."""


class File(NamedTuple):
    """One GGUF file. A tuple, because a thousand of them are compared quickly."""

    path: str  # absolute, with the folder's links resolved; its last part names the model
    real: str  # the same, or the target if `path` is a link
    key: StatKey

    @property
    def folder(self) -> str:
        return self.path.rpartition("/")[0]

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


class RootListing(Struct):
    """The content of one root. Links are not followed yet: they may lead into another root."""

    top: str  # the root, with its links resolved
    files: list[File] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    marks: list[str] = field(default_factory=list)  # marker files of downloaders
    revisions: list[tuple[str, str]] = field(default_factory=list)  # folder, commit of `main`
    broken: list[tuple[str, str]] = field(default_factory=list)  # path, reason
    reason: str = ""  # why the root cannot be read
    is_absent: bool = False
    is_late: bool = False  # it has not answered
    empty: list[str] = field(default_factory=list)  # folders without any entry


class UnreadableRoot(Struct, frozen=True):
    """A model folder that cannot be read at present, and why."""

    path: str  # links resolved, printable
    reason: str
    is_absent: bool = False
    is_late: bool = False  # it has not answered, so its known models still count


class Listing(Struct):
    """The content of all roots. A reason is for a person and follows the path: "is empty"."""

    files: list[File] = field(default_factory=list)  # in path order
    broken: list[tuple[str, str]] = field(default_factory=list)  # path, reason
    unreadable_roots: list[UnreadableRoot] = field(default_factory=list)
    late: tuple[str, ...] = ()  # the tops of roots that have not answered
    unfinished: dict[str, str] = field(default_factory=dict)  # path -> name of its marker file
    marks: frozenset[str] = frozenset()  # the paths of all marker files
    empty: tuple[str, ...] = ()  # folders without any entry, printable


def walk(root: str, others: Container[str], heartbeat: Callable[[], None]) -> RootListing:
    """Walks one root, except for folders that are roots too. Blocks; never raises OSError.

    Calls `heartbeat` for every entry.
    """
    listing = RootListing(os.path.realpath(root))
    pending: list[str] = []
    try:
        _list_folder(listing.top, pending, listing, heartbeat)
    except OSError as error:
        listing.reason = _unreadable(error)
        listing.is_absent = isinstance(error, FileNotFoundError)
    while pending:
        folder = pending.pop()
        if folder in others:
            continue
        try:
            _list_folder(folder, pending, listing, heartbeat)
        except OSError as error:
            listing.broken.append((printable(folder), _unreadable(error)))
        if commit := hub_cache.main_revision(folder):
            listing.revisions.append((folder, commit))
    return listing


def join(listings: Sequence[RootListing], linked: Iterable[File | tuple[str, str]]) -> Listing:
    """Combines the roots. `linked` has the target of each link, or the reason for none. Pure."""
    found = Listing(
        late=tuple(listing.top for listing in listings if listing.is_late),
        empty=tuple(
            sorted({printable(folder) for listing in listings for folder in listing.empty})
        ),
    )
    broken = {one for listing in listings for one in listing.broken}
    real = sorted(file for listing in listings for file in listing.files)
    behind = []
    for one in linked:
        if isinstance(one, File):
            behind.append(one)
        elif one[1]:
            broken.add(one)
    found.files = _each_once(_current(chain(real, sorted(behind)), listings))
    found.files.sort()
    found.marks = frozenset(mark for listing in listings for mark in listing.marks)
    found.unfinished = _unfinished(found)
    marked = {f"{file.rpartition('/')[0]}/{mark}" for file, mark in found.unfinished.items()}
    broken.update((mark, downloads.ALONE) for mark in found.marks - marked)
    found.broken = sorted(broken)
    unreadable = {
        UnreadableRoot(
            printable(listing.top), listing.reason, listing.is_absent, listing.is_late
        ): None
        for listing in listings
        if listing.reason
    }
    found.unreadable_roots = list(unreadable)
    return found


def _current(files: Iterable[File], listings: Sequence[RootListing]) -> Iterable[File]:
    """Leaves out files that another revision replaces in a cache of huggingface_hub."""
    main = dict(one for listing in listings for one in listing.revisions)
    if not main:
        return files
    listed = list(files)
    kept = set(hub_cache.current(listed, main))
    return (file for file in listed if file in kept)


def _unfinished(found: Listing) -> dict[str, str]:
    """Returns the unfinished files, with the names of their marker files."""
    paths = {file.path for file in found.files}
    marked = {}
    for mark in sorted(found.marks):
        folder, _, name = mark.rpartition("/")
        file = f"{folder}/{downloads.file_of(name)}"
        if file in paths:
            marked[file] = name
    return marked


def with_known(found: Listing, known: Iterable[File]) -> Listing:
    """Adds the known files of roots and links that do not answer: they may still exist. Pure."""
    silent = {path for path, reason in found.broken if reason == NO_ANSWER}
    if not (silent or found.late):
        return found
    kept = [file for file in known if file.path in silent or is_below(file.path, found.late)]
    back = {file.path for file in kept}
    files = _each_once(sorted(chain(found.files, kept)))
    broken = [one for one in found.broken if one[0] not in back]
    return replace(found, files=files, broken=broken)


def printable(path: str) -> str:
    """Returns the path as text for JSON; bytes that are not UTF-8 become `\\xff`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def is_below(path: str, folders: Iterable[str]) -> bool:
    return path.startswith(tuple(folder.rstrip("/") + "/" for folder in folders))


def _unreadable(error: OSError) -> str:
    return f"cannot be read: {error.strerror}"


def _list_folder(
    folder: str, subfolders: list[str], found: RootListing, heartbeat: Callable[[], None]
) -> None:
    is_empty = True
    first = len(subfolders)
    with os.scandir(folder) as entries:
        for entry in entries:
            is_empty = False
            heartbeat()
            _sort_in(entry, subfolders, found)
    if is_empty:
        found.empty.append(folder)
    if ollama_store.is_store({path.rpartition("/")[2] for path in subfolders[first:]}):
        others = [one for one in subfolders[first:] if not ollama_store.is_of_store(one)]
        subfolders[first:] = others
        _list_store(folder, found, heartbeat)


def _list_store(folder: str, found: RootListing, heartbeat: Callable[[], None]) -> None:
    """Adds the layers that are GGUF files; what else lies in a store is none of a model's."""
    for one in ollama_store.manifests(folder):
        heartbeat()
        if isinstance(one, tuple):
            found.broken.append(one)
            continue
        for path, blob in one.listed():
            try:
                status = os.lstat(blob)
            except OSError as error:
                found.broken.append((path, f"lacks its file {blob}: {error.strerror}"))
                continue
            if stat.S_ISREG(status.st_mode):
                found.files.append(File(path, blob, stat_key(status)))
            else:
                found.broken.append((path, f"lacks its file: {blob} is not a regular file"))


def _sort_in(entry: os.DirEntry[str], subfolders: list[str], found: RootListing) -> None:
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


def _add_file(entry: os.DirEntry[str], found: RootListing) -> None:
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
    seen: set[tuple[object, ...]] = set()
    once = []
    for file in files:
        # Models of a store of Ollama may share a projector, and each needs it beside itself.
        inode = (*file.key[:2], file.folder if ollama_store.is_projector(*file[:2]) else "")
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
