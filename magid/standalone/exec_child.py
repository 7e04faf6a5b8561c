"""Executes a program that the kernel kills when magid ends, in whatever way.

    python -I -S exec_child.py PARENT_PID -- PROGRAM ARGUMENT...

magid starts llama-server through this script, which is replaced by it (same pid, no extra process).
A magid killed with SIGKILL cannot clean up; the kernel can, by the parent-death signal of prctl(2).
Python's own way to run code in the child, `preexec_fn`, is unsafe with threads.

The signal depends on the thread that created the process, so magid creates it on the thread of its
event loop. It reaches only this process: a wrapper script must exec the server, not fork it.

It imports as little as possible, because it delays every start.
"""

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_SIGKILL = 9  # the same on every Linux; the signal module takes 5 ms to import
_CANNOT_RUN = 127  # a shell's exit status for a program that cannot be started


def main(arguments: list[str]) -> None:
    parent, dashes, *command = arguments
    if dashes != "--" or not command:
        _leave("usage: exec_child.py PARENT_PID -- PROGRAM ARGUMENT...")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0) != 0:
        _leave(f"cannot tie {command[0]} to magid: {os.strerror(ctypes.get_errno())}")
    # If magid ended before that call, the signal never comes.
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
