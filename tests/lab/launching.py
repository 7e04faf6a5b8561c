"""The launcher in a container, and how tests ask it."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import httpx

from magid.launcher.protocol import (
    ForgetRequest,
    LauncherReply,
    Request,
    StartRequest,
    parse_reply,
    request_line,
)
from magid.llama.spec import ServerSpec
from magid.systemd.unit_names import unit_name
from tests.lab.container import Container
from tests.lab.installing import install_magid
from tests.support.deadlines import DEADLINE_S

MODEL = "/models/Demo.gguf"
FLAGS = frozenset(
    {
        *("--api-key-file", "--metrics", "--no-ui", "--offline", "--cors-origins"),
        *("--ctx-size", "--threads", "--parallel", "--temp", "--flash-attn"),
        *("--fit", "-lv", "--no-warmup"),
    }
)
LOW, HIGH = 8080, 8179
SETTINGS = f"""\
model_paths: [/models, /var/lib/magi/models]
port_range: [{LOW}, {HIGH}]
max_startup_time: 20
readiness_check_interval: 0.5
stop_timeout: 5
restart:
  limit: 2
  first_delay: 0.2
  max_delay: 1
"""
# A client of any user's; the request comes on its standard input.
ASK = """\
import socket, sys
with socket.socket(socket.AF_UNIX) as sock:
    sock.settimeout(120)
    sock.connect("/run/magi/launcher.sock")
    sock.sendall(sys.stdin.buffer.read())
    sys.stdout.buffer.write(sock.makefile("rb").readline())
"""


def install_launcher(container: Container, model: Path) -> None:
    """The launcher, with its socket open, and a model."""
    install_magid(container)
    container.write("/etc/magi/magid.yaml", SETTINGS)
    container.run(["systemd-tmpfiles", "--create", "--prefix=/run/magi-keys"])
    container.write(MODEL, model.read_bytes())
    container.systemctl("start", "magi-launcher.socket")


@dataclass
class Asker:
    """Talks to the launcher of one container; gives each server a port of its own."""

    container: Container
    _ports: Iterator[int]

    @classmethod
    def of(cls, container: Container) -> "Asker":
        return cls(container, count(LOW))

    def spec(self, **changes: object) -> ServerSpec:
        spec = ServerSpec("demo_tiny", 0, 0, "127.0.0.1", MODEL, ctx_size=256, n_threads=1)
        return replace(spec, **({"port": next(self._ports)} | changes))  # type: ignore[arg-type]  # a table of test values

    def ask(self, request: Request, user: str = "magi") -> LauncherReply:
        return parse_reply(self.say(request_line(request), user))

    def say(self, line: bytes, user: str = "magi") -> bytes:
        done = self.container.run(["python3", "-I", "-c", ASK], input=line, user=user)
        return done.stdout.encode()

    def start(self, spec: ServerSpec, profile: str | None = "production") -> LauncherReply:
        return self.ask(StartRequest(spec, profile, FLAGS))

    @contextmanager
    def running(self, spec: ServerSpec) -> Iterator[str]:
        """The name of a unit that is ready; forgotten at the end."""
        try:
            reply = self.start(spec)
            assert reply.ok, reply.message
            self.wait_active(spec)
            yield spec.unit
        finally:
            self.ask(ForgetRequest(spec.port))

    def wait_active(self, spec: ServerSpec) -> None:
        self.wait_state(spec.port, "active")

    def wait_state(self, port: int, *states: str) -> None:
        self.container.wait_until(self.is_in(port, *states), f"{unit_name(port)} {states}")

    def is_in(self, port: int, *states: str) -> Callable[[], bool]:
        return lambda: self.container.show(unit_name(port), "ActiveState")["ActiveState"] in states

    @contextmanager
    def connected(self) -> Iterator[socket.socket]:
        """A connection from outside, as root."""
        command = self.container.command([])
        leader = command[command.index("--target") + 1]
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(DEADLINE_S)
            sock.connect(f"/proc/{leader}/root/run/magi/launcher.sock")
            yield sock

    def send_raw(self, data: bytes) -> bytes:
        """What comes back for these bytes; b"" if the connection ends without an answer."""
        with self.connected() as sock:
            try:
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
                with sock.makefile("rb") as answer:
                    return answer.readline()
            except (BrokenPipeError, ConnectionResetError):
                return b""


def score(container: Container, unit: str) -> float:
    lines = container.run(["systemd-analyze", "--no-pager", "security", unit]).stdout.splitlines()
    return float(lines[-1].split(":")[1].split()[0])


def answers(container: Container, port: int) -> bool:
    try:
        return container.http("GET", f"http://127.0.0.1:{port}/health").status_code == 200
    except httpx.TransportError:
        return False
