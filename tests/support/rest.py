"""What tests of the REST API share: a daemon with models of every tier, and raw HTTP."""

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magid.llama.runtime_settings import SETTINGS
from tests.support import ggufs
from tests.support.deadlines import DEADLINE_S
from tests.support.running import Running

# Two models that run, one that could, and two that are known by their headers alone.
ALPHA = "alpha_instruct_0p0b_q40_fast"
BETA = "beta_0p0b_f16_balanced"
GAMMA = "gamma_thinking_0p0b_f16_powerful"
DEEPSEEK = "deepseek_r1_8p0b_q4km_powerful"
QWEN = "qwen3_4p0b_q2k_fast"
PORTS = 3
PROFILE = "name: Test\ndescription: two that run\nenabled_models: ['alpha*', 'beta*']\n"


@dataclass(frozen=True, slots=True)
class Parts:
    """What every daemon under test is made of; see the fixture `parts`."""

    llama_server: Path
    free_port: Callable[[], int]
    free_ports: Callable[[int], int]

    def daemon(self, folder: Path, configuration: str = "") -> Running:
        """A daemon of its own with no model yet, not started."""
        folder.mkdir(parents=True, exist_ok=True)
        low = self.free_ports(PORTS)
        running = Running(
            folder,
            port=self.free_port(),
            port_range=(low, low + PORTS - 1),
            llama_server=self.llama_server,
        )
        with running.configuration.open("a") as file:
            file.write(configuration)
        (running.profiles / "test.yaml").write_text(PROFILE)
        return running


@contextmanager
def serving(
    parts: Parts, folder: Path, configuration: str = "", *, locally: bool = False
) -> Iterator[Running]:
    """A daemon with the five models, ready; ended behind the block. `locally`: see Running."""
    running = parts.daemon(folder, configuration)
    if locally:
        running.listen_locally()
    write_models(running.models)
    with running, running.client:
        running.wait_ready()
        yield running


def write_models(models: Path) -> None:
    ggufs.write_chat_model(models / "Alpha-Instruct-Q4_0.gguf", quantization="Q4_0")
    ggufs.write_chat_model(models / "Beta-F16.gguf", quantization="F16")
    ggufs.write_chat_model(
        models / "Gamma-Thinking-F16.gguf",
        template=ggufs.THINKING_TEMPLATE,
        answer=ggufs.THINKING_ANSWER,
        quantization="F16",
    )
    ggufs.write_sparse_model(models / "DeepSeek-R1-8B-Q4_K_M.gguf", parameters_billions=8.0)
    ggufs.write_sparse_model(
        models / "Qwen3-4B-Q2_K.gguf", parameters_billions=4.0, quantization="Q2_K"
    )


def model(magid: Running, model_id: str) -> dict[str, Any]:
    """One row of the registry."""
    found: dict[str, Any] = magid.get("/api/models/registry")["models"][model_id]
    return found


def refused(magid: Running, method: str, path: str, body: object, status: int) -> dict[str, Any]:
    """The error of a request that must fail with this status."""
    answer: dict[str, Any] = magid.ask(method, path, body, status=status)
    assert answer.keys() == {"error", "message", "details"}
    assert answer["message"].startswith("cannot ")
    return answer


def forget_overrides(magid: Running) -> None:
    """Every model as it was found."""
    for model_id, shown in magid.get("/api/models/registry")["models"].items():
        base = f"/api/models/{model_id}"
        for name in ("tier", "thinking", "enabled"):
            if shown[f"{name}Override"] is not None:
                magid.ask("PUT", f"{base}/{name}", {name: None})
        sources = magid.get(base)["sources"]
        if sources["port"] == "override":
            magid.ask("PUT", f"{base}/port", {"port": None})
        mine = {s.key: None for s in SETTINGS if sources[s.key] == "override"}
        if mine:
            magid.ask("PUT", f"{base}/runtime-settings", mine)


# -- raw HTTP ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer as it came over the wire."""

    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S)


def until_closed(connection: socket.socket) -> bytes:
    """All that comes until the daemon ends the connection; a test fails if it never does."""
    received = bytearray()
    while True:
        try:
            data = connection.recv(65536)
        except ConnectionResetError:
            return bytes(received)
        if not data:
            return bytes(received)
        received += data


def exchange(port: int, data: bytes) -> list[Answer]:
    """Send this, which must end the connection, and read every answer."""
    with connect(port) as connection:
        connection.sendall(data)
        return answers(until_closed(connection))


def ask(port: int, start: str, *headers: str, host: str = "localhost") -> Answer:
    """One well-formed request without a body on a connection of its own."""
    lines = [start, f"Host: {host}", *headers, "Connection: close", "", ""]
    (answer,) = exchange(port, "\r\n".join(lines).encode())
    return answer


def check_error(answer: Answer, status: int) -> dict[str, Any]:
    """The error in its one shape."""
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    error: dict[str, Any] = json.loads(answer.body)
    assert error.keys() == {"error", "message", "details"}
    assert error["message"].startswith("cannot ")
    return error


def answers(raw: bytes) -> list[Answer]:
    """Answers with Content-Length or without a body, one behind the other."""
    found = []
    while raw:
        head, _, rest = raw.partition(b"\r\n\r\n")
        start, *lines = head.decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in lines)
        }
        size = int(headers.get("content-length", 0))
        found.append(Answer(int(start.split(" ")[1]), headers, rest[:size]))
        raw = rest[size:]
    return found
