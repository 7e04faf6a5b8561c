"""The owner of a port, from inet_diag and from /proc/net/tcp, which have to agree."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import cast

import pytest

from magid.host import ports
from magid.host.ports import ListeningSocket, listener_at, listeners_in
from tests.support.impostor_server import NOBODY, Sly

Query = Callable[[str, int], ListeningSocket | None]

# Both sources are tested alone: `listener_at` hides the failure of one of them.
QUERIES: list[Query] = [listener_at, ports._diag_listener, ports._proc_listener]


@pytest.fixture(params=QUERIES, ids=["listener_at", "inet_diag", "proc"])
def query(request: pytest.FixtureRequest) -> Query:
    return cast(Query, request.param)


@pytest.mark.parametrize(
    ("bound", "queried"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("::1", "::1"),
        ("::", "::1"),
    ],
)
def test_a_socket_of_ours(query: Query, bound: str, queried: str) -> None:
    family = socket.AF_INET6 if ":" in bound else socket.AF_INET
    with socket.create_server((bound, 0), family=family) as server:
        port = server.getsockname()[1]
        expected = ListeningSocket(os.geteuid(), os.fstat(server.fileno()).st_ino)
        assert query(queried, port) == expected


def test_a_socket_of_both_families(query: Query) -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        assert query("127.0.0.1", server.getsockname()[1]) == query("::1", server.getsockname()[1])


def test_a_port_without_listener(query: Query, free_port: Callable[[], int]) -> None:
    assert query("127.0.0.1", free_port()) is None


def test_another_address_is_not_ours(query: Query) -> None:
    with socket.create_server(("127.0.0.2", 0)) as server:
        assert query("127.0.0.1", server.getsockname()[1]) is None


def test_a_connection_is_not_a_listener(query: Query) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            client_port = client.getsockname()[1]
            assert query("127.0.0.1", client_port) is None


def test_another_user(query: Query, free_port: Callable[[], int]) -> None:
    port = free_port()
    with Sly(port, "demo", NOBODY):
        found = query("127.0.0.1", port)
        assert found is not None
        assert found.uid == NOBODY


def test_a_new_socket_is_another_one(query: Query, free_port: Callable[[], int]) -> None:
    port, seen = free_port(), []
    for _ in range(2):
        with socket.create_server(("127.0.0.1", port)):
            seen.append(query("127.0.0.1", port))
    assert seen[0] != seen[1]


def test_a_table_of_the_kernel() -> None:
    """As on a little-endian machine; the second line is a connection, the third is cut off."""
    row = "%s 00000000:0000 %s 00000000:00000000 00:00000000 00000000  %d        0 %d 1 0"
    table = "\n".join(
        [
            "  sl  local_address ...",
            "   0: " + row % ("0100007F:1F90", "0A", 61_184, 77),
            "   1: " + row % ("0100007F:1F90", "01", 0, 78),
            "   2: 0100007F:1F90 00000000:0000 0A",
        ]
    )
    ((address, port, listener),) = listeners_in(table)
    assert (str(address), port, listener) == ("127.0.0.1", 8080, ListeningSocket(61_184, 77))


STARVED = """
import resource
from magid.host.ports import listener_at
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
try:
    listener_at("127.0.0.1", 9)
except OSError as error:
    print(error.strerror)
"""


def test_without_a_free_descriptor_it_says_so() -> None:
    """And nothing else: what could not be made is not closed either."""
    done = subprocess.run(
        [sys.executable, "-c", STARVED], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("Too many open files\n", "")
