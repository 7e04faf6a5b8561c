"""A model unit's first program: `exec_model.py DEV:INO:PATH... -- PROGRAM ARGUMENT...`.

The launcher looked at the model's files before the unit was made; systemd looked at their paths
again when it bound them into the unit. A user who may write to a model folder could have put
another file, or a link, in between. Within the unit only systemd can change what a path names: if
these are the files that were looked at, the program is executed in our place.

A program that is given a file with its key is not executed without a key in it: llama-server would
be open to everybody then. systemd hands out an empty one where the maker of keys fails.

Before that the process gives up, for itself and its children, all ways to begin a conversation: a
server answers those who connect to it, and can call none. Mounts and IPAddressDeny= keep it
from most sockets; not from abstract ones, which are the host's, and not from what else listens on
127.0.0.1: a resolver, databases, magid, other servers. The filter cannot be part of the unit:
wait_ready.py, which runs beside the server, does connect.

Stands alone: `python3 -I -S`, standard library only. Exit status 66 (EX_NOINPUT): a file is not the
one that was checked, or cannot be read. 78 (EX_CONFIG): the arguments are wrong, or there is no
filter for this machine. 1: there is no key, the filter is refused, or the program cannot be
executed.
"""

import ctypes
import errno
import os
import re
import socket
import stat
import struct
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

NO_INPUT = 66
BAD_USAGE = 78
KEY_OPTION = "--api-key-file"
_SHORTEST_KEY = 32
_CHECKED = re.compile(r"([0-9]{1,20}):([0-9]{1,20}):(/.*)", re.DOTALL)


def main(arguments: Sequence[str]) -> int:
    """The exit status, if the program could not be executed."""
    if "--" not in arguments or not arguments[arguments.index("--") + 1 :]:
        return _refuse(BAD_USAGE, "cannot start: no program behind '--'")
    end = arguments.index("--")
    checked_files = list(arguments[:end])
    if not checked_files:
        return _refuse(BAD_USAGE, "cannot start: no file to check")
    for checked in checked_files:
        match = _CHECKED.fullmatch(checked)
        if not match:
            return _refuse(BAD_USAGE, f"cannot start: {checked!r} is not DEV:INO:PATH")
        if why := why_not(match[3], int(match[1]), int(match[2])):
            return _refuse(NO_INPUT, f"cannot use the model file {match[3]}: {why}")
    if why := why_keyless(arguments[end + 1 :]):
        return _refuse(1, f"cannot start without a key: {why}; see `journalctl -t magi-key`")
    machine = os.uname().machine
    if machine not in _MACHINES:
        return _refuse(BAD_USAGE, f"cannot start: there is no system call filter for {machine}")
    try:
        install(filter_for(machine))
    except OSError as error:
        return _refuse(1, f"cannot install the system call filter: {error.strerror}")
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


def why_keyless(argv: Sequence[str]) -> str:
    """Why there is no key where the program will look for one; "" if there is, or it has none."""
    if KEY_OPTION not in argv:
        return ""
    path = "".join(argv[argv.index(KEY_OPTION) + 1 :][:1])
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            key = os.read(file, 4096).strip()
        finally:
            os.close(file)
    except OSError as error:
        return f"{path}: {error.strerror}"
    return "" if len(key) >= _SHORTEST_KEY else f"{path} has none"


def _execute(argv: Sequence[str]) -> int:
    try:
        os.execv(argv[0], list(argv))
    except OSError as error:
        return _refuse(1, f"cannot execute {argv[0]}: {error.strerror}")


def _refuse(status: int, message: str) -> int:
    sys.stderr.write(f"error: {message}\n")
    return status


# -- the filter of system calls ----------------------------------------------------------------
# Sources: seccomp(2), linux/filter.h, linux/seccomp.h, linux/audit.h, asm/unistd.h.

_MACHINES: Final[Mapping[str, tuple[int, Mapping[str, int]]]] = {  # AUDIT_ARCH, and the numbers
    "x86_64": (
        0xC000003E,
        {"socket": 41, "connect": 42, "sendto": 44, "sendmsg": 46, "socketpair": 53,
         "sendmmsg": 307, "io_uring_setup": 425},
    ),
    "aarch64": (
        0xC00000B7,
        {"socket": 198, "socketpair": 199, "connect": 203, "sendto": 206, "sendmsg": 211,
         "sendmmsg": 269, "io_uring_setup": 425},
    ),
}  # fmt: skip
_X32: Final = 0x4000_0000  # the bit of x86_64's other numbering
_LOAD, _AND, _RETURN = 0x20, 0x54, 0x06  # BPF_LD|W|ABS, BPF_ALU|AND|K, BPF_RET|K
_IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT = 0x15, 0x35, 0x45  # BPF_JMP|JEQ, JGE, JSET, with K
_NUMBER, _ARCHITECTURE = 0, 4  # offsets in struct seccomp_data
_ALLOW: Final = 0x7FFF_0000
_ERROR: Final = 0x0005_0000
_FAST_OPEN: Final = 0x2000_0000  # MSG_FASTOPEN: to connect by sending
_SOCKET_TYPE: Final = 0xF  # without SOCK_CLOEXEC and SOCK_NONBLOCK

Instruction = tuple[int, int, int, int]  # code, jumps if true and if false, operand


def filter_for(machine: str) -> list[Instruction]:
    """The program for the kernel: all is allowed but to reach out. Pure.

    Streams may be made, to listen on. Datagrams may not, since they can be sent without connect;
    nor other protocols over streams, which have calls of their own. io_uring is a way round every
    filter. What is not there says so with the error that a library expects of a service that is
    not there: CUDA, for one, looks for a daemon of its own.
    """
    architecture, number = _MACHINES[machine]
    reads = {"sendto": 3, "sendmsg": 2, "sendmmsg": 3}  # which argument has the flags
    rules = [
        *_returned([(_LOAD, 0, 0, _ARCHITECTURE), (_IF_EQUAL, 1, 0, architecture)], errno.EPERM),
        (_LOAD, 0, 0, _NUMBER),
        *_returned([(_IF_AT_LEAST, 0, 1, _X32)], errno.ENOSYS),
        *_on(number["connect"], _answer(errno.ENOENT)),
        *_on(number["io_uring_setup"], _answer(errno.ENOSYS)),
        *_on(number["socketpair"], _unless_stream(errno.EACCES)),
        *_on(number["socket"], [*_unless_stream(errno.EACCES, end=False), *_unless_plain()]),
    ]
    for name, argument in reads.items():
        fast = [(_LOAD, 0, 0, _argument(argument)), (_IF_ANY_BIT, 0, 1, _FAST_OPEN)]
        rules += _on(number[name], [*_returned(fast, errno.EPERM), *_allowed()])
    return [*rules, *_allowed()]


def _unless_stream(error: int, *, end: bool = True) -> list[Instruction]:
    """For socket(2) and socketpair(2): the error for other types than streams."""
    return [
        (_LOAD, 0, 0, _argument(1)),
        (_AND, 0, 0, _SOCKET_TYPE),
        (_IF_EQUAL, 2, 0, socket.SOCK_STREAM),
        (_IF_EQUAL, 1, 0, socket.SOCK_SEQPACKET),
        *_answer(error),
        *(_allowed() if end else ()),
    ]


def _unless_plain() -> list[Instruction]:
    """For socket(2): the error for other protocols than a family's own, and TCP."""
    return [
        (_LOAD, 0, 0, _argument(2)),
        (_IF_EQUAL, 2, 0, 0),
        (_IF_EQUAL, 1, 0, socket.IPPROTO_TCP),
        *_answer(errno.EACCES),
        *_allowed(),
    ]


def _on(number: int, rules: Sequence[Instruction]) -> list[Instruction]:
    """These, which end with an answer, for this call; goes on behind them for the others."""
    return [(_IF_EQUAL, 0, len(rules), number), *rules]


def _returned(condition: Iterable[Instruction], error: int) -> list[Instruction]:
    """The error where the condition does not jump over it."""
    return [*condition, *_answer(error)]


def _answer(error: int) -> list[Instruction]:
    return [(_RETURN, 0, 0, _ERROR | error)]


def _allowed() -> list[Instruction]:
    return [(_RETURN, 0, 0, _ALLOW)]


def _argument(index: int) -> int:
    """Where its lower half is: the kernel looks at an int's 32 bits, on these little-endians."""
    return 16 + 8 * index


def install(rules: Sequence[Instruction]) -> None:
    """For this process and all that come of it, for good. Raises OSError."""
    code = b"".join(struct.pack("=HBBI", *rule) for rule in rules)
    buffer = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog: a short, padding, a pointer.
    program = struct.pack("@HP", len(rules), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    set_no_new_privileges, set_seccomp, mode_filter = 38, 22, 2
    if (
        libc.prctl(set_no_new_privileges, 1, 0, 0, 0) != 0
        or libc.prctl(set_seccomp, mode_filter, program, 0, 0) != 0
    ):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
