"""A download's folder: what it is for, how far it is, and whether a process is at work on it.

    LIBRARY/.downloads/ID/status.json   written by the process, for everyone to read
                          lock          held by the process while it lives
                          N.part        file N, as far as it is here

The folder is hidden, so a scan for models does not enter it. Only the process of the job writes it;
whether a process works on a job is told by its lock, which the kernel drops with the process.
"""

import fcntl
import json
import os
import re
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from magid.errors import InvalidInput
from magid.library.shared_files import new_file, opened, read_at_once
from magid.library.source import ModelSource, checked, is_file_path, is_job_id

JOBS: Final = ".downloads"
STATES: Final = ("queued", "downloading", "paused", "verifying", "done", "failed")
ACTIVE: Final = ("queued", "downloading", "verifying")
STATUS: Final = "status.json"
LOCK: Final = "lock"
MAX_STATUS_BYTES: Final = 1 << 20
MAX_BYTES: Final = 2**60  # of a file
_LATEST: Final = 1e11  # seconds since the epoch
_BROKEN: Final = (ValueError, TypeError, KeyError, RecursionError)  # of files
_OID: Final = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
_FLOCK: Final = "hhqqi4x"  # struct flock of <fcntl.h> on 64-bit machines


@dataclass(slots=True)
class PlannedFile:
    """One file of a job. `done` bytes of it are here; `is_whole` once its digest was right."""

    path: str
    size: int
    oid: str
    done: int = 0
    etag: str = ""
    is_whole: bool = False


@dataclass(slots=True)
class JobStatus:
    """All that is known of a job. Times are seconds since the epoch, sizes bytes."""

    id: str
    source: ModelSource
    created_at: float
    state: str = "queued"
    code: str = ""  # of a failure: a stable name
    reason: str = ""  # why it failed or waits, for a person
    notes: list[str] = field(default_factory=list)  # what a person should know besides
    commit: str = ""
    licence: str = ""
    files: list[PlannedFile] = field(default_factory=list)
    rate: float = 0.0  # bytes per second, of late
    updated_at: float = 0.0
    was_stopped: bool = False  # by a signal: a boot resumes it, unlike one that a person paused

    @property
    def total(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def done(self) -> int:
        return sum(file.done for file in self.files)


def jobs_folder(library: Path) -> Path:
    """Returns the folder of all jobs."""
    return library / JOBS


def write_status(folder: Path, status: JobStatus, *, durably: bool) -> None:
    """Replaces the job's status, in one step. Raises OSError."""
    path = folder / STATUS
    new = folder / f"{STATUS}.new"
    with new_file(new) as file:
        json.dump(asdict(status), file)
        if durably:
            file.flush()
            os.fsync(file.fileno())
    new.replace(path)
    if durably:
        sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Makes names in a folder durable. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_status(folder: Path) -> JobStatus | None:
    """Returns the job's status; None if there is none that can be used."""
    return parsed_status(status_bytes(folder, MAX_STATUS_BYTES))


def status_bytes(folder: Path, most: int) -> bytes:
    """Returns at most so many bytes of the job's status; none if it cannot be read."""
    with suppress(OSError):
        return read_at_once(folder / STATUS, most)
    return b""


def parsed_status(content: bytes) -> JobStatus | None:
    """Returns the status that these bytes are; None if they are none that can be used."""
    with suppress(*_BROKEN):
        return status_in(json.loads(content))
    return None


def status_in(body: Mapping[str, Any]) -> JobStatus:
    """Returns the status that a mapping holds. Raises ValueError, TypeError and KeyError.

    Whatever wrote it spoke to other machines, so each value is checked.
    """
    status = JobStatus(**{
        **body,
        "source": _source(body["source"]),
        "files": [PlannedFile(**file) for file in body["files"]],
    })  # fmt: skip
    texts = (status.code, status.reason, status.commit, status.licence, *status.notes)
    numbers = ((status.created_at, _LATEST), (status.updated_at, _LATEST), (status.rate, MAX_BYTES))
    if (
        not is_job_id(status.id)
        or status.state not in STATES
        or not all(isinstance(text, str) for text in texts)
        or not all(isinstance(n, int | float) and 0 <= n <= most for n, most in numbers)
        or not all(_is_planned(file) for file in status.files)
    ):
        raise ValueError(status.id)
    return status


def _source(body: Mapping[str, Any]) -> ModelSource:
    try:
        return checked(ModelSource(**body))
    except InvalidInput as error:
        raise ValueError(error.message) from None


def _is_planned(file: PlannedFile) -> bool:
    numbers = (file.size, file.done)
    return (
        is_file_path(file.path)
        and is_object_id(file.oid)
        and isinstance(file.etag, str)
        and all(type(n) is int and 0 <= n <= MAX_BYTES for n in numbers)
    )


def is_object_id(text: str) -> bool:
    """Whether this is a digest as a hub has it, which also names the file's part."""
    return _OID.fullmatch(text) is not None


# -- locks -----------------------------------------------------------------------------------


def take(path: Path) -> int | None:
    """Returns a descriptor that holds the lock; None if another process does. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        os.close(descriptor)
        return None
    return descriptor


def is_held(path: Path) -> bool:
    """Whether some process holds the lock. Takes nothing, and needs no right to write."""
    try:
        descriptor = opened(path)
    except OSError:
        return False
    try:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, asked)
        return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)
    except OSError:
        return False
    finally:
        os.close(descriptor)
