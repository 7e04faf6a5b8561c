"""Sockets that are bound here, and those that another process hands over."""

import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from magid.api import sockets
from magid.api.sockets import Taken
from magid.config.addresses import TcpAddress, parse_address
from magid.errors import InvalidConfig
from tests.support.deadlines import DEADLINE_S

ROOT = Path(__file__).resolve().parents[2]


def take(*addresses: str) -> Taken:
    return sockets.take([parse_address(text) for text in addresses])


def answers(address: tuple[str, int] | str) -> bool:
    """Whether a connection is taken up."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    if not isinstance(address, str) and ":" in address[0]:
        family = socket.AF_INET6
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(DEADLINE_S)
        return client.connect_ex(address) == 0


# -- bound here ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "address"),
    [("127.0.0.1:{}", "127.0.0.1"), ("localhost:{}", "127.0.0.1"), ("[::1]:{}", "::1")],
)
def test_tcp(free_port: Callable[[], int], text: str, address: str) -> None:
    port = free_port()
    with closing(take(text.format(port))) as taken:
        assert answers((address, port))
        assert taken.names == [f"[::1]:{port}" if ":" in address else f"127.0.0.1:{port}"]
        assert not any(sock.get_inheritable() or sock.getblocking() for sock in taken.sockets)
    assert not answers((address, port))


def test_both_families_on_one_port(free_port: Callable[[], int]) -> None:
    port = free_port()
    with closing(take(f"127.0.0.1:{port}", f"[::1]:{port}")) as taken:
        assert len(taken.sockets) == 2
        assert answers(("127.0.0.1", port))
        assert answers(("::1", port))


def test_a_port_in_use_says_by_whom_and_keeps_no_other_address_from_being_served(
    free_port: Callable[[], int], tmp_path: Path
) -> None:
    first, port = free_port(), free_port()
    path = tmp_path / "s"
    with socket.create_server(("127.0.0.1", port)):
        with closing(take(f"127.0.0.1:{port}", f"127.0.0.1:{first}", f"unix:{path}")) as taken:
            assert answers(("127.0.0.1", first))
            assert answers(str(path))
            (missing,) = taken.missing
            assert missing.startswith(f"cannot listen on 127.0.0.1:{port}: pid {os.getpid()} (")
            assert "MAGI_BIND" in missing
        with pytest.raises(InvalidConfig) as caught:
            take(f"127.0.0.1:{port}")
        assert caught.value.message == missing
    assert not answers(("127.0.0.1", first))
    assert not path.exists()


def test_unix(tmp_path: Path) -> None:
    path = tmp_path / "magid.sock"
    before = os.umask(0o022)
    with closing(take(f"unix:{path}")) as taken:
        assert os.umask(before) == 0o022
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert answers(str(path))
        assert taken.names == [f"unix:{path}"]
    assert not path.exists()
    taken.close()


def test_a_stale_socket_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "magid.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))  # closed without a word, as by SIGKILL
    with closing(take(f"unix:{path}")):
        assert answers(str(path))


def test_a_socket_file_that_was_replaced_meanwhile_is_left(tmp_path: Path) -> None:
    path = tmp_path / "magid.sock"
    taken = take(f"unix:{path}")
    other = tmp_path / "other"  # made first, so that it cannot get the same inode
    other.touch()
    other.rename(path)
    taken.close()
    assert path.exists()


def test_a_socket_that_is_served_is_not_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "magid.sock"
    with (
        closing(take(f"unix:{path}")),
        pytest.raises(InvalidConfig, match="end the program that listens there"),
    ):
        take(f"unix:{path}")


@pytest.mark.parametrize(
    ("make", "advice"),
    [
        (lambda path: path.write_text("precious"), "move the file that is in its place away"),
        (lambda path: path.mkdir(), "move the file that is in its place away"),
        (lambda path: path.symlink_to("nowhere"), "move the file that is in its place away"),
        (
            lambda path: path.parent.rmdir(),
            "make its folder, writable for the user that runs magid",
        ),
    ],
    ids=["file", "folder", "link", "no folder"],
)
def test_anything_else_in_its_place_is_left(
    tmp_path: Path, make: Callable[[Path], object], advice: str
) -> None:
    path = tmp_path / "run" / "magid.sock"
    path.parent.mkdir()
    make(path)
    before = path.lstat() if path.is_symlink() or path.exists() else None
    with pytest.raises(InvalidConfig, match=f"cannot listen on {path}: .*; {advice}, or set bind"):
        take(f"unix:{path}")
    if before:
        assert path.lstat() == before


# -- handed over -----------------------------------------------------------------------------

# Moves the descriptors to 3 and on as PID 1 does, becomes the process that LISTEN_PID names, and
# tells what it took.
_RECEIVER = """
import json, os, sys
names = sys.argv[1].split(",") if sys.argv[1] else []
moved = [os.dup2(int(fd), 50 + at) for at, fd in enumerate(names)]
for fd in range(3, 50):
    try: os.close(fd)
    except OSError: pass
for at, fd in enumerate(moved):
    os.dup2(fd, 3 + at); os.close(fd)
env = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(moved)), "LISTEN_FDNAMES": "a:b"}
env |= json.loads(sys.argv[2])
os.environ.update(env)
from magid.api import sockets
from magid.errors import InvalidConfig
passed = []
try:
    passed = sockets.handed_over(os.environ)
    taken = sockets.take([], passed)
    answer = {"names": taken.names, "inheritable": [s.get_inheritable() for s in taken.sockets]}
    kinds = [type(s).__name__ for s in passed if type(s).__module__ == sockets.__name__]
    answer |= {"kinds": kinds} if kinds else {}
except InvalidConfig as error:
    answer = {"error": error.message}
open_fds = [fd for fd in range(3, 3 + len(moved)) if os.path.exists(f"/proc/self/fd/{fd}")]
left = [name for name in os.environ if name.startswith("LISTEN_")]
print(json.dumps({**answer, "left": left, "open": open_fds}))
for sock in passed:
    sock.close()
"""


def hand_over(*given: socket.socket | int, **env: str) -> dict[str, object]:
    """What a process says that was given these descriptors."""
    fds = [each if isinstance(each, int) else each.fileno() for each in given]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _RECEIVER, ",".join(map(str, fds)), json.dumps(env)],
        pass_fds=fds,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    assert answer.pop("left") == []  # no child is to mistake its descriptors for these
    return dict(answer)


@pytest.fixture
def held() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def listening(held: ExitStack, family: int, address: object) -> socket.socket:
    sock = held.enter_context(socket.socket(family, socket.SOCK_STREAM))
    sock.bind(address)  # type: ignore[arg-type]  # of its family
    sock.listen()
    return sock


def test_tcp_and_unix_are_taken(held: ExitStack, tmp_path: Path) -> None:
    four = listening(held, socket.AF_INET, ("127.0.0.1", 0))
    six = listening(held, socket.AF_INET6, ("::1", 0))
    path = listening(held, socket.AF_UNIX, str(tmp_path / "s"))
    answer = hand_over(four, six, path)
    assert answer == {
        "names": [
            f"127.0.0.1:{four.getsockname()[1]}",
            f"[::1]:{six.getsockname()[1]}",
            f"unix:{tmp_path}/s",
        ],
        "inheritable": [False] * 3,
        "open": [3, 4, 5],
    }
    assert (tmp_path / "s").exists()  # it is not ours to remove


def test_a_passed_address_that_others_can_reach_needs_a_token(held: ExitStack) -> None:
    """It stays open: systemd has it, and waiting clients get the reason."""
    good = listening(held, socket.AF_INET, ("127.0.0.1", 0))
    open_to_all = listening(held, socket.AF_INET, ("0.0.0.0", 0))
    answer = hand_over(good, open_to_all)
    port = open_to_all.getsockname()[1]
    assert str(answer["error"]).startswith(
        f"cannot listen on 0.0.0.0:{port}: other machines can reach it and no token exists"
    )
    assert str(answer["error"]).endswith("or name loopback addresses only in magid.socket")
    assert answer["open"] == [3, 4]


def test_without_tcp_magid_says_so(held: ExitStack, tmp_path: Path) -> None:
    local = listening(held, socket.AF_UNIX, str(tmp_path / "s"))
    (missing,) = sockets.take([], [local]).missing
    assert missing.startswith("cannot listen on TCP: magid.socket did not start")
    tcp = listening(held, socket.AF_INET6, ("::1", 0))
    assert sockets.take([], [local, tcp]).missing == ()


def test_the_socket_for_clients_of_ollama(held: ExitStack, tmp_path: Path) -> None:
    """It is served like any other, and stands for none: that magid.socket is missing is said."""
    beside = listening(held, socket.AF_INET, ("127.0.0.1", 0))
    name = f"127.0.0.1:{beside.getsockname()[1]}"
    local = listening(held, socket.AF_UNIX, str(tmp_path / "s"))
    passed = hand_over(beside, local, LISTEN_FDNAMES="magid-ollama:magid-ollama")
    assert passed["names"] == [name, f"unix:{tmp_path}/s"]
    assert passed["kinds"] == ["OllamaSocket"], "its clients come over TCP"
    ollama = sockets.OllamaSocket(fileno=beside.detach())
    taken = sockets.take([], [local, held.enter_context(ollama)])
    assert taken.names == [f"unix:{tmp_path}/s", name]
    assert "magid.socket did not start" in taken.missing[0]


@pytest.mark.parametrize(
    "env",
    [{"LISTEN_PID": "1"}, {"LISTEN_PID": ""}, {"LISTEN_PID": "x"}, {"LISTEN_FDS": "0"}],
    ids=str,
)
def test_what_is_for_another_process_is_left_alone(held: ExitStack, env: dict[str, str]) -> None:
    sock = listening(held, socket.AF_INET, ("127.0.0.1", 0))
    assert hand_over(sock, **env) == {"names": [], "inheritable": [], "open": [3]}


def udp(held: ExitStack, _: Path) -> socket.socket:
    sock = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sock.bind(("127.0.0.1", 0))
    return sock


def plain_file(held: ExitStack, folder: Path) -> int:
    return held.enter_context((folder / "file").open("w")).fileno()


def connected(held: ExitStack, _: Path) -> socket.socket:
    ours, theirs = socket.socketpair()
    held.enter_context(theirs)
    return held.enter_context(ours)


def not_listening(held: ExitStack, _: Path) -> socket.socket:
    sock = held.enter_context(socket.socket())
    sock.bind(("127.0.0.1", 0))
    return sock


def packets(held: ExitStack, folder: Path) -> socket.socket:
    sock = held.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    sock.bind(str(folder / "p"))
    sock.listen()
    return sock


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (udp, "it is not a listening stream socket; use ListenStream="),
        (connected, "it is not a listening stream socket"),
        (not_listening, "it is not a listening stream socket"),
        (packets, "it is not a listening stream socket"),
        (plain_file, "Socket operation on non-socket"),
    ],
)
def test_what_cannot_be_served_on_is_refused_untouched(
    held: ExitStack,
    tmp_path: Path,
    make: Callable[[ExitStack, Path], socket.socket | int],
    why: str,
) -> None:
    good = listening(held, socket.AF_INET, ("127.0.0.1", 0))
    answer = hand_over(good, make(held, tmp_path))
    assert str(answer["error"]).startswith("cannot use descriptor 4 of LISTEN_FDS: ")
    assert why in str(answer["error"])
    assert answer["open"] == [4]


@pytest.mark.parametrize(
    ("count", "why"),
    [
        ("2", "cannot use descriptor 4 of LISTEN_FDS: Bad file descriptor"),
        ("-1", "cannot use LISTEN_FDS='-1': it is not a number of sockets"),
        ("many", "cannot use LISTEN_FDS='many'"),
        ("", "cannot use LISTEN_FDS=''"),
        ("9" * 30, "cannot use LISTEN_FDS='9999"),
    ],
)
def test_a_wrong_count_is_refused(held: ExitStack, count: str, why: str) -> None:
    sock = listening(held, socket.AF_INET, ("127.0.0.1", 0))
    assert why in str(hand_over(sock, LISTEN_FDS=count)["error"])


# -- reachable from elsewhere ------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0:8000", "192.168.1.7:8000", "[::]:8000", "[fe80::1]:8000", "[2001:db8::1]:8000"],
)
def test_reachable_from_elsewhere_needs_a_token(address: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        take("127.0.0.1:1", address)
    assert caught.value.message == (
        f"cannot listen on {address}: other machines can reach it and no token "
        "exists; make one: magictl token create --offline --scope admin --name "
        "NAME, or bind a loopback address"
    )


def test_with_a_token_it_may_be_reachable(held: ExitStack) -> None:
    sockets.check_exposure([parse_address("0.0.0.0:8000")], has_token=True)
    bound = held.enter_context(socket.socket())
    bound.bind(("0.0.0.0", 0))  # and listens to nobody
    port = bound.getsockname()[1]
    local = listening(held, socket.AF_INET6, ("::1", 0))
    taken = Taken([bound, local])
    assert taken.exposed == [f"0.0.0.0:{port}"]
    assert taken.addresses == [
        TcpAddress("0.0.0.0", port), TcpAddress("::1", local.getsockname()[1])
    ]  # fmt: skip
