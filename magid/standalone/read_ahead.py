"""Asks the kernel to read a model's files into memory: `read_ahead.py FILE...`.

Run as a server is about to start, while another one still ends in its place. It reads nothing
itself (posix_fadvise(2), WILLNEED), and no more than half of what memory is available, so that it
does not push out what it has just read. The kernel only takes a part of a file at once, so it is
asked for one after another.

Runs as `python3 -I -S` with the standard library only. It ends after a minute, also where a file
system does not answer, as soon as the kernel lets it. Exit status 0; what cannot be read is left
out, because the server itself will say why.
"""

from __future__ import annotations

import os
import stat
import sys

_PART = 2 * 1024 * 1024
_LONGEST_S = 60


def main(paths: list[str]) -> int:
    """Returns the exit status."""
    import signal  # late: not for tests of the parts

    signal.alarm(_LONGEST_S)
    os.nice(5)
    left = available_bytes() // 2
    for path in paths:
        left -= ask_for(path, left)
        if left <= 0:
            break
    return 0


def available_bytes() -> int:
    """Returns the machine's available memory; 0 if it is not known."""
    try:
        with open("/proc/meminfo", encoding="ascii") as table:  # noqa: PTH123 - pathlib is slow
            rows = dict(line.split(":", 1) for line in table)
        return int(rows["MemAvailable"].split()[0]) * 1024
    except (OSError, LookupError, ValueError):
        return 0


def ask_for(path: str, most_bytes: int) -> int:
    """Asks for the file's first bytes; returns how many. Blocks while the disk is busy."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            return 0
        size = min(status.st_size, most_bytes)
        for at in range(0, size, _PART):
            os.posix_fadvise(file, at, min(_PART, size - at), os.POSIX_FADV_WILLNEED)
        return size
    except OSError:
        return 0
    finally:
        os.close(file)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
