"""What exec_model.py does, the first program of a model unit: in the end it executes llama-server.

    exec_model.py [bind:PORT|none] [connect:PORT]... [ready:MAX_S:EVERY_S] DEV:INO:PATH... --
        PROGRAM ...

It checks the model's files and the key, forks the process that tells systemd when the server is
ready, and installs a filter of ports and one of system calls.

The launcher checked the model's files before it made the unit, and systemd resolved their paths
again when it mounted them into the unit. In between, a user who may write to a model folder could
have put another file or a link there. Inside the unit only systemd can change what a path names,
so this is the place to compare device and inode.

A key file must contain a key: without one, llama-server would be open to everyone. systemd passes
an empty key if the key service fails.

The system call filter keeps the server and its children from opening connections; the server can
only accept them. Mounts and IPAddressDeny= close most sockets, but not abstract ones, which belong
to the host's network namespace, and not other services on 127.0.0.1: a resolver, databases, magid,
other servers. The unit cannot have the filter, because wait_ready.py, in the same unit, connects.

With ready:MAX_S:EVERY_S that process waits MAX_S seconds for the server, and looks every EVERY_S at
the longest. Without it, systemd is told nothing. It has none of the filters, and the server's user:
so its memory is closed to the server, which could otherwise have it open connections.

With bind:PORT the server may bind no other TCP port, and with bind:none no port (Landlock, Linux
6.7). SocketBindDeny= of the unit does the same by programs in the kernel, which systemd takes 60 ms
to load; where the launcher finds Landlock, it asks for this one instead.

With connect:PORT the server may open TCP connections over IPv4 to these ports and no others, for
the GPUs of other machines (llama.cpp's RPC); IPAddressAllow= of the unit says to which addresses.

It runs under `python3 -I -S` with the standard library only, and as little as possible of that,
because it delays every start. Exit status: 66 (EX_NOINPUT) if a file is not the one that was
checked, or cannot be read; 78 (EX_CONFIG) for wrong arguments, or if there is no filter for this
machine; 1 if there is no key, the kernel refuses the filter, or the program cannot be executed.
"""

from __future__ import annotations

import posix
import sys
from _stat import S_ISREG

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing less halves the delay; for `posix`, see call_filters.py
    from collections.abc import Sequence
    from types import ModuleType

NO_INPUT = 66
BAD_USAGE = 78
KEY_OPTION = "--api-key-file"
BIND = "bind:"
NO_PORT = "none"  # instead of a number
CONNECT = "connect:"
READY = "ready:"
_SHORTEST_KEY = 32


def main(arguments: Sequence[str]) -> int:
    """Returns the exit status if the program could not be executed; else does not return."""
    if "--" not in arguments or not arguments[arguments.index("--") + 1 :]:
        return _refuse(BAD_USAGE, "cannot start: no program after '--'")
    end = arguments.index("--")
    checked_files, argv = list(arguments[:end]), list(arguments[end + 1 :])
    bind, connect = _taken(checked_files, BIND), _taken(checked_files, CONNECT)
    is_restricted = bool(bind or connect)
    bind = [text for text in bind if text != NO_PORT]
    for text in (*bind, *connect):
        if not (_is_number(text) and 0 < int(text) < 65536):
            return _refuse(BAD_USAGE, f"cannot start: {text!r} is no port")
    patience = _taken(checked_files, READY)
    if not checked_files:
        return _refuse(BAD_USAGE, "cannot start: no file to check")
    for checked in checked_files:
        device, _, rest = checked.partition(":")
        inode, _, path = rest.partition(":")
        if not (_is_number(device) and _is_number(inode) and path.startswith("/")):
            return _refuse(BAD_USAGE, f"cannot start: {checked!r} is not DEV:INO:PATH")
        if why := why_not(path, int(device), int(inode)):
            return _refuse(NO_INPUT, f"cannot use the model file {path}: {why}")
    if why := why_keyless(argv):
        return _refuse(1, f"cannot start without a key: {why}; see `journalctl -t magi-key`")
    try:
        filters = __import__("call_filters")
        filters.hide_memory()
        forked = [fork_watch(argv, text) for text in patience]
        if is_restricted:
            filters.restrict_ports(map(int, bind), map(int, connect))
        restrict_calls(filters, connects=bool(connect), binds=bool(bind))
        if any(posix.waitpid(child, 0)[1] for child in forked):  # only now: it has ended meanwhile
            return _refuse(1, "cannot start: nothing would tell systemd when the server is ready")
    except ValueError as error:
        return _refuse(BAD_USAGE, f"cannot start: {error}")
    except OSError as error:
        return _refuse(
            1, f"cannot fork, or install the filters of ports and calls: {error.strerror}"
        )
    return _execute(argv)


def restrict_calls(filters: ModuleType, *, connects: bool, binds: bool) -> None:
    """Installs the filter of calls. Raises ValueError on a machine without one, and OSError."""
    machine = posix.uname().machine
    if machine not in filters.MACHINES:
        raise ValueError(f"there is no system call filter for {machine}")
    rules = filters.filter_for(machine, connects=connects, unix=not (binds and connects))
    filters.install(rules)


def fork_watch(argv: Sequence[str], patience: str) -> int:
    """Forks the process that tells systemd when this one, by then the server, is ready.

    Twice, so that it is a child of PID 1: the server reaps none. Returns the process in between,
    which the caller reaps; its status is 0 if there is one that watches. Raises OSError, and
    ValueError for what is not MAX_S:EVERY_S.
    """
    longest_s, every_s = map(float, patience.split(":"))
    host, port = (argv[argv.index(option) + 1] for option in ("--host", "--port"))
    process, first = posix.pidfd_open(posix.getpid()), posix.fork()
    if first:
        return first
    status = 1
    try:
        ready = __import__("wait_ready")
        key = _key_in(argv).decode("latin-1")  # which has no errors that would show it
        server = ready.ServerAddress(host, int(port), key)
        if posix.fork() == 0:
            ready.watch(process, server, longest_s, every_s)
        status = 0
    except BaseException as error:
        sys.stderr.write(f"error: cannot watch the server: {error!r}\n")
    finally:
        posix._exit(status)


def _taken(words: list[str], kind: str) -> list[str]:
    """Takes the words of this kind from the beginning, and returns what follows it in each."""
    found = []
    while words and words[0].startswith(kind):
        found.append(words.pop(0).removeprefix(kind))
    return found


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 20


def why_not(path: str, device: int, inode: int) -> str:
    """Returns why the file at `path` is not the one checked, or cannot be read; "" if it is."""
    try:
        file = posix.open(
            path, posix.O_RDONLY | posix.O_NOFOLLOW | posix.O_NONBLOCK | posix.O_CLOEXEC
        )
    except PermissionError:
        return "the server may not read it; make it readable for all users (chmod o+r)"
    except OSError as error:
        return error.strerror or str(error)
    try:
        found = posix.fstat(file)
    finally:
        posix.close(file)
    if not S_ISREG(found.st_mode) or (found.st_dev, found.st_ino) != (device, inode):
        return "it was replaced while the server was starting; start the server again"
    return ""


def why_keyless(argv: Sequence[str]) -> str:
    """Returns why the program's key file has no key; "" if it has one, or there is no key file."""
    if KEY_OPTION not in argv:
        return ""
    try:
        key = _key_in(argv)
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    return "" if len(key) >= _SHORTEST_KEY else f"{argv[argv.index(KEY_OPTION) + 1]} has no key"


def _key_in(argv: Sequence[str]) -> bytes:
    path = "".join(argv[argv.index(KEY_OPTION) + 1 :][:1])
    file = posix.open(path, posix.O_RDONLY | posix.O_NONBLOCK | posix.O_CLOEXEC)
    try:
        return posix.read(file, 4096).strip()
    finally:
        posix.close(file)


def _execute(argv: Sequence[str]) -> int:
    try:
        posix.execv(argv[0], list(argv))
    except OSError as error:
        return _refuse(1, f"cannot execute {argv[0]}: {error.strerror}")


def _refuse(status: int, message: str) -> int:
    sys.stderr.write(f"error: {message}\n")
    return status
