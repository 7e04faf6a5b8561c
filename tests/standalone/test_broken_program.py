"""What magid says where it cannot be imported; tests/lab has the rest of it."""

import json
import socket
import threading
import time
from contextlib import suppress

from magid.standalone import broken_program
from tests.support.deadlines import DEADLINE_S


def test_the_reason_is_one_line_with_the_command() -> None:
    error = SyntaxError("invalid syntax\n (app.py, line 3)")
    assert broken_program.reason(error) == (
        "cannot start magid: SyntaxError: invalid syntax (app.py, line 3); "
        "apt install --reinstall magi python3-systemd"
    )


def test_a_client_gets_the_reason_over_a_unix_socket_only() -> None:
    told = {message: _asked(broken_program._reply(message)) for message in ("cannot start: x", "")}
    assert told["cannot start: x"]["message"] == "cannot start: x"
    assert told["cannot start: x"]["details"]
    assert told[""]["message"].startswith("cannot answer: magid does not start")
    assert not told[""]["details"]


def test_a_client_has_a_time_in_all_however_little_it_sends_at_once() -> None:
    """Others wait behind it."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        thread = threading.Thread(target=_given_up, args=(theirs,))
        thread.start()
        latest = time.monotonic() + DEADLINE_S
        while thread.is_alive():
            assert time.monotonic() < latest
            ours.send(b"x")
            thread.join(0.05)  # between two bytes


def _given_up(client: socket.socket) -> None:
    with suppress(TimeoutError):
        broken_program._refuse(client, b"")


def _asked(reply: bytes) -> dict[str, str]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        thread = threading.Thread(target=broken_program._refuse, args=(theirs, reply))
        thread.start()
        ours.sendall(b"POST / HTTP/1.1\r\n")
        ours.sendall(b"Content-Length: 3\r\n\r\nabc")
        ours.shutdown(socket.SHUT_WR)
        with ours.makefile("rb") as answer:
            head, _, body = answer.read().partition(b"\r\n\r\n")
        thread.join()
    assert head.startswith(b"HTTP/1.1 503 ")
    said: dict[str, str] = json.loads(body)
    return said
