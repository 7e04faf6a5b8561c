"""What exec_model.py forbids the server: opening connections, and other ports than its own.

The filter of system calls (seccomp) keeps the server and its children from opening connections;
the server can only accept them. That of ports (Landlock, Linux 6.7) keeps it to those it is given.
Both are for a process and its children, and irrevocable.

Imports little, because it delays starts: `posix` is what `os` is made of, and `_ctypes` what ctypes
is made of, which imports threading, sysconfig and more: 6 ms together, beside Python's own 8.
"""

from __future__ import annotations

import _ctypes
import errno
import posix
from _struct import pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Final

# -- system calls ----------------------------------------------------------------------------
# Sources: seccomp(2), linux/filter.h, linux/seccomp.h, linux/audit.h, asm/unistd.h.

MACHINES: Final[Mapping[str, tuple[int, Mapping[str, int]]]] = {  # AUDIT_ARCH, and the numbers
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
_FAST_OPEN: Final = 0x2000_0000  # MSG_FASTOPEN: sending opens a connection
_SOCKET_TYPE: Final = 0xF  # without SOCK_CLOEXEC and SOCK_NONBLOCK
_SET_DUMPABLE, _SET_NO_NEW_PRIVILEGES = 4, 38
_UNIX, _IPV4_LENGTH = 1, 16  # bytes of struct sockaddr_in
_STREAM, _SEQPACKET, _TCP = 1, 5, 6  # SOCK_STREAM, SOCK_SEQPACKET, IPPROTO_TCP of these machines

Instruction = tuple[int, int, int, int]  # code, jumps if true and if false, operand


def filter_for(machine: str, *, connects: bool = False, unix: bool = True) -> list[Instruction]:
    """Returns the BPF program, which allows everything except opening connections. Pure.

    With `connects`, those over IPv4 are allowed: the length of the address tells them from others.
    An abstract socket of the host with a name of 13 bytes has that length too, so a server that may
    connect gets no unix sockets. Only llama-server that predicts listens on one (`unix`).

    Stream sockets are allowed, to listen on. Datagram sockets are not, because they can send
    without connect, nor are other stream protocols, which have calls of their own. io_uring
    bypasses every filter. The errors are those of a missing service, which libraries handle: CUDA,
    for example, tries to connect to a daemon of its own.
    """
    architecture, number = MACHINES[machine]
    flags = {"sendto": 3, "sendmsg": 2, "sendmmsg": 3}  # index of the flags argument
    rules = [
        *_returned([(_LOAD, 0, 0, _ARCHITECTURE), (_IF_EQUAL, 1, 0, architecture)], errno.EPERM),
        (_LOAD, 0, 0, _NUMBER),
        *_returned([(_IF_AT_LEAST, 0, 1, _X32)], errno.ENOSYS),
        *_on(number["connect"], _unless_ipv4() if connects else _answer(errno.ENOENT)),
        *_on(number["io_uring_setup"], _answer(errno.ENOSYS)),
        *_on(_CREATE_RULESET, _answer(errno.ENOSYS)),
        *_on(_ADD_RULE, _answer(errno.ENOSYS)),
        *_on(_RESTRICT_SELF, _answer(errno.ENOSYS)),
        *_on(number["socketpair"], _unless_stream(errno.EACCES)),
        *_on(number["socket"], [*([] if unix else _unless_unix()), *_plain_streams()]),
    ]
    for name, argument in flags.items():
        fast = [(_LOAD, 0, 0, _argument(argument)), (_IF_ANY_BIT, 0, 1, _FAST_OPEN)]
        rules += _on(number[name], [*_returned(fast, errno.EPERM), *_allowed()])
    return [*rules, *_allowed()]


def _unless_stream(error: int, *, end: bool = True) -> list[Instruction]:
    """For socket(2) and socketpair(2): the error for types other than streams."""
    return [
        (_LOAD, 0, 0, _argument(1)),
        (_AND, 0, 0, _SOCKET_TYPE),
        (_IF_EQUAL, 2, 0, _STREAM),
        (_IF_EQUAL, 1, 0, _SEQPACKET),
        *_answer(error),
        *(_allowed() if end else ()),
    ]


def _plain_streams() -> list[Instruction]:
    return [*_unless_stream(errno.EACCES, end=False), *_unless_plain()]


def _unless_unix() -> list[Instruction]:
    """For socket(2): the error for unix sockets."""
    return [(_LOAD, 0, 0, _argument(0)), (_IF_EQUAL, 0, 1, _UNIX), *_answer(errno.EACCES)]


def _unless_ipv4() -> list[Instruction]:
    """For connect(2): the error for addresses of another length than that of IPv4."""
    return [
        (_LOAD, 0, 0, _argument(2)),
        (_IF_EQUAL, 1, 0, _IPV4_LENGTH),
        *_answer(errno.ENOENT),
        *_allowed(),
    ]


def _unless_plain() -> list[Instruction]:
    """For socket(2): the error for protocols other than the family's default and TCP."""
    return [
        (_LOAD, 0, 0, _argument(2)),
        (_IF_EQUAL, 2, 0, 0),
        (_IF_EQUAL, 1, 0, _TCP),
        *_answer(errno.EACCES),
        *_allowed(),
    ]


def _on(number: int, rules: Sequence[Instruction]) -> list[Instruction]:
    """Applies `rules`, which end with an answer, to this system call; skips them for others."""
    return [(_IF_EQUAL, 0, len(rules), number), *rules]


def _returned(condition: Iterable[Instruction], error: int) -> list[Instruction]:
    """Answers with the error unless the condition jumps over it."""
    return [*condition, *_answer(error)]


def _answer(error: int) -> list[Instruction]:
    return [(_RETURN, 0, 0, _ERROR | error)]


def _allowed() -> list[Instruction]:
    return [(_RETURN, 0, 0, _ALLOW)]


def _argument(index: int) -> int:
    """Returns the offset of an argument's lower 32 bits, which hold an int (little-endian)."""
    return 16 + 8 * index


def install(rules: Sequence[Instruction]) -> None:
    """Installs the filter irrevocably, for this process and its children. Raises OSError."""
    code = b"".join(pack("=HBBI", *rule) for rule in rules)
    buffer = (_Byte * len(code))()
    buffer.raw = code  # type: ignore[assignment, misc]  # mypy knows it of c_char alone
    # struct sock_fprog: a short, padding, a pointer.
    program = pack("@HP", len(rules), _ctypes.addressof(buffer))
    set_seccomp, mode_filter = 22, 2
    _check(_prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    _check(_prctl(set_seccomp, mode_filter, program, 0, 0))


def hide_memory() -> None:
    """Closes the memory of this process, and of those it forks, to others of its user (prctl(2)).

    Until it executes another program. Raises OSError.
    """
    _check(_prctl(_SET_DUMPABLE, 0, 0, 0, 0))


# -- ports -----------------------------------------------------------------------------------
# Sources: landlock(7), linux/landlock.h, asm-generic/unistd.h.

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # of every machine
_VERSION, _NET_PORT = 1, 2
_BIND_TCP, _CONNECT_TCP = 1, 2
_KNOWS_PORTS = 4  # the first version of Landlock that does


def can_bind_only() -> bool:
    """Whether the kernel can restrict the ports of a process. Changes nothing."""
    return int(_syscall(_CREATE_RULESET, None, 0, _VERSION)) >= _KNOWS_PORTS


def restrict_ports(bound: Iterable[int], reached: Iterable[int]) -> None:
    """Forbids to bind other TCP ports and to reach others, irrevocably, as `install` does.

    Raises OSError.
    """
    ruleset = pack("=QQ", 0, _BIND_TCP | _CONNECT_TCP)
    rules = [pack("=QQ", _BIND_TCP, port) for port in bound]
    rules += [pack("=QQ", _CONNECT_TCP, port) for port in reached]
    made = _check(_syscall(_CREATE_RULESET, ruleset, len(ruleset), 0))
    try:
        for rule in rules:
            _check(_syscall(_ADD_RULE, made, _NET_PORT, rule, 0))
        _check(_prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
        _check(_syscall(_RESTRICT_SELF, made, 0))
    finally:
        posix.close(made)


# -- calls that Python has no function for -----------------------------------------------------
# A number is passed as an int, and bytes as a pointer to them.


class _Int(_ctypes._SimpleCData):  # type: ignore[type-arg]  # generic for mypy only
    _type_ = "i"


class _Long(_ctypes._SimpleCData):  # type: ignore[type-arg]  # generic for mypy only
    _type_ = "l"


class _Byte(_ctypes._SimpleCData):  # type: ignore[type-arg]  # generic for mypy only
    _type_ = "c"


class _Prctl(_ctypes.CFuncPtr):
    _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_USE_ERRNO
    _restype_ = _Int  # as it is declared: read as a long, its -1 is another number


class _Syscall(_ctypes.CFuncPtr):
    _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_USE_ERRNO
    _restype_ = _Long


_PROGRAM = _ctypes.dlopen(None, 0)  # type: ignore[arg-type]  # itself: it has the C library
_prctl = _Prctl(_ctypes.dlsym(_PROGRAM, "prctl"))
_syscall = _Syscall(_ctypes.dlsym(_PROGRAM, "syscall"))


def _check(result: int) -> int:
    """Returns the result of a call. Raises OSError for an error, which is -1."""
    if result < 0:
        number = _ctypes.get_errno()
        raise OSError(number, posix.strerror(number))
    return result
