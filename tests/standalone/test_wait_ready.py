"""wait_ready.py as the unit runs it, beside a server that behaves or does not."""

import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from magid.standalone.wait_ready import pause_s
from tests.support import fake_llama
from tests.support.deadlines import DEADLINE_S
from tests.support.impostor_server import NOBODY, Sly

pytestmark = pytest.mark.slow

READY = Path(__file__).parents[2] / "magid" / "standalone" / "wait_ready.py"
KEY = "the-key-of-this-server"


@pytest.fixture
def port(free_port: Callable[[], int]) -> int:
    return free_port()


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "api-key"
    path.write_text(KEY + "\n")
    return path


Serve = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def serve(tmp_path: Path, port: int, key_file: Path) -> Iterator[Serve]:
    """Starts a llama-server of this behaviour; ended with the test."""
    running: list[subprocess.Popen[bytes]] = []

    def start(*behaviour: str) -> subprocess.Popen[bytes]:
        program = fake_llama.install(tmp_path / "bin", *behaviour)
        arguments = ["--model", "/m.gguf", "--alias", "demo", "--host", "127.0.0.1"]
        arguments += ["--port", str(port), "--api-key-file", str(key_file)]
        process = subprocess.Popen(
            [str(program), *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.wait()


def ready(
    port: int,
    key_file: Path,
    *,
    longest: float = 20,
    pid: int | None = None,
    notify: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    environment = {} if pid is None else {"MAINPID": str(pid)}
    if notify:
        environment["NOTIFY_SOCKET"] = str(notify)
    arguments = ["127.0.0.1", str(port), "demo", str(key_file), str(longest), "0.1"]
    return subprocess.run(
        [sys.executable, "-I", "-S", str(READY), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def heard(notify: socket.socket) -> list[str]:
    notify.setblocking(False)
    messages = []
    while True:
        try:
            messages.append(notify.recv(4096).decode())
        except BlockingIOError:
            return messages


def test_it_returns_when_the_server_answers(
    serve: Serve, port: int, key_file: Path, tmp_path: Path
) -> None:
    server = serve()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(tmp_path / "notify"))
        done = ready(port, key_file, pid=server.pid, notify=tmp_path / "notify")
        messages = heard(notify)
    assert (done.returncode, done.stderr) == (0, "")
    assert messages[-1].startswith("STATUS=ready after ")
    assert all("EXTEND_TIMEOUT_USEC=60000000" in message for message in messages[:-1])


def test_a_unit_that_is_stopped_has_not_failed(port: int, key_file: Path) -> None:
    arguments = ["127.0.0.1", str(port), "demo", str(key_file), "20", "0.1"]
    with (
        subprocess.Popen(
            [sys.executable, "-I", "-S", str(READY), *arguments], stderr=subprocess.PIPE
        ) as process,
        socket.create_server(("127.0.0.1", port)) as server,
    ):
        server.settimeout(DEADLINE_S)
        server.accept()[0].close()  # it has begun
        process.terminate()
        assert process.wait(DEADLINE_S) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""


@pytest.mark.parametrize("behaviour", ["no-alias", "shares-port"])
def test_older_servers(serve: Serve, port: int, key_file: Path, behaviour: str) -> None:
    assert ready(port, key_file, pid=serve(behaviour).pid).returncode == 0


@pytest.mark.parametrize(
    ("behaviour", "why"),
    [
        (
            "any-key",
            "another program answers on port {port}: it answers a wrong key with 200",
        ),
        ("other-alias", "another program answers on port {port}: it serves "),
        ("crashes", "the server ended before it was ready"),
    ],
)
def test_it_fails_in_words(
    serve: Serve, port: int, key_file: Path, behaviour: str, why: str
) -> None:
    done = ready(port, key_file, pid=serve(behaviour).pid)
    assert done.returncode == 1
    assert done.stderr.startswith("error: " + why.format(port=port))
    assert done.stderr.count("\n") == 1
    assert KEY not in done.stderr


def test_a_program_of_another_user(serve: Serve, port: int, key_file: Path) -> None:
    """It knows what it will be asked; but it is not of the user that the unit runs as."""
    server = serve("never-binds")
    with Sly(port, "demo", NOBODY) as stranger:
        done = ready(port, key_file, pid=server.pid)
    expected = f"error: another program has port {port}: it runs as user {NOBODY}\n"
    assert (done.returncode, done.stderr) == (1, expected)
    assert KEY.encode() not in stranger.heard


@pytest.mark.parametrize(
    ("behaviour", "why"),
    [
        ("never-binds", "its port does not answer"),
        ("loading=/nonexistent", "it was still loading the model"),
        ("health-error", "/health answers with an error"),
    ],
)
def test_it_gives_up(serve: Serve, port: int, key_file: Path, behaviour: str, why: str) -> None:
    server = serve(behaviour)
    done = ready(port, key_file, pid=server.pid, longest=1)
    assert (done.returncode, "was not ready within 1 s" in done.stderr) == (1, True)
    assert why in done.stderr


def test_a_server_that_is_gone_already(port: int, key_file: Path) -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    done = ready(port, key_file, pid=process.pid)
    assert (done.returncode, done.stderr) == (1, "error: the server ended before it was ready\n")


def test_a_server_that_is_killed_meanwhile(
    serve: Serve, port: int, key_file: Path, tmp_path: Path
) -> None:
    server = serve("loading=/nonexistent")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(tmp_path / "notify"))
        notify.settimeout(DEADLINE_S)
        arguments = ["127.0.0.1", str(port), "demo", str(key_file), "60", "0.1"]
        with subprocess.Popen(
            [sys.executable, "-I", "-S", str(READY), *arguments],
            env={"MAINPID": str(server.pid), "NOTIFY_SOCKET": str(tmp_path / "notify")},
            stderr=subprocess.DEVNULL,
        ) as poller:
            while "STATUS=loading" not in notify.recv(4096).decode():
                pass
            server.send_signal(signal.SIGKILL)
            server.wait()  # as systemd does: a zombie's handle is readable too
            assert poller.wait(30) == 1


def test_no_key(serve: Serve, port: int, tmp_path: Path) -> None:
    (tmp_path / "api-key").write_text("x")
    server = serve()
    (tmp_path / "other").mkdir()
    done = ready(port, tmp_path / "other" / "absent", pid=server.pid)
    assert (done.returncode, "No such file" in done.stderr) == (1, True)


@pytest.mark.parametrize("arguments", [(), ("a",), ("h", "p", "a", "k", "1", "1")], ids=repr)
def test_bad_usage(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(READY), *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert (done.returncode, done.stderr.startswith("error: ")) == (1, True)


@pytest.mark.parametrize(
    ("took", "pause"), [(0.0, 0.02), (0.4, 0.02), (2.0, 0.1), (30.0, 1.5), (1000.0, 2.0)]
)
def test_a_check_comes_late_by_a_twentieth_of_the_start(took: float, pause: float) -> None:
    assert pause_s(took, 2.0) == pytest.approx(pause)
