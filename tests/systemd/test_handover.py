"""What a launcher leaves to the next one, over real sockets; the whole of it in tests/lab."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from magid.systemd import notify
from tests.support.deadlines import DEADLINE_S

OURS = "magi-launcher.socket"
# Takes the place of a shell that has put the descriptors where systemd puts them.
STARTED = """\
import os
from magid.systemd import notify
from magid.errors import InvalidConfig
try:
    listening, left = notify.received({**os.environ, "LISTEN_PID": str(os.getpid())}, os.getpid())
    print(listening.getsockname()[1], *left)
except InvalidConfig as error:
    print(error.message)
"""


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """Hears what a service says to its manager."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(DEADLINE_S)
        yield sock


def test_a_connection_outlives_its_process(manager: socket.socket, tmp_path: Path) -> None:
    env = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
    ours, theirs = socket.socketpair()
    with theirs:
        with ours:
            notify.keep(ours.fileno(), env)
        message, descriptors, _, _ = socket.recv_fds(manager, 1000, 4)
        assert message.decode() == f"FDSTORE=1\nFDNAME=bus-of-{os.getpid()}"
        (kept,) = (socket.socket(fileno=fd) for fd in descriptors)
        kept.sendall(b"still here")
        assert theirs.recv(100) == b"still here"
        notify.release({"bus-of-7": kept}, env)
        assert manager.recv(100) == b"FDSTOREREMOVE=1\nFDNAME=bus-of-7"
        assert theirs.recv(100) == b""


def test_nobody_listens(tmp_path: Path) -> None:
    notify.keep(0, {})
    notify.keep(0, {"NOTIFY_SOCKET": str(tmp_path / "absent")})


@pytest.mark.parametrize(
    ("names", "count", "left"),
    [
        (OURS, "1", []),
        (f"{OURS}:bus-of-12", "2", ["bus-of-12"]),
        (f"bus-of-12:{OURS}:bus-of-13", "3", ["bus-of-12", "bus-of-13"]),
        (OURS, "2", None),
        (OURS, "0", None),
        ("bus-of-12", "1", None),
        (f"{OURS}:another", "2", None),
    ],
)
def test_what_is_received(names: str, count: str, left: list[str] | None) -> None:
    sockets = [socket.socket() for _ in names.split(":")]
    try:
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        port = str(sockets[names.split(":").index(OURS)].getsockname()[1]) if OURS in names else ""
        done = started([sock.fileno() for sock in sockets], names, count)
    finally:
        for sock in sockets:
            sock.close()
    if left is None:
        assert "only magi-launcher.socket may start this program" in done
    else:
        assert done.split() == [port, *left]


def started(descriptors: list[int], names: str, count: str) -> str:
    high = " ".join(f"{fd + 50}<&{fd}" for fd in descriptors)
    places = " ".join(f"{place}<&{fd + 50}" for place, fd in enumerate(descriptors, start=3))
    done = subprocess.run(
        ["bash", "-c", f'exec {high}; exec {places}; exec "$0" -c "$1"', sys.executable, STARTED],
        pass_fds=descriptors,
        env={**os.environ, "LISTEN_FDS": count, "LISTEN_FDNAMES": names},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    )
    return done.stdout
