"""Whose a connection is: a model's server is told from all clients while that can be seen."""

import asyncio
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from magid.auth.sandboxed import comes_from_model, is_models
from magid.host import ports
from magid.host.ports import End, far_ends
from tests.support.impostor_server import NOBODY, as_user

MODEL = NOBODY
LOOPBACKS = [
    ("127.0.0.1", "127.0.0.1"),
    ("0.0.0.0", "127.0.0.1"),
    ("0.0.0.0", "127.0.0.2"),
    ("::1", "::1"),
    ("::", "::1"),
    ("::", "127.0.0.1"),
    ("::", "::ffff:127.0.0.1"),
]


@pytest.fixture
def users(tmp_path: Path) -> Path:
    """As systemd keeps them: two users, one of which is a model's."""
    (tmp_path / f"direct:{MODEL}").symlink_to("llama-8080")
    (tmp_path / "direct:61500").symlink_to("prometheus")
    return tmp_path


@contextmanager
def connected(bound: str, to: str, uid: int) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Our end, and the one of a program of this user."""
    family = socket.AF_INET6 if ":" in bound else socket.AF_INET
    both = bound == "::"
    with socket.create_server((bound, 0), family=family, dualstack_ipv6=both) as server:
        with as_user(uid):
            client = socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET)
        with client:
            client.connect((to, server.getsockname()[1]))
            ours, _ = server.accept()
            with ours:
                yield ours, client


async def verdict(ours: socket.socket, users: Path) -> bool:
    """Of a transport over this connection, as a new connection has one."""
    transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
        asyncio.Protocol, ours.dup()
    )
    try:
        return comes_from_model(transport, users)
    finally:
        transport.abort()


@pytest.mark.parametrize(("bound", "to"), LOOPBACKS)
async def test_a_model_is_told_from_others_on_every_loopback(
    users: Path, bound: str, to: str
) -> None:
    with connected(bound, to, MODEL) as (ours, _):
        assert await verdict(ours, users)
    with connected(bound, to, os.geteuid()) as (ours, _):
        assert not await verdict(ours, users)


async def test_who_has_gone_is_nobody_who_may_come_in(users: Path) -> None:
    """A program that sends its request and is off: the kernel does not know any more who it was."""
    with connected("127.0.0.1", "127.0.0.1", os.geteuid()) as (ours, client):
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        client.close()
        assert await verdict(ours, users)
    with connected("127.0.0.1", "127.0.0.1", os.geteuid()) as (ours, client):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()  # a reset
        assert await verdict(ours, users)


async def test_half_closed_is_not_gone(users: Path) -> None:
    with connected("127.0.0.1", "127.0.0.1", os.geteuid()) as (ours, client):
        client.shutdown(socket.SHUT_WR)
        assert not await verdict(ours, users)


async def test_a_unix_socket(users: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name := f"\0magid-{os.getpid()}")
        server.listen()
        for uid, expected in ((MODEL, True), (os.geteuid(), False)):
            with socket.socket(socket.AF_UNIX) as client:
                with as_user(uid):
                    client.connect(name)
                ours, _ = server.accept()
                with ours:
                    assert await verdict(ours, users) is expected


def test_by_the_tables_of_the_kernel_too() -> None:
    """Where there is no inet_diag, and where a rule redirects: whoever comes from there."""
    for bound, to in LOOPBACKS:
        with connected(bound, to, MODEL) as (ours, client):
            inode = os.fstat(client.fileno()).st_ino
            here, there = ours.getsockname()[:2], ours.getpeername()[:2]
            assert far_ends(here, there) == (End(MODEL, inode),)
            address = ports.plain(there[0])
            assert ports._proc_ends(address, there[1]) == (End(MODEL, inode),)
            redirected = (here[0], 1)  # the goal that the other end knows of is another one
            assert far_ends(redirected, there) == (End(MODEL, inode),)


def test_another_machine_is_no_end_of_this_one() -> None:
    assert far_ends(("192.0.2.1", 8000), ("192.0.2.2", 50_000)) == ()


@pytest.mark.parametrize(
    ("name", "expected"),
    [("llama-8080", True), ("llama-8", True), ("llama-80800000", False), ("llama-8080x", False),
     ("prometheus", False), ("", False)],
)  # fmt: skip
def test_names_of_users(tmp_path: Path, name: str, expected: bool) -> None:
    if name:
        (tmp_path / "direct:61200").symlink_to(name)
    assert is_models(61_200, tmp_path) is expected
    assert not is_models(0, tmp_path)
