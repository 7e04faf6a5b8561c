"""Becomes another program that the kernel kills when magid ends, however magid ends.

    python -I -S exec_child.py PARENT_PID -- PROGRAM ARGUMENT...

Run as a program between magid and a llama-server and replaced by it (same pid, no process stays
behind). A parent that is killed with SIGKILL cannot clean up; the kernel can, by the parent-death
signal of prctl(2). Python's own way to run code there, `preexec_fn`, is unsafe with threads.

The signal is tied to the thread that made this process, so magid makes it on the thread of its
event loop. It reaches this one process: a wrapper script has to exec the server, not fork it.

Imports nothing of magid and as little as it can: it delays every start.
"""

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_SIGKILL = 9  # the same on every Linux; the signal module takes 5 ms to import
_CANNOT_RUN = 127  # what a shell answers where a program cannot be started


def main(arguments: list[str]) -> None:
    parent, dashes, *command = arguments
    if dashes != "--" or not command:
        _leave("usage: exec_child.py PARENT_PID -- PROGRAM ARGUMENT...")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0) != 0:
        _leave(f"cannot tie {command[0]} to magid: {os.strerror(ctypes.get_errno())}")
    # magid may have ended before the call above: then the signal would never come.
    if os.getppid() != int(parent):
        _leave(f"cannot start {command[0]}: magid has ended")
    try:
        os.execv(command[0], command)
    except OSError as error:
        _leave(f"error: cannot run {command[0]}: {error.strerror}")


def _leave(why: str) -> None:
    os.write(2, f"{why}\n".encode(errors="surrogateescape"))
    sys.exit(_CANNOT_RUN)


if __name__ == "__main__":
    main(sys.argv[1:])
