"""Executes a program that the kernel kills when magid ends, in whatever way.

    python -I -S exec_child.py PARENT_PID [REPORT_FD FILE...] -- PROGRAM ARGUMENT...

magid starts llama-server through this script where `servers/processes/death_signal` has no faster
way, or a file system may not answer. It is replaced by it (same pid, no extra process).
A magid killed with SIGKILL cannot clean up; the kernel can, by the parent-death signal of prctl(2).
Python's own way to run code in the child, `preexec_fn`, is unsafe with threads.

The signal depends on the thread that created the process, so magid creates it on the thread of its
event loop. It reaches only this process: a wrapper script must exec the server, not fork it.

The program needs the files: "." is written to the descriptor before they are checked. If one cannot
be used, "NUMBER VERB WHY" is written, NUMBER counting the files from 0, and the program is not
executed. The descriptor is closed when it is. A file system that does not answer holds up this
process alone.

It imports as little as possible, because it delays every start.
"""

import os
import sys

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_SIGKILL = 9  # the same on every Linux; the signal module takes 5 ms to import
_CANNOT_RUN = 127  # a shell's exit status for a program that cannot be started
_REGULAR, _KIND = 0o100000, 0o170000  # stat.S_IFREG, S_IFMT


def main(arguments: list[str]) -> None:
    end = arguments.index("--") if "--" in arguments else 0
    (parent, *needed), command = arguments[:end] or [""], arguments[end + 1 :]
    if not parent or not command:
        _leave("usage: exec_child.py PARENT_PID [REPORT_FD FILE...] -- PROGRAM ARGUMENT...")
    import ctypes  # late: magid itself needs `problem_of` alone

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0) != 0:
        _leave(f"cannot tie {command[0]} to magid: {os.strerror(ctypes.get_errno())}")
    # If magid ended before that call, the signal never comes.
    if os.getppid() != int(parent):
        _leave(f"cannot start {command[0]}: magid has ended")
    if needed:
        _check(int(needed[0]), needed[1:])
    try:
        os.execv(command[0], command)
    except OSError as error:
        _leave(f"error: cannot run {command[0]}: {error.strerror}")


def _check(report: int, files: list[str]) -> None:
    os.set_inheritable(report, False)
    os.write(report, b".")
    for number, path in enumerate(files):
        if problem := problem_of(path):
            os.write(report, f"{number} {problem}".encode(errors="replace"))
            sys.exit(_CANNOT_RUN)


def problem_of(path: str) -> str:
    """Returns what cannot be done with the file, and why: "open ..."; "" if it can be read."""
    try:
        is_regular = os.stat(path).st_mode & _KIND == _REGULAR  # noqa: PTH116 - pathlib is slow
    except OSError as error:
        return f"open {error.strerror}"
    return "" if is_regular and os.access(path, os.R_OK) else "read check its permissions"


def _leave(why: str) -> None:
    os.write(2, f"{why}\n".encode(errors="surrogateescape"))
    sys.exit(_CANNOT_RUN)


if __name__ == "__main__":
    main(sys.argv[1:])
