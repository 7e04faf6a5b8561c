"""A model unit's first program: `gate.py [--hand-on FILE] DEV:INO:PATH... -- PROGRAM ARGUMENT...`.

The launcher looked at the model's files before the unit was made; systemd looked at their paths
again when it bound them into the unit. Whoever may write to a model folder could have put another
file, or a link, in between. Here, within the unit, nobody but systemd can change what a path names
any more: if these are the files that were looked at, the program is executed in our place.

--hand-on copies FILE, the server's key, to where ready.py finds it: systemd before 254 shows a
unit's credentials to the main process alone.

Stands alone: `python3 -I -S`, standard library only. Exit status 66 (EX_NOINPUT): a file is not the
one that was checked, or cannot be read. 78 (EX_CONFIG): the arguments are wrong. 1: the program
cannot be executed, or the key not be copied.
"""

import os
import re
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

NO_INPUT = 66
BAD_USAGE = 78
HANDED_ON = Path("/tmp/api-key")  # the unit has a /tmp of its own
_CHECKED = re.compile(r"([0-9]{1,20}):([0-9]{1,20}):(/.*)", re.DOTALL)


def main(arguments: Sequence[str]) -> int:
    """The exit status, if the program could not be executed."""
    if "--" not in arguments or not arguments[arguments.index("--") + 1 :]:
        return _refuse(BAD_USAGE, "cannot start: no program behind '--'")
    end = arguments.index("--")
    checked_files = list(arguments[:end])
    if checked_files[:1] == ["--hand-on"]:
        if len(checked_files) < 2:
            return _refuse(BAD_USAGE, "cannot start: no file behind '--hand-on'")
        if why := _hand_on(checked_files[1]):
            return _refuse(1, f"cannot hand on the key: {why}")
        checked_files = checked_files[2:]
    if not checked_files:
        return _refuse(BAD_USAGE, "cannot start: no file to check")
    for checked in checked_files:
        match = _CHECKED.fullmatch(checked)
        if not match:
            return _refuse(BAD_USAGE, f"cannot start: {checked!r} is not DEV:INO:PATH")
        if why := why_not(match[3], int(match[1]), int(match[2])):
            return _refuse(NO_INPUT, f"cannot use the model file {match[3]}: {why}")
    return _execute(arguments[end + 1 :])


def why_not(path: str, device: int, inode: int) -> str:
    """Why the file at `path` is not the one that was checked, or cannot be read; "" if it is."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError:
        return "the server may not read it; make it readable for all (chmod o+r)"
    except OSError as error:
        return error.strerror or str(error)
    try:
        found = os.fstat(file)
    finally:
        os.close(file)
    if not stat.S_ISREG(found.st_mode) or (found.st_dev, found.st_ino) != (device, inode):
        return "it was replaced since the server was ordered; ask magid to start the server again"
    return ""


def _hand_on(path: str) -> str:
    """Copy the key to the unit's own /tmp, for its own user; why not, or ""."""
    try:
        HANDED_ON.unlink(missing_ok=True)
        key = Path(path).read_bytes()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with os.fdopen(os.open(HANDED_ON, flags, 0o600), "wb") as file:
            file.write(key)
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    return ""


def _execute(argv: Sequence[str]) -> int:
    try:
        os.execv(argv[0], list(argv))
    except OSError as error:
        return _refuse(1, f"cannot execute {argv[0]}: {error.strerror}")


def _refuse(status: int, message: str) -> int:
    sys.stderr.write(f"error: {message}\n")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
