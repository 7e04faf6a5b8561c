"""A model that is wanted at boot on a GPU that is not there yet: it starts with the GPU."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ggufs
from tests.support.gpus import running_fake
from tests.support.rest import Parts
from tests.support.running import Running

pytestmark = pytest.mark.slow


@pytest.fixture
def port(parts: Parts) -> int:
    return parts.free_port()


@pytest.fixture
def magid(
    llama_server_with_rpc: Path, port: int, parts: Parts, tmp_path: Path
) -> Iterator[Running]:
    """Its model is to run on the GPU of an RPC server that has not been started."""
    running = Parts(llama_server_with_rpc, parts.free_port, parts.free_ports).daemon(
        tmp_path / "magid"
    )
    address = f"127.0.0.1:{port}"
    settings = running.configuration.read_text()
    settings = settings.replace("ctx_size: 512", f"ctx_size: 512, device: '{address}'")
    running.configuration.write_text(
        f"{settings}gpu_reserve: 1048576\nrpc_servers: ['{address}']\n"
    )
    (running.profiles / "test.yaml").write_text("name: Test\nenabled_models: ['*']\n")
    ggufs.write_chat_model(running.models / "Alpha-F16.gguf", quantization="F16")
    with running, running.client:
        yield running


def refusals(magid: Running) -> list[str]:
    conditions = magid.get("/api/models/status")["conditions"]
    return [one["message"] for one in conditions if one["code"] == "DoesNotFit"]


def states(magid: Running) -> list[str]:
    return [server["state"] for server in magid.get("/api/models/servers")["servers"]]


def test_it_starts_when_its_device_is_listed(
    magid: Running, llama_server_with_rpc: Path, port: int
) -> None:
    magid.wait_for("a word about the device", lambda: bool(refusals(magid)))
    (said,) = refusals(magid)
    assert f"its setting device names 127.0.0.1:{port}" in said
    assert magid.client.get("/readyz").status_code == 503
    magid.ask("POST", "/api/gpus/refresh")
    assert "ready" not in states(magid), "it is still away"
    program = llama_server_with_rpc.with_name("ggml-rpc-server")
    with running_fake(program, 400, 0, port):
        magid.ask("POST", "/api/gpus/refresh")
        magid.wait_for("its start", lambda: states(magid) == ["ready"])
        assert refusals(magid) == []
        (server,) = magid.get("/api/models/servers")["servers"]
        assert [one["id"] for one in server["placement"]["devices"]] == [f"127.0.0.1:{port}"]
