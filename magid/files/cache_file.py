"""A file that only saves work: one that cannot be used counts as missing, and none is waited for.

Both calls block: call them in a thread.
"""

import os
import stat
from contextlib import suppress
from pathlib import Path

from magid.files.atomic import replace_file

_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY  # a pipe would hold the thread


def read_cache(path: Path, most: int) -> bytes | None:
    """Returns the content; None if it cannot be read, is no regular file or longer than `most`."""
    with suppress(OSError):
        descriptor = os.open(path, _FLAGS)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return None
            with open(descriptor, "rb", closefd=False) as file:
                content = file.read(most + 1)
            return content if len(content) <= most else None
        finally:
            os.close(descriptor)
    return None


def write_cache(path: Path, content: bytes) -> None:
    """Replaces the file for its owner alone. Never fails."""
    with suppress(OSError):
        replace_file(path, content, mode=0o600)
