"""`python -m magid.library.disk_usage`: what lies in one model folder, and how much is free there.

A process of its own (see `host.workers`), because the folder may be a mount that does not answer.
Looks at all files, hidden ones too, without following a link. Those that are asked for are listed
one by one, and of the others those of a MiB or more, up to a number; the rest is counted together.
"""

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, Final

from msgspec import Struct

from magid.host.workers import LATE_S, Heartbeat, Silent, Worker, WorkerEnded, serve

_MODULE: Final = "magid.library.disk_usage"
_LISTED: Final = 1 << 20  # bytes of a file that is listed without being asked for
_MOST_LISTED: Final = 20_000
_BLOCK: Final = 512  # bytes of st_blocks, whatever the file system has


class FileOnDisk(Struct, frozen=True):
    """One file, with the bytes that it takes; `identity` is the same for all of its names."""

    path: str
    size: int
    identity: str
    changed_at: float  # seconds since the epoch


class RootUsage(Struct, frozen=True):
    """One model folder. `others` of other model folders within it are left out."""

    path: str  # as configured
    total: int = 0  # bytes of its file system
    free: int = 0  # bytes that are left to users other than root
    files: tuple[FileOnDisk, ...] = ()
    rest: int = 0  # bytes of the files that are not listed
    rest_count: int = 0
    problem: str = ""  # why it could not be looked at


def usage_of(
    root: str, others: Iterable[str], wanted: Iterable[str] = (), late_s: float = LATE_S
) -> RootUsage:
    """Looks at one folder in a worker. Blocks; never raises.

    `wanted`: the files that are listed whatever their size, by their paths without a link.
    """
    try:
        worker = Worker(_MODULE)
    except OSError as error:
        return RootUsage(root, problem=f"no process can start: {error.strerror}")
    try:
        worker.submit([["usage", root, list(others), list(wanted)]])
        answer = worker.receive(late_s)
    except Silent:
        worker.end(is_stuck=True)
        return RootUsage(root, problem=f"has not answered for {late_s:g} s")
    except WorkerEnded:
        worker.end()
        return RootUsage(root, problem="cannot be read: its reader ended")
    worker.end()
    if isinstance(answer, str):
        return RootUsage(root, problem=f"cannot be read: {answer}")
    total, free, files, rest, rest_count = answer
    return RootUsage(root, total, free, tuple(FileOnDisk(*one) for one in files), rest, rest_count)


# -- in the worker ---------------------------------------------------------------------------


def carry_out(request: Any) -> Any:
    match request:
        case ["usage", root, others, wanted]:
            try:
                apart = frozenset(map(os.path.realpath, others))
                return _usage(os.path.realpath(root), apart, frozenset(wanted))
            except OSError as error:
                return error.strerror
        case _:
            raise ValueError(request)


def _usage(root: str, others: frozenset[str], wanted: frozenset[str]) -> list[Any]:
    space = os.statvfs(root)
    files: list[tuple[str, int, str, float]] = []
    rest: dict[str, int] = {}  # by identity: a file with several names counts once
    for path, status in _files(root, others, Heartbeat()):
        identity = f"{status.st_dev}:{status.st_ino}"
        size = status.st_blocks * _BLOCK
        if path in wanted or (size >= _LISTED and len(files) < _MOST_LISTED):
            files.append((path, size, identity, status.st_mtime))
        else:
            rest[identity] = size
    for _, _, identity, _ in files:
        rest.pop(identity, None)
    unit = space.f_frsize
    total, free = space.f_blocks * unit, space.f_bavail * unit
    return [total, free, files, sum(rest.values()), len(rest)]


def _files(
    root: str, others: frozenset[str], heartbeat: Callable[[], None]
) -> Iterator[tuple[str, os.stat_result]]:
    pending = [root]
    while pending:
        folder = pending.pop()
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                heartbeat()
                with suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(status.st_mode) and entry.path not in others:
                        pending.append(entry.path)
                    elif stat.S_ISREG(status.st_mode) and _is_text(entry.path):
                        yield entry.path, status


def _is_text(path: str) -> bool:
    """Whether JSON can have it; other names are of no model."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


if __name__ == "__main__":
    serve(carry_out)
