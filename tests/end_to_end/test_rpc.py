"""GPUs of other machines, as magid.yaml names them: RPC servers of tests, real llama-servers."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from magid.llama.placement import remote_id
from tests.support import ggufs
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


def test_ids_of_several_devices_of_one_server() -> None:
    assert [remote_id("10.0.0.2:50052", n, 2) for n in range(2)] == [
        "10.0.0.2:50052-0of2",
        "10.0.0.2:50052-1of2",
    ]
