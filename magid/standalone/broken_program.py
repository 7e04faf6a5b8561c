"""What magid does where its own modules cannot be imported: it says why to all who wait, and ends.

A file of the package, or of a package that it depends on, is damaged or gone; another start would
meet the same. The standard library only: everything else may be what is broken.
"""

import json
import os
import select
import socket
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress

EX_CONFIG = 78  # systemd does not start it again by itself
ANSWER_S = 10.0  # a client that asks again and again costs one start in this time
_CLIENT_S = 2.0  # for a client to send its request, and to read the answer
_FIRST_FD = 3  # of the sockets that systemd hands over; sd_listen_fds(3)
_REMEDY = "apt install --reinstall magi python3-systemd"


def end(error: Exception) -> int:
    """Reports that magid cannot be imported; returns its exit status. Blocks while clients wait."""
    message = reason(error)
    traceback.print_exception(error)
    sys.stderr.write(f"magid: {message}\n")
    sys.stderr.flush()
    with suppress(OSError):
        _notify(f"STATUS={message}", os.environ.get("NOTIFY_SOCKET", ""))
    with suppress(OSError):
        _answer(_handed_over(os.environ), message)
    return EX_CONFIG


def reason(error: Exception) -> str:
    """Returns the message, as magid's errors are written."""
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return f"cannot start magid: {what}; {_REMEDY}"


def _notify(state: str, path: str) -> None:
    if path:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.sendto(state.encode(), f"\0{path[1:]}" if path.startswith("@") else path)


def _handed_over(environment: Mapping[str, str]) -> list[socket.socket]:
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = int(environment.get("LISTEN_FDS", "0"))
    return [socket.socket(fileno=fd) for fd in range(_FIRST_FD, _FIRST_FD + count)]


def _answer(listening: Sequence[socket.socket], message: str) -> None:
    """Answers the clients on these sockets for ANSWER_S; returns at once if none waits.

    Only clients on a unix socket get the reason, which names files. One after another: each has
    _CLIENT_S in all.
    """
    if not listening or not select.select(listening, [], [], 0)[0]:
        return
    ends_at = time.monotonic() + ANSWER_S
    while (left_s := ends_at - time.monotonic()) > 0:
        for sock in select.select(listening, [], [], left_s)[0]:
            with suppress(OSError):
                client, _ = sock.accept()
                with client:
                    _refuse(client, _reply(message if sock.family == socket.AF_UNIX else ""))


def _reply(message: str) -> bytes:
    elsewhere = "cannot answer: magid does not start; on its machine, magictl says why"
    details = {"cause": "ImportError"} if message else {}
    body = {"error": "CannotStart", "message": message or elsewhere, "details": details}
    data = json.dumps(body).encode()
    head = (
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + data


def _refuse(client: socket.socket, reply: bytes) -> None:
    """Answers when the request's head has come, and drops what follows.

    Else its client could get a reset in the place of the answer.
    """
    ends_at = time.monotonic() + _CLIENT_S
    head = b""
    while b"\r\n\r\n" not in head and len(head) < 65_536:
        if not (piece := _received(client, ends_at)):
            return
        head += piece
    client.sendall(reply)
    client.shutdown(socket.SHUT_WR)
    while _received(client, ends_at):
        pass


def _received(client: socket.socket, ends_at: float) -> bytes:
    """Raises TimeoutError when the client's time is over, however little it sends at once."""
    left_s = ends_at - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    client.settimeout(left_s)
    return client.recv(65_536)
