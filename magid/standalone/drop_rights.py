"""Executes a program without the rights of root, for a moment.

    drop_rights.py PROGRAM ARGUMENT...

The program runs as a user that has no account, in no group, without capabilities, and gets no other
rights (no new privileges). What it may take is bounded: processor time, files, processes. For a
llama-server that is tried where systemd runs no services, so that there is no sandbox.

Runs as `python3 -I -S` with the standard library only. Exit status 77 (EX_NOPERM) if the rights
cannot be dropped: then nothing is executed.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys

NO_PERMISSION = 77
# Of the users that systemd takes for DynamicUser= (61184 to 65519): no account has files of theirs.
USER = 65519
_SET_NO_NEW_PRIVILEGES = 38  # <linux/prctl.h>
_LIMITS = {
    resource.RLIMIT_CORE: 0,
    resource.RLIMIT_FSIZE: 64 << 20,  # drivers keep compiled code in files
    resource.RLIMIT_CPU: 30,  # seconds
    resource.RLIMIT_NOFILE: 1024,
    resource.RLIMIT_NPROC: 1024,  # threads too: libraries start one for each processor
}


def main(arguments: list[str]) -> int:
    """Returns the exit status if the program could not be executed; else does not return."""
    if not arguments:
        return _refuse(2, "usage: drop_rights.py PROGRAM ARGUMENT...")
    try:
        drop()
    except (OSError, ValueError) as error:
        return _refuse(NO_PERMISSION, f"cannot run {arguments[0]} without root's rights: {error}")
    try:
        os.execv(arguments[0], arguments)
    except OSError as error:
        return _refuse(127, f"cannot run {arguments[0]}: {error.strerror}")


def drop() -> None:
    """Drops root's rights, irrevocably. Raises OSError, ValueError.

    With the last of its users a process loses all capabilities (capabilities(7)).
    """
    os.chdir("/")
    os.umask(0o077)
    for kind, most in _LIMITS.items():
        hard = resource.getrlimit(kind)[1]
        bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (bound, bound))
    os.setgroups([])
    os.setresgid(USER, USER, USER)
    os.setresuid(USER, USER, USER)
    if ctypes.CDLL(None, use_errno=True).prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _refuse(status: int, message: str) -> int:
    sys.stderr.write(f"{message}\n")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
