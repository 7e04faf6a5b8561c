"""A mount that hangs on demand, over a folder of a test."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

SCRIPT = Path(__file__).with_name("hung_mount.py")


class Mounted:
    """What hung_mount.py serves. After `hang` every look at the folder waits, unkillable."""

    def __init__(self, folder: Path, process: "subprocess.Popen[str]") -> None:
        self.folder = folder
        assert process.stdin is not None
        assert process.stdout is not None
        self._in: IO[str] = process.stdin
        self._out: IO[str] = process.stdout
        assert self._out.readline() == "mounted\n"

    def hang(self) -> None:
        self._command("hang")

    def mute(self) -> None:
        """Folders answer, and files cannot be opened."""
        self._command("mute")

    def thaw(self) -> None:
        self._command("thaw")

    def _command(self, name: str) -> None:
        self._in.write(f"{name}\n")
        self._in.flush()
        assert self._out.readline() == f"{name}\n"


@contextmanager
def mounted(folder: Path, *, within: int | None = None) -> Iterator[Mounted]:
    """The folder's files as they are now; whoever waits at the end gets an error and goes on.

    `within`: a process whose mounts the folder is among, as a path seen by it.
    """
    process = subprocess.Popen(
        [sys.executable, "-I", str(SCRIPT), str(folder), *([str(within)] if within else [])],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:  # its end: the input is closed and the process waited for
        yield Mounted(folder, process)
