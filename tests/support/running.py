"""A real daemon as a process of its own, with its own folders, talked to over HTTP."""

import json
import os
import select
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import psutil

from tests.support.conformance import Conformance
from tests.support.deadlines import DEADLINE_S

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """The process does nothing meanwhile, and goes on afterwards, however the block is left."""
    os.kill(pid, signal.SIGSTOP)
    try:
        deadline = time.monotonic() + DEADLINE_S
        while psutil.Process(pid).status() != psutil.STATUS_STOPPED:
            assert time.monotonic() < deadline, f"{pid} goes on"
            os.sched_yield()
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


class Running:
    """The daemon under test. `client` checks every answer against /openapi.json."""

    def __init__(
        self, folder: Path, *, port: int, port_range: tuple[int, int], llama_server: Path
    ) -> None:
        self.folder = folder
        self.models = folder / "models"
        self.profiles = folder / "profiles"
        self.state = folder / "state"
        for path in (self.models, self.profiles, self.state):
            path.mkdir(exist_ok=True)
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.environment = {
            "PATH": os.environ["PATH"],
            "MODEL_SCAN_PATH": str(self.models),
            "MAGI_STATE_DIR": str(self.state),
            "MAGI_PROFILES_DIR": str(self.profiles),
            "MAGI_SHIPPED_PROFILES_DIR": str(folder / "shipped"),
            "MAGI_PAGE_DIR": str(folder / "page"),
            "MAGI_PROFILE": "test",
            "MAGI_BIND": f"127.0.0.1:{port}",
            "MAGI_LAUNCHER": "process",
            "LLAMA_SERVER_PATH": str(llama_server),
            "MAX_STARTUP_TIME": "60",
            "READINESS_CHECK_INTERVAL": "1",
        }
        self.configuration = folder / "magid.yaml"
        self.port_range = low, high = port_range
        self.configuration.write_text(
            f"port_range: [{low}, {high}]\n"
            "server_defaults: {n_threads: 1, parallel: 1, ctx_size: 512}\n"
            "restart: {limit: 2, first_delay: 0.1, max_delay: 0.2}\n"
        )
        self.environment["MAGI_CONFIG"] = str(self.configuration)
        self.log = folder / "magid.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.client = httpx.Client(base_url=self.url, timeout=DEADLINE_S, trust_env=False)
        self.trusted: ssl.SSLContext | bool = True
        self.through: tuple[str, ...] = ()  # the program, with arguments, that becomes magid

    def use_token(self, token: str) -> None:
        """Show it with every request from here on."""
        self.client.headers["Authorization"] = f"Bearer {token}"

    def listen_locally(self) -> None:
        """On a unix socket too, from its next start on."""
        self.environment["MAGI_BIND"] += f",unix:{self.folder}/magid.sock"

    def local(self) -> httpx.Client:
        """A client on the unix socket; to be closed by the caller."""
        transport = httpx.HTTPTransport(uds=f"{self.folder}/magid.sock")
        return httpx.Client(transport=transport, base_url="http://localhost", timeout=DEADLINE_S)

    def make_token(self, name: str, *scopes: str, models: Sequence[str] | None = None) -> str:
        """Over the unix socket, where also the first one is made."""
        body = {"name": name, "scopes": scopes, "models": models}
        with self.local() as client:
            answer = client.post("/api/tokens", json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["token"])

    def use_tls(self, trusted: Path) -> None:
        """Ask over TLS from here on, and trust this certificate alone."""
        self.trusted = ssl.create_default_context(cafile=str(trusted))
        self.url = self.url.replace("http:", "https:")
        self.client = httpx.Client(
            base_url=self.url, timeout=DEADLINE_S, trust_env=False, verify=self.trusted
        )

    # -- life ----------------------------------------------------------------------------

    def start(self) -> "Running":
        """Returns once the daemon says READY=1, which is when its API answers."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, self.log.open("ab") as log:
            path = self.folder / "notify"
            path.unlink(missing_ok=True)
            notify.bind(str(path))
            self.process = subprocess.Popen(
                [*self.through, sys.executable, "-m", "magid"],
                cwd=ROOT,
                env={**self.environment, "NOTIFY_SOCKET": str(path)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
            ended = os.pidfd_open(self.process.pid)
            try:
                while True:
                    heard, _, _ = select.select([notify.fileno(), ended], [], [], DEADLINE_S)
                    assert notify.fileno() in heard, f"not READY; its log:\n{self.log.read_text()}"
                    if b"READY=1" in notify.recv(4096).split(b"\n"):
                        break
            finally:
                os.close(ended)
        self._check_conformance()
        return self

    def _check_conformance(self) -> None:
        document = httpx.get(
            f"{self.url}/openapi.json",
            timeout=DEADLINE_S,
            trust_env=False,
            verify=self.trusted,
        ).json()
        self.client.event_hooks = {"response": [Conformance(document)]}

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_S)

    def kill(self) -> None:
        """SIGKILL: nothing of the daemon gets to run any more."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(DEADLINE_S)

    def __enter__(self) -> "Running":
        try:
            return self.start()
        except BaseException:
            if self.process is not None and self.process.poll() is None:
                self.kill()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self.process is not None and self.process.poll() is None:
                self.stop()
        finally:
            if self.process is not None and self.process.poll() is None:
                self.kill()  # nothing outlives its test, a daemon that does not end least of all
        if kind is not None:
            sys.stderr.write(self.log.read_text())

    # -- asking --------------------------------------------------------------------------

    def get(self, path: str) -> Any:
        return self.ask("GET", path)

    def ask(self, method: str, path: str, body: object = None, status: int | None = None) -> Any:
        """The parsed answer; `status` is what is expected, else any 2xx."""
        options = {} if body is None else {"json": body}
        response = self.client.request(method, path, **options)  # type: ignore[arg-type]  # httpx's
        good = response.is_success if status is None else response.status_code == status
        assert good, f"{method} {path}: {response.status_code} {response.text}"
        return response.json() if response.content else None

    def servers(self) -> dict[str, Any]:
        """Model id -> its first server."""
        return {s["modelId"]: s for s in self.get("/api/models/servers?all=true")["servers"]}

    def key(self, port: int) -> str:
        return (self.state / "keys" / f"{port}.key").read_text().strip()

    def complete(self, port: int) -> str:
        """What the server on this port says to a chat request."""
        response = httpx.post(
            f"http://127.0.0.1:{port}/v1/chat/completions",
            headers={"Authorization": f"Bearer {self.key(port)}"},
            json={"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8},
            timeout=DEADLINE_S,
            trust_env=False,
        )
        assert response.status_code == 200, response.text
        message = response.json()["choices"][0]["message"]
        return str(message.get("content") or message.get("reasoning_content"))

    # -- waiting -------------------------------------------------------------------------

    def events(self) -> Iterator[tuple[str, Any]]:
        """Kind and data of every event, the snapshot first."""
        return (item for item in self._feed() if item is not None)

    def _feed(self) -> Iterator[tuple[str, Any] | None]:
        """The same, and None for every keep-alive."""
        with self.client.stream("GET", "/api/events") as response:
            assert response.status_code == 200
            kind = ""
            for line in response.iter_lines():
                field, _, value = line.partition(": ")
                if field == "event":
                    kind = value
                elif field == "data":
                    yield kind, json.loads(value)
                elif line.startswith(":"):
                    yield None

    def wait_for(self, what: str, is_so: Callable[[], bool]) -> None:
        """Look again after every event, until it is so."""
        deadline = time.monotonic() + DEADLINE_S
        for _item in self._feed():
            if is_so():
                return
            assert time.monotonic() < deadline, f"no {what}; {self.get('/api/models/servers')}"
        raise AssertionError(f"the event stream ended before: {what}")

    def wait_ready(self) -> None:
        """Until /readyz answers 200."""
        self.wait_for("readiness", lambda: self.client.get("/readyz").status_code == 200)

    def wait_state(self, model_id: str, state: str) -> Any:
        """Until the model's server is in this state; answers the server."""
        self.wait_for(f"{state} of {model_id}", lambda: self._state(model_id) == state)
        return self.servers()[model_id]

    def _state(self, model_id: str) -> str | None:
        server = self.servers().get(model_id)
        return None if server is None else str(server["state"])
