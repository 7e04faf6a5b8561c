"""Ties a child to magid: the kernel kills it when magid ends, in whatever way.

By util-linux's setpriv and a shell where the machine has them: that takes 3 ms of processor time,
and exec_child.py, which is a Python of its own, 15. The process is the same one before and after.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from magid.host.mounts import may_hang
from magid.host.workers import LATE_S
from magid.standalone import SCRIPTS
from magid.standalone.exec_child import problem_of

_SETPRIV: Final = Path("/usr/bin/setpriv")
_PROBE_S: Final = 5.0
_can_tie: Final[dict[Path, bool]] = {}  # one that has answered
_EXEC_CHILD: Final = SCRIPTS / "exec_child.py"
# $0 is magid's process: if magid ended before the tie was made, the signal never comes.
# A shell takes text that the kernel cannot execute for a script: an empty one succeeds without a
# word. Of anything else, such as zeros, dash says "Exec format error" itself, and exits with 126.
_SCRIPT: Final = """\
[ "$PPID" = "$0" ] || { printf 'cannot start %s: magid has ended\\n' "$1" >&2; exit 127; }
[ -e "$1" ] || { printf 'error: cannot run %s: No such file or directory\\n' "$1" >&2; exit 127; }
[ -x "$1" ] || { printf 'error: cannot run %s: Permission denied\\n' "$1" >&2; exit 127; }
[ -s "$1" ] || { printf 'error: cannot run %s: Exec format error\\n' "$1" >&2; exit 127; }
exec "$@"
"""


def tied(argv: Sequence[str], parent: int, setpriv: Path | None) -> list[str]:
    """Returns the command that runs `argv`, tied to `parent`, which has to execute it. Pure.

    Without setpriv: by exec_child.py.
    """
    if setpriv is None:
        return tied_by_python(argv, parent)
    tie = [str(setpriv), "--pdeathsig", "KILL", "--", "/bin/sh", "-c", _SCRIPT]
    return [*tie, str(parent), *argv]


def tied_by_python(
    argv: Sequence[str], parent: int, report: int | None = None, files: Sequence[str] = ()
) -> list[str]:
    """Returns the command with exec_child.py, which checks the files and reports to `report`."""
    needed = () if report is None else (str(report), *files)
    wrapper = [sys.executable, "-I", "-S", str(_EXEC_CHILD), str(parent)]
    return [*wrapper, *needed, "--", *argv]


async def setpriv_here(setpriv: Path = _SETPRIV, limit_s: float = _PROBE_S) -> Path | None:
    """Returns setpriv if it can tie a process. Runs it in a thread until it has answered once.

    One that is late is asked again the next time: the machine may just be busy.
    """
    if setpriv not in _can_tie:
        with suppress(TimeoutError):
            _can_tie[setpriv] = await asyncio.to_thread(_ties, setpriv, limit_s)
    return setpriv if _can_tie.get(setpriv) else None


def _ties(setpriv: Path, limit_s: float) -> bool:
    """Runs it once, for 3 ms of processor time. Raises TimeoutError."""
    try:
        done = subprocess.run(
            tied(("/bin/true",), os.getpid(), setpriv),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TimeoutError from None
    except OSError:
        return False
    return done.returncode == 0


async def are_usable(files: Sequence[str]) -> bool:
    """Returns whether all files can be read; False too where their file system may not answer."""
    if not files:
        return True
    try:
        async with asyncio.timeout(LATE_S):
            return await asyncio.to_thread(_are_usable, files)
    except TimeoutError:
        return False


def _are_usable(files: Sequence[str]) -> bool:
    return all(may_hang(path) is None and not problem_of(path) for path in files)
