"""A magid that takes connections and does not answer, or cannot start: over real sockets."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from magid.cli.reachability import SILENCE_S, explained
from tests.support.deadlines import DEADLINE_S
from tests.support.magictl import magictl

OK = b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\nConnection: close\r\n\r\n{"ready": true}'
REFUSED = (
    b'{"error": "CannotStart", "message": "cannot read /f: Permission denied; chown magi /f", '
    b'"details": {"cause": "CannotWrite"}}'
)


def listening(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(str(path))
    sock.listen()
    sock.settimeout(DEADLINE_S)
    return sock


def request_on(connection: socket.socket) -> bytes:
    connection.settimeout(DEADLINE_S)
    return connection.recv(65_536)


def test_a_long_answer_is_waited_for_where_magid_answers_others(tmp_path: Path) -> None:
    def serve(sock: socket.socket) -> bytes:
        """Answers the second request, and only then the first."""
        first, _ = sock.accept()
        request_on(first)
        second, _ = sock.accept()
        with first, second:
            asked = request_on(second)
            second.sendall(OK)
            time.sleep(SILENCE_S / 2)  # still working
            first.sendall(OK)
        return asked

    with listening(tmp_path / "s") as sock, ThreadPoolExecutor() as pool:
        served = pool.submit(serve, sock)
        done = magictl("status", "--json", url=f"unix:{tmp_path}/s")
        assert served.result().startswith(b"GET /livez ")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow  # ten seconds of silence
def test_a_frozen_one_is_not_waited_for(tmp_path: Path) -> None:
    with listening(tmp_path / "s"):
        done = magictl("status", url=f"unix:{tmp_path}/s")
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == (
        f"magictl: cannot get an answer from magid at unix:{tmp_path}/s"
    )
    assert done.stderr.splitlines()[1] == "it does not answer other requests either"


def test_the_reason_why_it_cannot_start(tmp_path: Path) -> None:
    head = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: %d\r\n\r\n" % len(REFUSED)

    def serve(sock: socket.socket) -> None:
        with sock.accept()[0] as connection:
            request_on(connection)
            connection.sendall(head + REFUSED)

    with listening(tmp_path / "s") as sock, ThreadPoolExecutor() as pool:
        served = pool.submit(serve, sock)
        done = magictl("ls", url=f"unix:{tmp_path}/s")
        served.result()
    sudo = "" if "sudo" not in done.stderr else "sudo "
    assert done.stderr == (
        "magictl: cannot read /f\nPermission denied\nmagid does not run because of this\n"
        f"try: chown magi /f\n     {sudo}magid --check\n     {sudo}systemctl restart magid\n"
    )
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("reason", "lines"),
    [
        ("cannot use magid: it is stopped; systemctl start magid", 2),
        ("cannot listen on 0.0.0.0:8000: there is no token; make one", 5),
        ("cannot start", 4),
    ],
)
def test_one_block_of_commands(reason: str, lines: int) -> None:
    text = explained(reason).splitlines()
    assert len(text) == lines
    assert text[0] == reason.partition("; ")[0]
    assert sum(line.startswith("try: ") for line in text) == 1
