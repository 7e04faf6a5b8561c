"""GPUs of other machines, as magid.yaml names them: RPC servers of tests, real llama-servers."""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from magid.llama.placement import remote_id
from tests.support import ggufs
from tests.support.deadlines import DEADLINE_S
from tests.support.gpus import FakeGpu, running_fake
from tests.support.magictl import magictl
from tests.support.rest import Parts
from tests.support.running import Running

pytestmark = pytest.mark.slow

MIB = 1 << 20
LARGE = 524_288  # a server needs 292 MiB with this context
SILENT = "127.0.0.1:1"


@pytest.fixture
def fakes(llama_server_with_rpc: Path) -> Iterator[tuple[FakeGpu, FakeGpu]]:
    program = llama_server_with_rpc.with_name("ggml-rpc-server")
    with ExitStack() as held:
        yield (
            held.enter_context(running_fake(program, 400, 0)),
            held.enter_context(running_fake(program, 285, 0)),
        )


@pytest.fixture
def magid(
    llama_server_with_rpc: Path, fakes: tuple[FakeGpu, FakeGpu], parts: Parts, tmp_path: Path
) -> Iterator[Running]:
    """One of three RPC servers does not answer, and is the first."""
    own = Parts(llama_server_with_rpc, parts.free_port, parts.free_ports)
    running = own.daemon(tmp_path / "magid")
    named = ", ".join(f"'{one}'" for one in (SILENT, *(fake.address for fake in fakes)))
    settings = running.configuration.read_text().replace("ctx_size: 512", "batch_size: 32")
    running.configuration.write_text(f"{settings}gpu_reserve: 1048576\nrpc_servers: [{named}]\n")
    (running.profiles / "test.yaml").write_text("name: Test\nenabled_models: []\n")
    for name in ("Alpha", "Beta"):
        path = running.models / f"{name}-F16.gguf"
        ggufs.write_chat_model(path, quantization="F16", context=1 << 20)
    with running, running.client:
        running.wait_ready()
        yield running


def start(magid: Running, word: str, status: int = 200, **settings: object) -> str:
    model = next(i for i in magid.get("/api/models/registry")["models"] if i.startswith(word))
    magid.ask("PUT", f"/api/models/{model}/enabled", {"enabled": True})
    magid.ask("PUT", f"/api/models/{model}/runtime-settings", settings)
    magid.ask("POST", f"/api/models/servers/{model}/start?wait=60", status=status)
    return str(model)


def command_of(magid: Running, model: str) -> str:
    servers = magid.get("/api/models/servers")["servers"]
    (server,) = (server for server in servers if server["modelId"] == model)
    return " ".join(psutil.Process(server["pid"]).cmdline())


def test_they_are_listed_predicted_and_used(magid: Running, fakes: tuple[FakeGpu, FakeGpu]) -> None:
    large, small = fakes
    listed = magid.ask("POST", "/api/gpus/refresh")
    assert [(gpu["name"], gpu["id"]) for gpu in listed["gpus"]] == [
        ("RPC0", large.address),
        ("RPC1", small.address),
    ]
    assert listed["problem"] == f"cannot reach the RPC server {SILENT}: Connection refused"
    assert SILENT in magictl("gpus", url=magid.url).stderr
    alpha = start(magid, "alpha", ctxSize=LARGE)
    assert f"--rpc {large.address} " in command_of(magid, alpha), "of no other one"
    held = large.memory()["used"]
    (gpu, _) = magid.get("/api/gpus")["gpus"]
    assert held <= gpu["servers"][0]["needBytes"] // MIB <= held + 6
    # a llama-server that is told of one RPC server calls its device RPC0
    beta = start(magid, "beta", ctxSize=131_072, device=small.address)
    command = command_of(magid, beta)
    assert f"--rpc {small.address} " in command
    assert "--device RPC0 " in command
    assert small.memory()["used"] > 50
    assert large.memory()["used"] == held


def test_a_model_over_two_machines(magid: Running, fakes: tuple[FakeGpu, FakeGpu]) -> None:
    large, small = fakes
    large.use(130)  # no one of the two has room
    magid.ask("POST", "/api/gpus/refresh")
    alpha = start(magid, "alpha", ctxSize=LARGE)
    command = command_of(magid, alpha)
    assert f"--rpc {large.address},{small.address} " in command
    assert "--device RPC0,RPC1 " in command
    assert "--tensor-split" in command
    assert min(fake.memory()["used"] for fake in fakes) > 50
    assert all(fake.memory()["refused"] == 0 for fake in fakes)


@contextmanager
def bare_server(program: Path, port: int) -> Iterator[str]:
    """llama.cpp's own RPC server, which takes one client at a time, run by hand."""
    command = [str(program), "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield f"127.0.0.1:{port}"
        finally:
            process.kill()


def connected(address: str) -> socket.socket:
    """Returns a connection to it, as soon as it listens."""
    host, _, port = address.rpartition(":")
    end = time.monotonic() + DEADLINE_S
    while True:
        try:
            return socket.create_connection((host, int(port)))
        except ConnectionRefusedError:
            assert time.monotonic() < end, "it does not listen"
            time.sleep(0.05)


def test_one_that_another_client_uses(
    llama_server_with_rpc: Path, parts: Parts, tmp_path: Path
) -> None:
    """It is left out, and why is said; what the others have is listed without it."""
    program = llama_server_with_rpc.with_name("ggml-rpc-server")
    own = Parts(llama_server_with_rpc, parts.free_port, parts.free_ports)
    with bare_server(program, parts.free_port()) as busy, running_fake(program, 400, 0) as fake:
        running = own.daemon(tmp_path / "magid")
        named = f"rpc_servers: ['{busy}', '{fake.address}']\n"
        running.configuration.write_text(running.configuration.read_text() + named)
        with connected(busy) as client, running, running.client:
            client.sendall(b"\x0e")  # the first byte of a request: the connection is taken
            listed = running.ask("POST", "/api/gpus/refresh")
            assert [gpu["id"] for gpu in listed["gpus"]] == [fake.address]
            assert listed["problem"] == (
                f"cannot reach the RPC server {busy}: it takes no client now: another one uses "
                "it, or it hangs"
            )
            client.close()
            listed = running.ask("POST", "/api/gpus/refresh")
            assert [gpu["id"] for gpu in listed["gpus"]] == [busy, fake.address]
            assert listed["problem"] is None


def test_ids_of_several_devices_of_one_server() -> None:
    assert [remote_id("10.0.0.2:50052", n, 2) for n in range(2)] == [
        "10.0.0.2:50052-0of2",
        "10.0.0.2:50052-1of2",
    ]
