"""One JSON document on disk that survives crashes, full disks, bad files and hasty editors.

A save returns only when the document is durable: written to a temporary file, synced, renamed over
the old one, and the directory synced. A crash at any instant leaves the old or the new document.
The previous documents stay next to it as NAME.1 (newest) to NAME.5, and a document that cannot be
used is renamed to NAME.corrupt-TIME; both are complete files that can be copied back by hand.

People may edit the file. Its checksum is then wrong; the document is used anyway if it is complete
and valid, with a note, because edits are far more common than a flipped bit that leaves valid JSON
with valid content.

Everything here blocks for some milliseconds, far longer on a busy disk: call it in a thread, one
call at a time.
"""

import errno
import hashlib
import json
import os
import secrets
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

from msgspec import Struct

from magid import __version__
from magid.errors import CannotWrite, MagidError
from magid.files.atomic import (
    REAL,
    FileSystem,
    cannot_write,
    discard,
    sync_directory,
    write_temporary,
)

FORMAT = 1  # a version that writes data which this one would lose has a higher number
MAX_BYTES = 64 * 2**20
MAX_CORRUPT = 5
BALLAST_BYTES = 64 * 1024
_LOST = 1000  # more revisions than a lost document can be ahead of its newest copy


T = TypeVar("T")


# -- the document --------------------------------------------------------------------------------


class Loaded(Struct, Generic[T], frozen=True):
    """The result of `Store.load`. `value` is None if there is no document that can be used."""

    value: T | None
    revision: int  # unique to this content, unless all copies were lost
    problems: tuple[str, ...]  # whole sentences for a person


class _Envelope(Struct, frozen=True):
    payload: Any
    revision: int
    edited: bool  # the checksum is wrong


class _Unusable(Exception):
    """This file cannot be the document; the text says why."""


class Store:
    """The document at `path`. The caller holds `lock`, so that there is one writer."""

    def __init__(
        self,
        path: Path,
        *,
        generations: int = 5,
        ballast_bytes: int = BALLAST_BYTES,
        files: FileSystem = REAL,
    ) -> None:
        # A link stays a link: writes replace its target, on the target's file system.
        self.path = Path(os.path.realpath(path))
        self._files = files
        self._generations = [self._beside(f".{n}") for n in range(1, generations + 1)]
        self._ballast = self._beside(".ballast")
        self._ballast_bytes = ballast_bytes
        self._revision = 0
        self._kept = False  # NAME.1 already holds the current document

    def _beside(self, suffix: str) -> Path:
        return self.path.with_name(self.path.name + suffix)

    # -- reading ---------------------------------------------------------------------------

    def load(self, validate: Callable[[Any], T]) -> Loaded[T]:
        """Returns the newest document that is complete and that `validate` accepts.

        `validate` makes the value from the decoded JSON and raises ValueError or MagidError if it
        cannot. Unusable files are renamed, and only the newest of them are kept. Raises CannotWrite
        if going on could lose data: the document has a newer format, or exists and may not be
        read. The daemon must not start then.
        """
        self._remove_leftovers()
        before = self._corrupt()
        problems: list[str] = []
        for path in (self.path, *self._generations):
            try:
                found = self._usable(path, validate)
            except _Unusable as error:
                problems.append(f"cannot use {path}: {error}; {self._set_aside(path)}")
                continue
            if found is not None:
                value, envelope = found
                break
        else:
            value, envelope = None, _Envelope(None, 0, edited=False)
            path = self.path
            if problems:
                problems.append(f"cannot find a good copy of {self.path}; starting without one")
        self._remove_surplus(before)
        problems += self._notes(path, envelope)
        self._revision = envelope.revision
        if path != self.path:
            self._revision += _LOST
        elif envelope.edited:
            self._revision += 1
        self._lay_ballast()
        return Loaded(value, self._revision, tuple(problems))

    def _usable(self, path: Path, validate: Callable[[Any], T]) -> tuple[T, _Envelope] | None:
        """None if there is no such file. Raises _Unusable, CannotWrite."""
        try:
            envelope = _read(path)
        except FileNotFoundError:
            return None
        try:
            return validate(envelope.payload), envelope
        except (ValueError, MagidError) as error:
            raise _Unusable(str(error)) from None

    def _notes(self, path: Path, envelope: _Envelope) -> list[str]:
        notes = []
        if path != self.path:
            notes.append(f"using the copy {path} of revision {envelope.revision} instead")
        if envelope.edited:
            notes.append(f"{path} was edited by hand: its checksum is wrong; using it as it is")
        return notes

    def _set_aside(self, path: Path) -> str:
        """Renames a bad file out of the way; returns where it is now, in words."""
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        target = self._beside(f".corrupt-{stamp}-{secrets.token_hex(2)}")
        try:
            self._files.rename(path, target)
        except OSError as error:
            self._kept = self._kept or path == self.path  # a bad file must not become NAME.1
            return f"it could not be renamed ({error.strerror})"
        return f"it was renamed to {target.name}"

    def _corrupt(self) -> list[Path]:
        """Returns the files that `_set_aside` has renamed, oldest first."""
        return sorted(self.path.parent.glob(f"{_escaped(self.path.name)}.corrupt-*"))

    def _remove_surplus(self, before: Sequence[Path]) -> None:
        """Removes old bad files when new ones were added; never one that a message has named."""
        count = len(self._corrupt())
        if count > len(before):
            for surplus in before[: max(0, count - MAX_CORRUPT)]:
                discard(surplus, self._files)

    def _remove_leftovers(self) -> None:
        """Removes a killed writer's files: no other process writes while we hold `lock`."""
        for path in self.path.parent.glob(f".{_escaped(self.path.name)}.*tmp"):
            discard(path, self._files)

    # -- writing ---------------------------------------------------------------------------

    def save(self, payload: Mapping[str, Any]) -> int:
        """Replaces the document; returns its revision once it is durable.

        Raises CannotWrite; the old document then stays, and the new revision is never used again.
        """
        self._revision += 1
        content = _serialise(self.path, payload, self._revision)
        try:
            self._replace(content)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self._drop_ballast():
                raise cannot_write(self.path, error) from None
            self._replace_again(content)
        self._kept = False
        self._lay_ballast()
        return self._revision

    def _replace_again(self, content: bytes) -> None:
        try:
            self._replace(content)
        except OSError as error:
            raise cannot_write(self.path, error) from None

    def _replace(self, content: bytes) -> None:
        temporary = write_temporary(self.path, content, mode=0o640, files=self._files)
        try:
            self._keep_present()
            self._files.rename(temporary, self.path)
        except BaseException:
            discard(temporary, self._files)
            raise
        try:
            sync_directory(self.path.parent, self._files)
        except OSError:
            self._put_back()
            raise

    def _put_back(self) -> None:
        """Restores the old document, so that a restart does not load the one that failed.

        Never raises. If the disk refuses this too, either document may be there after a crash.
        """
        spare = self.path.with_name(f".{self.path.name}.tmp")
        with suppress(OSError):
            if self._kept:
                discard(spare, self._files)
                self._copy(self._generations[0], spare)
                self._files.rename(spare, self.path)
            elif self._generations:  # there was no old document
                self._files.unlink(self.path)
            sync_directory(self.path.parent, self._files)

    def _keep_present(self) -> None:
        """Copies the current document to NAME.1, after renaming NAME.1 to NAME.2, and so on.

        The document itself stays in place throughout. Done once per document, or repeated failing
        saves would push the good copies out.
        """
        if self._kept or not self._generations or not self.path.is_file():
            return
        spare = self.path.with_name(f".{self.path.name}.tmp")
        discard(spare, self._files)
        self._copy(self.path, spare)
        for older, newer in pairwise(reversed(self._generations)):
            with suppress(FileNotFoundError):
                self._files.rename(newer, older)
        self._files.rename(spare, self._generations[0])
        self._kept = True

    def _copy(self, source: Path, target: Path) -> None:
        try:
            self._files.link(source, target)
        except OSError as error:
            # No hard links here (FAT, some network file systems), or none to a file of another
            # user (fs.protected_hardlinks), which an administrator's editor may have written.
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
                raise
            content = source.read_bytes()
            temporary = write_temporary(self.path, content, mode=0o640, files=self._files)
            self._files.rename(temporary, target)

    # -- reserve ---------------------------------------------------------------------------

    def _lay_ballast(self) -> None:
        """Reserves some space, so that one more change can be saved on a full disk."""
        if self._ballast_bytes == 0 or self._ballast.exists():
            return
        with suppress(OSError):
            # Random bytes, because a file system may compress.
            content = secrets.token_bytes(self._ballast_bytes)
            temporary = write_temporary(self._ballast, content, mode=0o600, files=self._files)
            self._files.rename(temporary, self._ballast)

    def _drop_ballast(self) -> bool:
        try:
            self._files.unlink(self._ballast)
        except OSError:
            return False
        return True


def _escaped(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _serialise(path: Path, payload: Mapping[str, Any], revision: int) -> bytes:
    try:
        document, content = _envelope(payload, revision)
        if _decode(content) != document:
            raise _Unusable("it would be read back changed")
    except (ValueError, TypeError, RecursionError, _Unusable) as error:
        raise CannotWrite(f"cannot write {path}: it cannot be put into JSON: {error}") from None
    if len(content) > MAX_BYTES:
        raise CannotWrite(f"cannot write {path}: it would be larger than {MAX_BYTES} bytes")
    return content


def _envelope(payload: Mapping[str, Any], revision: int) -> tuple[dict[str, Any], bytes]:
    document = {
        "format": FORMAT,
        "revision": revision,
        "writtenBy": f"magid {__version__}",
        "sha256": _checksum(payload, revision),
        "registry": payload,
    }
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return document, text.encode()


def _checksum(payload: Any, revision: int) -> str:
    content = json.dumps([revision, payload], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()


def _read(path: Path) -> _Envelope:
    """Raises FileNotFoundError, _Unusable, or CannotWrite if magid must not touch the file."""
    document = _decode(_content(path))
    if not isinstance(document, dict) or not isinstance(document.get("format"), int):
        raise _Unusable("it has no format number")
    if document["format"] > FORMAT:
        raise CannotWrite(
            f"cannot use {path}: it has format {document['format']}, written by "
            f"{document.get('writtenBy', 'a newer magid')}, and this magid knows up to {FORMAT}; "
            "install that version again, or move the file away",
            path=str(path),
        )
    revision = document.get("revision")
    if type(revision) is not int or not 0 <= revision < 2**53 or "registry" not in document:
        raise _Unusable("its revision or content is missing")
    payload = document["registry"]
    edited = document.get("sha256") != _checksum(payload, revision)
    return _Envelope(payload, revision, edited)


def _content(path: Path) -> bytes:
    """Raises as `_read` does. Does not block on a FIFO, and does not read from a device."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _unreadable(path, error) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _Unusable("it is not a regular file")
        if status.st_size > MAX_BYTES:
            raise _Unusable(f"it is larger than {MAX_BYTES} bytes")
        return b"".join(iter(lambda: os.read(descriptor, 2**20), b""))
    except OSError as error:
        raise _unreadable(path, error) from None
    finally:
        os.close(descriptor)


def _unreadable(path: Path, error: OSError) -> Exception:
    """Returns _Unusable if the file itself is bad, CannotWrite if the cause may be temporary."""
    if error.errno in (errno.EIO, errno.ELOOP, errno.ENXIO):
        return _Unusable(error.strerror)
    refused = error.errno in (errno.EACCES, errno.EPERM)
    advice = "make it readable for the user that runs magid" if refused else "fix that, then start"
    name = errno.errorcode.get(error.errno or 0, "")
    return CannotWrite(
        f"cannot read {path}: {error.strerror}; {advice}", path=str(path), errno=name
    )


def _decode(content: bytes) -> Any:
    """Parses strict JSON: no NaN, no duplicate keys, UTF-8 only. Raises _Unusable."""
    try:
        return json.loads(
            content.decode(), parse_constant=_no_constant, object_pairs_hook=_distinct
        )
    except (ValueError, RecursionError) as error:
        raise _Unusable(f"it is not valid JSON: {error}") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        raise ValueError("a key is given twice")
    return data


def why_unusable(path: Path, validate: Callable[[Any], object]) -> str:
    """Returns why the document at `path` cannot be loaded; "" if it can, or does not exist.

    Changes nothing and needs no lock. `validate` is as for `Store.load`.
    """
    try:
        validate(_read(path).payload)
    except FileNotFoundError:
        return ""
    except (ValueError, MagidError, _Unusable) as error:
        return str(error)
    return ""
