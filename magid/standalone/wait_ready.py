"""Tells systemd when a model's server is ready (sd_notify(3)); exec_model.py forks it.

It polls /health, reports the state (STATUS=), and reports readiness (READY=1) when it has seen that
the port belongs to our server. So `systemctl start` returns when the model answers. A server that
will not become ready is killed: STATUS= and stderr say why.

It runs in the unit, but not as its ExecStartPost=: systemd builds the sandbox once more for that,
and a second Python starts, which together took more processor time than all else of a start, beside
the load. For the same reason it imports what is part of the interpreter, and nothing else: `socket`
and `http.client` take four times as long as Python itself.

It never asks systemd for more time (EXTEND_TIMEOUT_USEC=), which would hold for a stop as well: the
unit's own limit is longer than MAX_S.

    wait_ready.py HOST PORT ALIAS KEY_FILE MAX_S EVERY_S

As a program it is the ExecStartPost= of units that an earlier magid has made, and that have
outlived it. Exit status: 0 if the server of $MAINPID is ready; 1, with the reason on stderr, if it
will not be.
"""

from __future__ import annotations

import _socket
import posix
import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

NOT_READY = "not ready: "  # begins the STATUS= of a server that was killed
ANSWER_S = 5.0  # for one answer of a busy server
_AGAIN_S = 1.0  # before systemd is told again
_FIRST_S = 0.005  # a small model is ready within 0.1 s
_SOON_S = 0.02  # which a load of _SOON_S / _EARLY_SHARE has come to
_EARLY_SHARE = 0.05  # of the time so far
_SHARE = 0.01
_LISTEN = "0A"  # TCP_LISTEN in /proc/net/tcp
_MAX_ANSWER = 1024 * 1024
_EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class ServerNotReady(Exception):
    """It will not become ready; the text says why."""


class ServerEnded(Exception):
    """Its process has ended, which systemd sees too."""


class ServerAddress:
    """The server to poll, and the key that identifies it: every process has a new one.

    `listeners` are user and inode of the sockets that listened there at the last look. `addresses`
    are those of the host, once they were found: a name has the same ones at each look.
    """

    __slots__ = ("addresses", "host", "key", "listeners", "port")

    def __init__(self, host: str, port: int, key: str) -> None:
        self.host = _EVERY_ADDRESS.get(host, host)
        self.port = port
        self.key = key
        self.listeners: set[tuple[int, int]] | None = None
        self.addresses: list[tuple[int, int, int, str, Any]] = []


def main(arguments: Sequence[str]) -> int:
    """Returns the exit status of the program; see above."""
    try:
        host, port, _, key_file, longest, every = arguments
        with open(key_file, "rb") as file:  # noqa: PTH123 - pathlib is slow to import
            server = ServerAddress(host, int(port), file.read().decode().strip())
        wait(posix.pidfd_open(int(posix.environ[b"MAINPID"])), server, float(longest), float(every))
    except (ServerNotReady, ServerEnded, OSError, ValueError, KeyError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def watch(process: int, server: ServerAddress, longest_s: float, every_s: float) -> None:
    """Reports until the process of this pidfd is ready, has ended, or is killed. Never raises."""
    try:
        took = wait(process, server, longest_s, every_s)
        while not _notify(f"READY=1\nSTATUS=ready after {took:.1f} s", is_last=True):
            _pause(process, _AGAIN_S)
    except ServerEnded:
        return
    except Exception as error:  # any: the unit would go on starting
        said = str(error) if isinstance(error, ServerNotReady) else f"internal error: {error!r}"
        sys.stderr.write(f"error: {said}\n")
        _notify(f"STATUS={NOT_READY}{said}", is_last=True)
        _kill(process)


def wait(process: int, server: ServerAddress, longest_s: float, every_s: float) -> float:
    """Returns the seconds until it was ready. Raises ServerNotReady, ServerEnded.

    systemd is told once a second, not after each check: it tells all that watch the unit.
    """
    began, took, status, told = time.monotonic(), 0.0, 0, 0
    while (left := longest_s - took) > 0:
        _pause(process, min(pause_s(took, every_s), left))
        status = _health(server, min(ANSWER_S, left + 0.1))
        if status == 200 and _is_ours(server):
            return time.monotonic() - began
        if status == 503 and server.listeners is None:
            _note_listeners(server)
        took = time.monotonic() - began
        before, told = told, int(took)
        if told != before:
            _notify(f"STATUS={_seen(status)} ({told} s)")
    raise ServerNotReady(f"the server was not ready within {longest_s:g} s: {_LATE[_seen(status)]}")


def pause_s(took_s: float, longest_s: float) -> float:
    """Returns how long to wait before the next check, `took_s` after the first. Pure.

    A server is seen within 20 ms or a hundredth of its load. Each check takes processor time from
    the load, so a short load is checked often and a longer one less.
    """
    soon_s = max(_FIRST_S, min(_SOON_S, _EARLY_SHARE * took_s), _SHARE * took_s)
    return min(soon_s, longest_s)


_LATE = {
    "starting": "its port does not answer",
    "loading": "it was still loading the model; a larger max_startup_time gives it more time",
    "failing": "/health answers with an error",
}


def _seen(status: int) -> str:
    return {0: "starting", 200: "starting", 503: "loading"}.get(status, "failing")


# -- the process -----------------------------------------------------------------------------


def _pause(process: int, seconds: float) -> None:
    """Waits; raises ServerEnded if the server ends: a pidfd is readable then."""
    poll = select.poll()
    poll.register(process, select.POLLIN)
    if poll.poll(seconds * 1000):
        raise ServerEnded("the server ended before it was ready")


def _kill(process: int) -> None:
    """Ends a server that may be too busy for SIGTERM, and has nothing to finish."""
    import signal  # late: it takes a third of Python's own start, and is rarely needed

    try:
        signal.pidfd_send_signal(process, signal.SIGKILL)
    except OSError:  # it has ended
        return


# -- the server ------------------------------------------------------------------------------


def _health(server: ServerAddress, timeout_s: float) -> int:
    """Returns the status of /health; 0 without an answer."""
    try:
        return _status(server, "/health", timeout_s)
    except OSError:
        return 0


def _is_ours(server: ServerAddress) -> bool:
    """Whether our server answers; False if it is gone. Raises ServerNotReady for another program.

    Only our server refuses a wrong key and accepts the right one. /props needs a key; /health is
    public in every version, and /v1/models in those before 2026. The key is only sent to a program
    of the unit's own user, which no program outside the unit has.
    """
    try:
        why = _why_foreign(server)
    except OSError:
        return False
    if why:
        raise ServerNotReady(f"another program answers on port {server.port}: {why}")
    return True


def _why_foreign(server: ServerAddress) -> str:
    status = _status(server, "/props", ANSWER_S, posix.urandom(32).hex())
    if status != 401:
        return f"it answers a wrong key with {status} instead of 401"
    status = _status(server, "/props", ANSWER_S, server.key, verified=True)
    return "" if status == 200 else f"it answers our key with {status}"


def _status(
    server: ServerAddress, path: str, timeout_s: float, key: str = "", *, verified: bool = False
) -> int:
    """Returns the status of the answer. Raises OSError, also where there is no whole answer.

    With `verified`, nothing is sent to a program of another user: raises ServerNotReady.
    """
    ends = time.monotonic() + timeout_s
    family, kind, protocol, _, place = _addresses(server)[0]
    line = _socket.socket(family, kind | _socket.SOCK_CLOEXEC, protocol)
    try:
        line.settimeout(timeout_s)
        if verified:
            _connect(line, place, server)
        else:
            line.connect(place)
        secret = f"Authorization: Bearer {key}\r\n" if key else ""
        host = f"[{server.host}]" if ":" in server.host else server.host
        head = f"GET {path} HTTP/1.1\r\nHost: {host}:{server.port}\r\n{secret}"
        line.sendall(f"{head}Connection: close\r\n\r\n".encode())
        return _status_in(_answer(line, ends))
    finally:
        line.close()


def _answer(line: _socket.socket, ends: float) -> bytes:
    """Returns what comes until the other side closes. Raises OSError if that is too late."""
    answer = b""
    while len(answer) < _MAX_ANSWER:
        line.settimeout(max(ends - time.monotonic(), 0.001))
        if not (more := line.recv(65536)):
            break
        answer += more
    return answer


def _status_in(answer: bytes) -> int:
    words = answer[:12].split(b" ")
    if len(words) != 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        raise ConnectionAbortedError("it does not answer as a server of HTTP does")
    return int(words[1])


def _addresses(server: ServerAddress) -> list[tuple[int, int, int, str, Any]]:
    if not server.addresses:
        # bytes: for text, Python imports what names of other alphabets need
        host = server.host.encode()
        server.addresses = _socket.getaddrinfo(host, server.port, 0, _socket.SOCK_STREAM)
    return server.addresses


def _connect(line: _socket.socket, place: Any, server: ServerAddress) -> None:
    """Connects; raises ServerNotReady, before sending anything, if another user has the port.

    If the same sockets listen before and after, the connection belongs to one of them. "Before" may
    be long ago: the kernel gives no inode twice.
    """
    before = _listening(server) if server.listeners is None else server.listeners
    line.connect(place)
    after = server.listeners = _listening(server)
    strangers = {user for user, _ in before | after} - {posix.getuid()}
    if strangers:
        raise ServerNotReady(
            f"another program has port {server.port}: it runs as user {min(strangers)}"
        )
    if before != after or not after:
        raise ConnectionAbortedError("the server has just started to listen, or has ended")


def _note_listeners(server: ServerAddress) -> None:
    """Looks at them while the model loads, and not when it is ready."""
    try:
        server.listeners = _listening(server)
    except OSError:  # then when it is ready
        return


def _listening(server: ServerAddress) -> set[tuple[int, int]]:
    """Returns user and inode of each socket that listens there, from the kernel's tables.

    If any listens on the very address, only those: the kernel prefers them to the ones on every
    address, and lets no other user listen beside them.
    """
    found = _addresses(server)
    addresses = [_in_hex(family, str(at[0])) for family, _, _, _, at in found]
    own, other = ("tcp6", "tcp") if found[0][0] == _socket.AF_INET6 else ("tcp", "tcp6")
    near = _listeners_in(own, server.port)
    if addresses[0] in near:
        return near[addresses[0]]
    far = _listeners_in(other, server.port)
    sockets: set[tuple[int, int]] = set()
    for address in (*addresses, "0" * 8, "0" * 32):
        sockets |= near.get(address, set()) | far.get(address, set())
    return sockets


def _listeners_in(table: str, port: int) -> dict[str, set[tuple[int, int]]]:
    """Returns user and inode of those on this port, by address. Takes the kernel 2 ms.

    Because the table has all connections too.
    """
    try:
        with open(f"/proc/net/{table}", "rb") as file:  # noqa: PTH123 - pathlib is slow to import
            lines = file.read().decode().splitlines()[1:]
    except FileNotFoundError:  # no IPv6 here
        return {}
    found: dict[str, set[tuple[int, int]]] = {}
    for row in (line.split() for line in lines):
        address, _, number = row[1].partition(":")
        if row[3] == _LISTEN and int(number, 16) == port:
            found.setdefault(address, set()).add((int(row[7]), int(row[9])))
    return found


def _in_hex(family: int, address: str) -> str:
    """Returns an IP address as in those tables: 32-bit words in the machine's byte order."""
    packed = _socket.inet_pton(family, address.partition("%")[0])
    words = (packed[at : at + 4] for at in range(0, len(packed), 4))
    return "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words)


# -- systemd ---------------------------------------------------------------------------------


def _notify(message: str, *, is_last: bool = False) -> bool:
    """Notifies systemd as sd_notify(3) does; returns whether that worked.

    With `is_last` it returns when systemd has read that (sd_notify_barrier(3)): systemd finds the
    unit by the sender's control group, so the sender must not end before.
    """
    address = posix.environ.get(b"NOTIFY_SOCKET", b"").decode()
    if not address:  # there is no systemd
        return True
    try:
        line = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    except OSError:
        return False
    try:
        line.settimeout(ANSWER_S)
        line.connect(f"\0{address[1:]}" if address.startswith("@") else address)
        line.sendall(message.encode())
    except OSError:
        return False
    else:
        if is_last:
            _wait_read(line)
        return True
    finally:
        line.close()


def _wait_read(line: _socket.socket) -> None:
    """Sends one end of a pipe, which systemd closes, and waits for that, ANSWER_S at most."""
    mine, theirs = posix.pipe()
    try:
        ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, theirs.to_bytes(4, sys.byteorder))]
        line.sendmsg([b"BARRIER=1"], ancillary)
    except OSError:  # the message before it was sent
        return
    finally:
        posix.close(theirs)
    poll = select.poll()
    poll.register(mine, select.POLLHUP)
    poll.poll(ANSWER_S * 1000)
    posix.close(mine)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
