"""Which sockets listen on a port, and whether one process holds all of them."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest

from magid.host.listening_sockets import is_held_by, sockets_on
from magid.host.ports import HostPort

LOCAL, LOCAL6 = "127.0.0.1", "::1"
SLEEPS = "import socket, sys, time; sys.stdin.read()"


def listener(host: str, port: int = 0) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, reuse_port=True)


@pytest.mark.parametrize(
    ("bound", "asked", "is_found"),
    [
        (LOCAL, LOCAL, True),
        (LOCAL6, LOCAL6, True),
        ("0.0.0.0", LOCAL, True),
        ("::", LOCAL, True),
        (LOCAL, "0.0.0.0", True),
        ("127.0.0.2", LOCAL, False),
        (LOCAL6, LOCAL, False),
    ],
)
def test_where_a_socket_listens(bound: str, asked: str, is_found: bool) -> None:
    with listener(bound) as server:
        endpoint = HostPort(asked, server.getsockname()[1])
        inode = os.fstat(server.fileno()).st_ino
        assert sockets_on(endpoint) == ({inode} if is_found else set())
        assert is_held_by(endpoint, os.getpid()) is is_found


def test_all_sockets_of_a_port_count() -> None:
    with listener(LOCAL) as one, listener(LOCAL, one.getsockname()[1]) as other:
        found = sockets_on(HostPort(LOCAL, one.getsockname()[1]))
        assert found == {os.fstat(sock.fileno()).st_ino for sock in (one, other)}


def test_connections_do_not_count() -> None:
    with listener(LOCAL) as server, socket.create_connection(server.getsockname()) as client:
        assert not sockets_on(HostPort(LOCAL, client.getsockname()[1]))


def test_a_port_that_another_process_shares() -> None:
    with listener(LOCAL) as ours, listener(LOCAL, ours.getsockname()[1]) as shared:
        endpoint = HostPort(LOCAL, ours.getsockname()[1])
        with subprocess.Popen(
            [sys.executable, "-c", SLEEPS], stdin=subprocess.PIPE, pass_fds=[shared.fileno()]
        ) as process:
            try:
                assert is_held_by(endpoint, os.getpid())
                shared.close()
                assert not is_held_by(endpoint, os.getpid())
                assert not is_held_by(endpoint, process.pid)
            finally:
                process.kill()


def test_a_process_that_is_gone(free_port: Callable[[], int]) -> None:
    with listener(LOCAL) as server:
        endpoint = HostPort(LOCAL, server.getsockname()[1])
        assert not is_held_by(endpoint, 2**22 + 1)
    assert not is_held_by(HostPort(LOCAL, free_port()), os.getpid())
