"""Two engines that list the same GPUs, each in its own order, with real llama-servers."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support import ggufs
from tests.support.gpus import FakeGpu, running_fake
from tests.support.magictl import magictl
from tests.support.rest import Parts
from tests.support.running import Running

pytestmark = pytest.mark.slow

MIB = 1 << 20
CTX = 524_288  # a server needs 292 MiB with it, and one GPU has room for one
TURNED = """\
#!/bin/sh
case "$*" in
"--rpc {first},{second} "*--list-devices)
  shift 2
  exec "{program}" --rpc {second},{first} "$@" ;;
esac
exec "{program}" "$@"
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that every user can enter, as those that try engines have to."""
    made = Path(tempfile.mkdtemp(prefix="magi-engines-", dir="/var/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def fakes(llama_server_with_rpc: Path) -> Iterator[tuple[FakeGpu, FakeGpu]]:
    program = llama_server_with_rpc.with_name("ggml-rpc-server")
    with ExitStack() as held:
        first, second = (held.enter_context(running_fake(program, 400, 0)) for _ in range(2))
        yield first, second


@pytest.fixture
def magid(
    llama_server_with_rpc: Path, fakes: tuple[FakeGpu, FakeGpu], parts: Parts, folder: Path,
    tmp_path: Path,
) -> Iterator[Running]:  # fmt: skip
    own = Parts(llama_server_with_rpc, parts.free_port, parts.free_ports)
    running = own.daemon(tmp_path / "magid")
    first, second = (fake.address for fake in fakes)
    settings = running.configuration.read_text().replace("ctx_size: 512", "batch_size: 32")
    settings += f"gpu_reserve: 1048576\nrpc_servers: ['{first}', '{second}']\n"
    running.configuration.write_text(f"{settings}engines_dir: {folder}/engines\n")
    (running.profiles / "test.yaml").write_text("name: Test\nenabled_models: []\n")
    for name in ("Alpha", "Beta"):
        path = running.models / f"{name}-F16.gguf"
        ggufs.write_chat_model(path, quantization="F16", context=1 << 20)
    build = folder / "build"
    build.mkdir()
    program = build / "llama-server"
    program.write_text(TURNED.format(program=llama_server_with_rpc, first=first, second=second))
    program.chmod(0o755)
    with running, running.client:
        running.wait_ready()
        yield running


def type_in(magid: Running, *words: str) -> None:
    done = magictl(*words, url=magid.url, MAGI_CONFIG=str(magid.configuration))
    assert done.returncode == 0, done


def test_what_a_server_of_one_engine_holds_counts_for_the_other(
    magid: Running, fakes: tuple[FakeGpu, FakeGpu], folder: Path
) -> None:
    """Both start at once, so what one will take is in no list yet that the other goes by."""
    models = sorted(magid.get("/api/models/registry")["models"])
    alpha, beta = models
    type_in(magid, "engine", "add", "turned", str(folder / "build"))
    type_in(magid, "engine", "use", "turned", beta)
    for model in models:
        magid.ask("PUT", f"/api/models/{model}/runtime-settings", {"ctxSize": CTX})
        magid.ask("PUT", f"/api/models/{model}/enabled", {"enabled": True})
    gpus = magid.ask("POST", "/api/gpus/refresh")["gpus"]
    assert [gpu["id"] for gpu in gpus] == [fake.address for fake in fakes], "not four"
    for model in models:
        magid.ask("POST", f"/api/models/servers/{model}/start")
    for model in models:
        magid.wait_state(model, "ready")
    held = {}
    for gpu in magid.get("/api/gpus")["gpus"]:
        (server,) = gpu["servers"]
        held[server["modelId"]] = gpu["id"]
    assert held.keys() == {alpha, beta}
    for fake in fakes:
        memory = fake.memory()
        assert 280 < memory["used"] < 300
        assert memory["refused"] == 0
