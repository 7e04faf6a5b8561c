"""The fake GPUs that tests use: the real llama-server sees them, fills them and cannot overfill."""

import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from tests.support import fake_gpu
from tests.support.deadlines import DEADLINE_S
from tests.support.fake_gpu import MIB
from tests.support.gpus import FakeGpu, MakeGpus


def _run(program: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [str(program), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)


def _devices(program: Path) -> list[str]:
    said = _run(program, "--list-devices").stdout
    return [line.strip() for line in said.partition("Available devices:")[2].splitlines()[1:]]


@contextmanager
def _loaded(program: Path, model: Path, port: int) -> Iterator[None]:
    """A llama-server with all of the model on RPC0, until it has answered that it is ready."""
    command = [str(program), "--model", str(model), "--device", "RPC0", "-ngl", "99"]
    more = ["-c", "512", "-t", "1", "-np", "1", "--port", str(port)]
    with subprocess.Popen(
        [*command, *more], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            assert process.stdout is not None
            lines = []
            for line in process.stdout:
                lines.append(line)
                if "model loaded" in line:
                    break
            else:
                raise AssertionError("".join(lines))
            yield
        finally:
            process.terminate()
            process.communicate(timeout=DEADLINE_S)


def test_llama_server_lists_them(make_gpus: MakeGpus) -> None:
    gpus = make_gpus((8192, 300), (24576, 0))
    one, two = gpus.fakes
    assert _devices(gpus.llama_server) == [
        f"RPC0: {one.address} (8192 MiB, 7892 MiB free)",
        f"RPC1: {two.address} (24576 MiB, 24576 MiB free)",
    ]
    two.use(24000)
    assert "(24576 MiB, 576 MiB free)" in _devices(gpus.llama_server)[1]


def test_a_model_fills_one_and_leaves_it(
    make_gpus: MakeGpus, chat_model: Path, free_port: Callable[[], int]
) -> None:
    gpus, port = make_gpus((100, 10)), free_port()
    (gpu,) = gpus.fakes
    with _loaded(gpus.llama_server, chat_model, port):
        memory = gpu.memory()
        assert memory["used"] > 0
        assert memory["free"] in range(90 - memory["used"] - 1, 90 - memory["used"] + 1)
        answer = httpx.post(
            f"http://127.0.0.1:{port}/completion",
            json={"prompt": "Hello", "n_predict": 2},
            timeout=DEADLINE_S,
        )
        assert answer.json()["tokens_predicted"] == 2
    _wait_empty(gpu)


def test_its_server_listens_where_no_other_process_does(
    make_gpus: MakeGpus, chat_model: Path, free_port: Callable[[], int]
) -> None:
    """At one address two could pick the same port, and one would use the server of the other."""
    gpus, port = make_gpus((100, 10)), free_port()
    (gpu,) = gpus.fakes
    with _loaded(gpus.llama_server, chat_model, port):
        (server,) = psutil.Process(gpu.process.pid).children()
        found = {c.laddr.ip for c in server.net_connections("tcp") if c.status == "LISTEN"}
    assert found == {fake_gpu.own_address(gpu.process.pid)}


def test_a_connection_that_ends_takes_no_other_ones_memory_with_it(make_gpus: MakeGpus) -> None:
    """As when the GPUs are listed while a server begins to load."""
    (gpu,) = make_gpus((100, 0), hollow=True).fakes
    host, port = gpu.address.split(":")
    with (
        socket.create_connection((host, int(port)), DEADLINE_S) as loading,
        socket.create_connection((host, int(port)), DEADLINE_S) as listing,
    ):
        for connection in (loading, listing):
            assert _answer(connection, fake_gpu.Command.MEMORY, bytes(4)) == (100 * MIB, 100 * MIB)
        listing.shutdown(socket.SHUT_WR)
        assert listing.recv(1) == b""
        _, size = _answer(loading, fake_gpu.Command.ALLOCATE, struct.pack("<IQ", 0, 40 * MIB))
        assert (size, gpu.memory()["used"]) == (40 * MIB, 40)


def _answer(connection: socket.socket, command: int, body: bytes) -> tuple[int, int]:
    """The two numbers that a request of ggml's RPC gets."""
    connection.sendall(struct.pack("<BQ", command, len(body)) + body)
    with connection.makefile("rb") as answers:
        _, first, second = struct.unpack("<QQQ", answers.read(24))
    return first, second


def _wait_empty(gpu: FakeGpu) -> None:
    """Its ggml-rpc-server ends when it sees that the llama-server has ended."""
    left = psutil.Process(gpu.process.pid).children()
    psutil.wait_procs(left, DEADLINE_S)
    memory = {"total": 100, "others": 10, "used": 0, "free": 90, "refused": 0}
    assert gpu.memory() == memory | dict.fromkeys(fake_gpu.KINDS, 0)


def test_what_does_not_fit_is_refused(make_gpus: MakeGpus, chat_model: Path) -> None:
    gpus = make_gpus((100, 100))
    done = _run(
        gpus.llama_server,
        *("--model", str(chat_model), "--device", "RPC0", "-ngl", "99", "--fit", "off"),
    )
    assert done.returncode == 1
    assert "failed to allocate RPC0" in done.stderr
    assert gpus.fakes[0].memory()["refused"] > 0
