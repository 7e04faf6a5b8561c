"""Small files in a folder that others may write to: a pipe in the place of one holds no process."""

import os
from pathlib import Path
from typing import TextIO


def opened(path: Path) -> int:
    """Returns a descriptor to read from. Does not wait for a pipe's other end. Raises OSError."""
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


def read_at_once(path: Path, most: int) -> bytes:
    """Returns at most so many bytes of the file; none of a pipe. Raises OSError."""
    with open(opened(path), "rb") as file:
        return file.read(most) or b""  # None of a pipe that a process holds open to write


def new_file(path: Path) -> TextIO:
    """Returns the file, opened to be written; what was there under its name goes. OSError."""
    path.unlink(missing_ok=True)
    return path.open("x", encoding="utf-8")
