"""Reads and writes the folder of profiles; parses each file once per change."""

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from msgspec import Struct
from msgspec.structs import replace

from magid.catalog.profile import (
    SLUG,
    Profile,
    TextFault,
    check_slug,
    parse,
    profile_not_found,
    slug,
)
from magid.errors import (
    CannotWrite,
    Conflict,
    InvalidProfile,
    ProfileExists,
    ProfileNotFound,
    StaleRevision,
    TooLarge,
)
from magid.files import schema, strict_yaml
from magid.files.atomic import (
    REAL,
    FileSystem,
    cannot_write,
    discard,
    discard_leftovers,
    replace_file,
    sync_directory,
    write_temporary,
)
from magid.files.strict_yaml import YamlError

_SUFFIX = ".yaml"
# A file that changed this recently may change again within one tick of its clock.
_SETTLED_NS = 2_000_000_000


# -- the folder ----------------------------------------------------------------------------------


class _Known(Struct, frozen=True):
    """A file's content when it was last read."""

    key: tuple[int, ...]  # device, inode, size and times
    settled: bool  # an unchanged key proves unchanged content
    revision: str
    profile: Profile | None
    problem: str  # why there is no profile


class ProfileText(Struct, frozen=True):
    """A profile's file as it is."""

    text: str
    revision: str
    faults: tuple[TextFault, ...]  # why it cannot be used


class ProfileDir:
    """The profiles in one folder. Methods block for a few small file accesses.

    `shipped` is a read-only folder of further profiles; a file in `path` replaces its namesake
    there. So an upgrade of magid keeps the replacement, and deleting it brings the shipped profile
    back.

    Reading an unchanged file takes one `stat`. Only one caller may write at a time; the revision
    reveals changes by an editor.
    """

    def __init__(
        self, path: Path, shipped: Path | None = None, *, files: FileSystem = REAL
    ) -> None:
        self.path = path
        self._shipped = shipped
        self._files = files
        self._known: dict[str, _Known] = {}
        # By name, until it is read: revision and content.
        self._written: dict[str, tuple[str, Profile]] = {}

    def list(self) -> list[str]:
        """Returns the sorted names of all profiles, including broken ones. Never raises."""
        folders = (self.path,) if self._shipped is None else (self.path, self._shipped)
        return sorted({name for folder in folders for name in _names(folder)})

    def get(self, name: str) -> Profile:
        """Returns a profile. Raises ProfileNotFound, or InvalidProfile with file, line and key."""
        known = self._current(name)
        if known.profile is None:
            raise InvalidProfile(known.problem, profileName=name)
        return known.profile

    def revision(self, name: str) -> str:
        """Returns a hash of the file's content; "" if there is no such profile."""
        try:
            return self._current(name).revision
        except ProfileNotFound:
            return ""

    def text(self, name: str) -> ProfileText:
        """Returns the profile's file as it is, also of one that cannot be used.

        Raises ProfileNotFound, InvalidProfile if it cannot be read as text.
        """
        path = self._place(name)
        try:
            content, _ = strict_yaml.read_bytes(path)
            text = content.decode()
        except FileNotFoundError:
            raise profile_not_found(name) from None
        except OSError as error:
            raise InvalidProfile(f"cannot read {path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise InvalidProfile(f"cannot read {path}: it is not UTF-8; save it so") from None
        except YamlError as error:
            raise InvalidProfile(str(error)) from None
        revision, known = _hash(content), self._known.get(name)
        if known is not None and known.revision == revision and known.profile is not None:
            return ProfileText(text, revision, ())
        return ProfileText(text, revision, _faults_in(content, str(path)))

    def create(self, profile: Profile, text: str | None = None) -> tuple[str, Path]:
        """Writes a new profile; returns its slug and the path of its file.

        `text` is the profile as a person wrote it, which then is the file's content.

        Raises ProfileExists, InvalidInput if the name has no slug, TooLarge, CannotWrite.
        """
        name = slug(profile.name)
        path = self._path(name)
        if self._is_shipped(name) and not os.path.lexists(path):
            raise _exists(name, self._place(name))
        content = self._content(name, profile, text)
        with self._writing(path):
            temporary = write_temporary(path, content, mode=0o644, files=self._files)
            try:
                self._files.link(temporary, path)  # unlike a rename, it never replaces
            except FileExistsError:
                raise _exists(name, path) from None
            finally:
                discard(temporary, self._files)
            sync_directory(self.path, self._files)
        return name, path

    def replace(
        self, name: str, profile: Profile, expected_revision: str | None, text: str | None = None
    ) -> None:
        """Replaces the content of a profile, even a broken one; its file name stays.

        `text`: see `create`. Raises ProfileNotFound, StaleRevision if the revision is not the
        expected one, TooLarge, CannotWrite.
        """
        if expected_revision not in (None, self._current(name).revision):
            raise StaleRevision(
                f"cannot replace profile {name!r}: it has changed since you read it; read it again",
                profileName=name,
            )
        path = self._path(name)
        if path.is_symlink():
            raise CannotWrite(
                f"cannot write {path}: it is a symbolic link; edit the file that it points to",
                path=str(path),
            )
        content = self._content(name, profile, text)
        with self._writing(path):
            replace_file(path, content, mode=0o644, files=self._files)

    def delete(self, name: str) -> None:
        """Deletes the file; of a link, only the link.

        Raises ProfileNotFound, CannotWrite, Conflict for a shipped profile.
        """
        path = self._path(name)
        if self._is_shipped(name) and not os.path.lexists(path):
            raise Conflict(
                f"cannot delete profile {name!r}: it comes with magid; PUT "
                f"/api/models/profiles/{name} to replace it",
                profileName=name,
            )
        self._written.pop(name, None)
        with self._writing(path):
            try:
                self._files.unlink(path)
            except FileNotFoundError:
                raise profile_not_found(name) from None
            sync_directory(self.path, self._files)

    def _content(self, name: str, profile: Profile, text: str | None) -> bytes:
        """Returns what to write, of which is noted what it says until it is read.

        So the event loop, which sees the new file first, need not parse it: 64 KiB of YAML take a
        second.
        """
        content = _to_yaml(profile) if text is None else text.encode()
        self._written[name] = (_hash(content), profile)
        return content

    def _path(self, name: str) -> Path:
        return self.path / (check_slug(name) + _SUFFIX)

    def _place(self, name: str) -> Path:
        """Returns the path that the profile is read from."""
        path = self._path(name)
        if self._is_shipped(name) and not os.path.lexists(path):
            assert self._shipped is not None
            return self._shipped / path.name
        return path

    def _is_shipped(self, name: str) -> bool:
        return self._shipped is not None and (self._shipped / (name + _SUFFIX)).is_file()

    @contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        discard_leftovers(self.path, _SUFFIX, self._files)
        try:
            yield
        except BaseException as error:
            self._written.pop(path.stem, None)
            if isinstance(error, OSError):
                raise cannot_write(path, error) from None
            raise

    def _current(self, name: str) -> _Known:
        path = self._place(name)
        known = self._known.get(name)
        if known is not None and known.settled and _key_of(path) == known.key:
            return known
        written = self._written.get(name)
        known = _read(path, name, known, written)
        self._known[name] = known
        if written is not None and written[0] == known.revision:
            self._written.pop(name, None)  # one that came since is parsed
        return known


def _names(folder: Path) -> Iterator[str]:
    """Yields the profiles in this folder; none if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            found = [entry.name for entry in entries if _is_file(entry)]
    except OSError:
        return
    for name in found:
        stem = name.removesuffix(_SUFFIX)
        if name.endswith(_SUFFIX) and SLUG.fullmatch(stem):
            yield stem


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def _key_of(path: Path) -> tuple[int, ...] | None:
    try:
        return _key(path.stat())
    except OSError:
        return None


def _key(status: os.stat_result) -> tuple[int, ...]:
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def _read(
    path: Path, name: str, before: _Known | None, written: tuple[str, Profile] | None
) -> _Known:
    """Reads the file; parses it only if its content is neither that of `before` nor `written`."""
    try:
        content, status = strict_yaml.read_bytes(path)
    except FileNotFoundError:
        raise profile_not_found(name) from None
    except OSError as error:
        return _unread(f"cannot read {path}: {error.strerror}")
    except YamlError as error:
        return _unread(str(error))
    settled = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > _SETTLED_NS
    revision = _hash(content)
    if before is not None and before.revision == revision:
        return replace(before, key=_key(status), settled=settled)
    if written is not None and written[0] == revision:
        return _Known(_key(status), settled, revision, written[1], "")
    try:
        return _Known(_key(status), settled, revision, parse(content, str(path)), "")
    except InvalidProfile as error:
        return _Known(_key(status), settled, revision, None, error.message)


def _faults_in(content: bytes, source: str) -> tuple[TextFault, ...]:
    try:
        parse(content, source)
    except InvalidProfile as error:
        return tuple(cast("list[TextFault]", error.details["errors"]))
    return ()


def _unread(reason: str) -> _Known:
    return _Known((), False, _hash(reason.encode()), None, reason)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def _exists(name: str, path: Path) -> ProfileExists:
    return ProfileExists(
        f"cannot create profile {name!r}: {path} exists already; choose another name, "
        f"or PUT /api/models/profiles/{name} to replace it",
        profileName=name,
    )


def _to_yaml(profile: Profile) -> bytes:
    data: dict[str, Any] = schema.plain(profile)
    try:
        return strict_yaml.dumps(data).encode()
    except YamlError as error:
        raise TooLarge(f"cannot write profile {profile.name!r}: {error.reason}") from None
