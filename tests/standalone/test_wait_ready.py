"""wait_ready.py as exec_model.py forks it, beside a server that behaves or does not."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from magid.standalone.wait_ready import pause_s
from tests.support import fake_llama
from tests.support.deadlines import DEADLINE_S
from tests.support.impostor_server import NOBODY, Sly

pytestmark = pytest.mark.slow

GATE = Path(__file__).parents[2] / "magid" / "standalone" / "exec_model.py"
KEY = "the-key-of-this-server-0123456789abcdef"


@dataclass
class Start:
    """A server that is starting, and the socket on which systemd would be told of it."""

    process: subprocess.Popen[str]
    notify: socket.socket

    def told(self) -> str:
        """Returns the next message, when it comes; the pipe of a barrier is closed at once."""
        while (message := self.notify.recv(4096).decode()) == "BARRIER=1":
            pass
        return message

    def end(self) -> tuple[int, str]:
        """Returns the server's status, and what it and its watcher printed, when both ended."""
        said = self.process.communicate(timeout=DEADLINE_S)[1]
        return self.process.returncode, said


Starts = Callable[..., Start]


@pytest.fixture
def port(free_port: Callable[[], int]) -> int:
    return free_port()


@pytest.fixture
def starts(tmp_path: Path, port: int) -> Iterator[Starts]:
    """Starts a llama-server of this behaviour; ended with the test."""
    key_file, model = tmp_path / "api-key", tmp_path / "m.gguf"
    key_file.write_text(KEY + "\n")
    model.write_bytes(b"GGUF")
    status = model.stat()
    with ExitStack() as ending:

        def start(*behaviour: str, longest: float = 60, host: str = "127.0.0.1") -> Start:
            program = fake_llama.install(tmp_path / "bin", *behaviour)
            notify = ending.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            notify.bind(str(tmp_path / "notify"))
            notify.settimeout(DEADLINE_S)
            server = [str(program), "--model", str(model), "--alias", "demo", "--host", host]
            server += ["--port", str(port), "--api-key-file", str(key_file)]
            checked = f"{status.st_dev}:{status.st_ino}:{model}"
            words = [f"ready:{longest:g}:0.1", checked, "--", *server]
            process = ending.enter_context(
                subprocess.Popen(
                    [sys.executable, "-I", "-S", str(GATE), *words],
                    env={"NOTIFY_SOCKET": str(tmp_path / "notify")},
                    stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                )
            )  # fmt: skip
            ending.callback(process.kill)
            return Start(process, notify)

        yield start


def errors(said: str) -> list[str]:
    """Returns what was printed, without the server's log of requests."""
    return [line for line in said.splitlines() if line.startswith("error")]


@pytest.mark.parametrize("behaviour", [(), ("no-alias",), ("shares-port",)])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_systemd_is_told_when_it_answers(
    starts: Starts, behaviour: tuple[str, ...], host: str
) -> None:
    started = starts(*behaviour, host=host)
    while not (told := started.told()).startswith("READY=1\n"):
        assert told.startswith("STATUS=starting")
    assert told.startswith("READY=1\nSTATUS=ready after ")
    children = Path(f"/proc/{started.process.pid}/task/{started.process.pid}/children")
    assert children.read_text() == ""  # the server would leave a zombie
    started.process.terminate()
    assert errors(started.end()[1]) == []


def test_a_long_load_is_reported_once_a_second(starts: Starts, tmp_path: Path) -> None:
    loaded = tmp_path / "loaded"
    started = starts(f"loading={loaded}")
    told = [started.told(), started.told()]
    seconds = [one.removeprefix("STATUS=").partition("\n")[0] for one in told]
    assert len(set(seconds)) == 2
    assert seconds[-1].startswith("loading (")
    assert "EXTEND" not in "".join(told)  # it would hold for a stop too
    loaded.touch()
    while not (last := started.told()).startswith("READY=1\n"):
        assert last.startswith("STATUS=loading")


@pytest.mark.parametrize(
    ("behaviour", "longest", "why"),
    [
        ("any-key", 60, "another program answers on port {port}: it answers a wrong key with 200"),
        ("never-binds", 1, "was not ready within 1 s: its port does not answer"),
        ("loading=/nonexistent", 1, "within 1 s: it was still loading the model; a larger max_sta"),
        ("health-error", 1, "was not ready within 1 s: /health answers with an error"),
    ],
)
def test_one_that_will_not_be_ready_is_killed(
    starts: Starts, port: int, behaviour: str, longest: float, why: str
) -> None:
    started = starts(behaviour, longest=longest)
    while not (told := started.told()).startswith("STATUS=not ready: "):
        assert told.startswith("STATUS=")
    status, said = started.end()
    assert status == -signal.SIGKILL
    assert why.format(port=port) in told
    assert errors(said) == [f"error: {told.removeprefix('STATUS=not ready: ')}"]
    assert KEY not in said + told


def test_a_program_of_another_user(starts: Starts, port: int) -> None:
    """It knows what it will be asked; but it is not of the user that the unit runs as."""
    with Sly(port, "demo", NOBODY) as stranger:
        started = starts("never-binds")
        while not (told := started.told()).startswith("STATUS=not ready: "):
            pass
        assert started.end()[0] == -signal.SIGKILL
    assert told == f"STATUS=not ready: another program has port {port}: it runs as user {NOBODY}"
    assert KEY.encode() not in stranger.heard


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_who_watches_ends_with_the_server(starts: Starts, number: int) -> None:
    """A stop has not failed, and what else has ended it, systemd sees."""
    started = starts("loading=/nonexistent")
    while not started.told().startswith("STATUS=loading"):
        pass
    started.process.send_signal(number)
    status, said = started.end()
    assert (status, errors(said)) == (-number, [])


def test_a_server_that_crashes(starts: Starts) -> None:
    status, said = starts("crashes").end()
    assert (status, errors(said)) == (1, ["error: broken on purpose"])


def test_without_systemd_it_watches_all_the_same(starts: Starts) -> None:
    started = starts("any-key")
    started.notify.close()
    assert started.end()[0] == -signal.SIGKILL


@pytest.mark.parametrize(
    ("behaviour", "pid", "status", "why"),
    [
        ((), None, 0, ""),
        (("never-binds",), None, 1, "was not ready within 2 s: its port does not answer"),
        ((), "x", 1, "invalid literal"),
    ],
)
def test_as_the_program_of_units_of_an_earlier_magid(
    starts: Starts, port: int, tmp_path: Path,
    behaviour: tuple[str, ...], pid: str | None, status: int, why: str,
) -> None:  # fmt: skip
    process = starts(*behaviour).process
    words = ["127.0.0.1", str(port), "demo", str(tmp_path / "api-key"), "2", "0.1"]
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(GATE.with_name("wait_ready.py")), *words],
        env={"MAINPID": pid or str(process.pid)},
        capture_output=True, text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert (done.returncode, why in done.stderr) == (status, True)


@pytest.mark.parametrize("patience", ["", "x", "1", "1:2:3"])
def test_bad_usage(patience: str) -> None:
    status = GATE.stat()
    words = [f"ready:{patience}", f"{status.st_dev}:{status.st_ino}:{GATE}", "--", "/bin/echo"]
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(GATE), *words, "--host", "127.0.0.1", "--port", "1"],
        capture_output=True, text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.startswith("error: cannot start: ")


@pytest.mark.parametrize(
    ("took", "pause"),
    [(0.0, 0.005), (0.1, 0.005), (0.2, 0.01), (0.4, 0.02), (2.0, 0.02), (60.0, 0.6), (900.0, 2.0)],
)
def test_a_server_is_seen_within_20_ms_or_a_hundredth_of_its_load(
    took: float, pause: float
) -> None:
    assert pause_s(took, 2.0) == pytest.approx(pause)
    assert pause_s(took, 0.02) == pytest.approx(min(pause, 0.02))


def test_it_imports_little() -> None:
    """It shares the processor with the load: http.client alone takes as long as Python's start."""
    code = (
        f"import sys; sys.path.append({str(GATE.parent)!r}); import wait_ready; print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code],
        capture_output=True, text=True, timeout=DEADLINE_S, check=True, env=dict(os.environ),
    )  # fmt: skip
    heavy = {"socket", "http", "json", "re", "pathlib", "typing", "enum", "selectors", "signal"}
    assert heavy.isdisjoint(done.stdout.split())
