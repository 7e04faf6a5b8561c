"""How files of a model are removed, as a child or in a unit, and what that answers. Pure."""

import json
from typing import Any, Final

from msgspec import Struct

from magid.errors import ServerFailed
from magid.llama.short_runs import ShortRun

SCRIPT: Final = "remove_files.py"


class FileIdentity(Struct, frozen=True):
    """A file or link as it was seen: another one of that name is another file."""

    path: str
    device: int
    inode: int

    def __str__(self) -> str:
        return f"{self.device}:{self.inode}:{self.path}"


class _Removal(ShortRun, frozen=True):
    """Its limits: a large file takes a file system seconds."""

    def late(self) -> ServerFailed:
        return ServerFailed(
            f"cannot {self.purpose}: it has not finished after {self.seconds:g} s; a disk may hang"
        )

    def too_long(self) -> ServerFailed:
        return ServerFailed(f"cannot {self.purpose}: the answer was too long")


RUN: Final = _Removal("remove the files", "", seconds=120.0)


class RemovedFile(Struct, frozen=True):
    """What became of one file. `problem`: why it is still there; "" if it is gone."""

    path: str
    freed: int  # bytes
    links: int  # other names that the file still has
    problem: str


def removed_in(output: str) -> list[RemovedFile]:
    """Returns what `remove_files.py` has printed. Raises ServerFailed if that is no answer."""
    try:
        found: Any = json.loads(output.strip().splitlines()[-1])
        return [
            RemovedFile(str(one["path"]), int(one["freed"]), int(one["links"]), str(one["problem"]))
            for one in found
        ]
    except (ValueError, TypeError, KeyError, IndexError):
        last = (output.strip().splitlines() or ["it printed nothing"])[-1]
        raise ServerFailed(f"cannot remove the files: {last[:200]}") from None
