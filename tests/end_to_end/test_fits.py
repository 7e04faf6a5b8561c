"""Whether a model would fit, by a real daemon with a real llama-server: over REST and magictl."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import ggufs, rest
from tests.support.gpus import Gpus, MakeGpus
from tests.support.magictl import magictl
from tests.support.rest import ALPHA, BETA, Parts
from tests.support.running import Running

pytestmark = pytest.mark.slow

MIB = 1 << 20
LONG = "long_0p0b_f16_balanced"


def memory(magid: Running, model: str = ALPHA, query: str = "") -> dict[str, Any]:
    found: dict[str, Any] = magid.get(f"/api/models/{model}/memory{query}")
    return found


@pytest.fixture
def gpus(make_gpus: MakeGpus) -> Gpus:
    return make_gpus((2700, 0))  # 1 GiB stays free


@pytest.fixture
def magid(gpus: Gpus, parts: Parts, tmp_path: Path) -> Iterator[Running]:
    """No model is enabled."""
    own = Parts(gpus.llama_server, parts.free_port, parts.free_ports)
    running = own.daemon(tmp_path / "magid")
    settings = running.configuration.read_text()
    running.configuration.write_text(settings.replace(", ctx_size: 512", ""))
    (running.profiles / "test.yaml").write_text("name: Test\nenabled_models: []\n")
    rest.write_models(running.models)
    ggufs.write_chat_model(running.models / "Long-F16.gguf", quantization="F16", context=1 << 20)
    with running, running.client:
        running.wait_ready()
        yield running


def test_on_a_gpu(magid: Running, gpus: Gpus) -> None:
    (gpu,) = gpus.fakes
    small = memory(magid, query="?ctxSize=4096")
    assert (small["fits"], small["source"], small["ctxSize"]) == ("yes", "predicted", 4096)
    (device,) = small["devices"]
    assert (device["name"], device["contextBytes"]) == ("RPC0", 2 * MIB)
    assert (device["freeBytes"], device["roomBytes"]) == (2700 * MIB, 1676 * MIB)
    assert device["totalBytes"] == sum(device[f"{k}Bytes"] for k in ("model", "context", "compute"))
    assert small["host"]["totalBytes"] == sum(b["totalBytes"] for b in small["host"]["buffers"])
    assert small["host"]["limitBytes"] is None
    assert small["predictedAt"].endswith("Z")
    large = memory(magid, query="?ctxSize=1048576")
    assert (large["fits"], large["devices"][0]["contextBytes"]) == ("yes", 512 * MIB)
    assert large["why"] == "it would start on RPC0; RPC0: 1.5 GiB needed"
    gpu.use(800)
    magid.ask("POST", "/api/gpus/refresh")
    again = memory(magid, query="?ctxSize=1048576")
    assert (again["fits"], again["predictedAt"]) == ("no", large["predictedAt"])
    assert again["why"] == (
        "it needs 1.5 GiB; RPC0 has room for 876.0 MiB of 2.6 GiB (other programs 800.0 MiB)"
    )
    assert gpu.memory()["used"] == 0
    assert magid.get("/api/models/servers?all=true")["servers"] == []


def test_in_the_model_itself(magid: Running, gpus: Gpus) -> None:
    """Once it was predicted, the list and the model say the same, without a new prediction."""
    magid.ask("POST", "/api/gpus/refresh")
    before = magid.get(f"/api/models/{ALPHA}")["memory"]
    assert (before["fits"], before["source"]) == ("yes", "estimated")
    assert before["why"].startswith("by its header it needs ")
    predicted = memory(magid)
    own = magid.get(f"/api/models/{ALPHA}")["memory"]
    need = {
        "devicesBytes": predicted["devices"][0]["totalBytes"],
        "hostBytes": predicted["host"]["totalBytes"],
    }
    why = predicted["why"]
    assert own == {"fits": "yes", "why": why, "need": need, "source": "predicted"}
    magid.wait_for("the list", lambda: listed(magid)["source"] == "predicted")
    assert listed(magid) == own
    shown = magictl("show", "alpha", url=magid.url).stdout
    assert re.search(r"^  memory +\d+\.\d MiB on GPUs, .* of the machine's +fits: it", shown, re.M)
    gpus.fakes[0].use(2600)
    magid.ask("POST", "/api/gpus/refresh")
    magid.wait_for("the change", lambda: listed(magid)["fits"] == "no")


def listed(magid: Running) -> Any:
    return magid.get("/api/models/registry")["models"][ALPHA]["memory"]


def test_a_model_that_runs(magid: Running, gpus: Gpus) -> None:
    settings = {"device": "RPC0", "nGpuLayers": 99, "ctxSize": 524_288}
    magid.ask("PUT", f"/api/models/{ALPHA}/runtime-settings", settings)
    magid.ask("PUT", f"/api/models/{ALPHA}/enabled", {"enabled": True})
    before = memory(magid)
    magid.ask("POST", f"/api/models/servers/{ALPHA}/start?wait=60")
    held = gpus.fakes[0].memory()["used"]
    assert 0 <= held - before["devices"][0]["totalBytes"] // MIB <= 3
    gpus.fakes[0].use(800)
    running = memory(magid)
    assert running["why"] == "a server of it runs with these settings on RPC0"
    assert running["fits"] == "yes"
    assert memory(magid, query="?ctxSize=1048576")["fits"] == "no", "its memory is not free"


def test_the_context_that_would_fit(magid: Running, gpus: Gpus) -> None:
    long = memory(magid, LONG)
    assert (long["ctxSize"], long["fits"], long["fittingCtxSize"]) == (32_768, "yes", None)
    assert long["devices"][0]["contextBytes"] == 16 * MIB
    gpus.fakes[0].use(1640)
    magid.ask("POST", "/api/gpus/refresh")
    assert memory(magid, LONG)["ctxSize"] == 16_384
    magid.ask("PUT", f"/api/models/{LONG}/runtime-settings", {"device": "none"})
    none = memory(magid, LONG)
    assert none["devices"] == []
    assert none["host"]["buffers"][0]["contextBytes"] == 512 * MIB


def test_by_magictl(magid: Running, gpus: Gpus) -> None:
    done = magictl("fits", "beta", "--ctx", "524288", "--parallel", "1", url=magid.url)
    head, device, host, fits = done.stdout.splitlines()
    assert head.split() == ["MEMORY", "WEIGHTS", "CONTEXT", "COMPUTE", "TOTAL", "FREE"]
    assert re.fullmatch(r"RPC0 +0 B +256\.0 MiB +51\d\.0 MiB +76\d\.0 MiB +2\.6 GiB", device), (
        device
    )
    assert re.fullmatch(r"Host +0 B +0 B +51\d\.0 MiB +51\d\.0 MiB +\S+ GiB", host), host
    assert (fits, done.returncode) == ("fits: yes", 0)
    assert done.stderr.startswith("why:          it would start on RPC0; RPC0: 7")
    gpus.fakes[0].use(1500)
    magictl("gpus", "--refresh", url=magid.url)
    done = magictl("fits", BETA, "--ctx", "524288", "--json", url=magid.url)
    assert (json.loads(done.stdout)["fits"], done.returncode) == ("no", 3)
    gpus.fakes[0].use(0)
    done = magictl("fits", "long", url=magid.url)
    assert (done.stdout.splitlines()[-1], done.returncode) == ("fits: yes", 0)
    assert "cannot find model" in magictl("fits", "nothing", url=magid.url).stderr
    done = magictl("fits", BETA, "--ctx", "-5", url=magid.url)
    assert "ctxSize" in done.stderr


def test_where_there_is_no_prediction(magid: Running) -> None:
    """llama-server cannot load a model that lacks most of its weights."""
    sparse = memory(magid, "qwen3_4p0b_q2k_fast")
    assert (sparse["fits"], sparse["source"], sparse["host"]) == ("unknown", "estimated", None)
    assert sparse["why"].startswith("cannot predict the memory: ")
    done = magictl("fits", "qwen3_4p0b_q2k_fast", url=magid.url)
    assert (done.stdout, done.returncode) == ("fits: unknown\n", 3)


def test_without_a_gpu(parts: Parts, tmp_path: Path) -> None:
    running = parts.daemon(tmp_path / "magid")
    rest.write_models(running.models)
    with running, running.client:
        running.wait_for("the models", lambda: running.client.get("/readyz").status_code == 200)
        answer = memory(running, query="?ctxSize=131072&parallel=1")
        assert (answer["fits"], answer["devices"]) == ("yes", [])
        (buffers,) = (b for b in answer["host"]["buffers"] if b["name"] == "Host")
        assert buffers["contextBytes"] == 64 * MIB
        assert answer["host"]["availableBytes"] > answer["host"]["totalBytes"]
        assert answer["host"]["limitBytes"] is None, "children have no limit"
        huge = memory(running, query="?ctxSize=16777216&parallel=1")
        assert huge["host"]["totalBytes"] > 8 << 30
        bad = running.client.get(f"/api/models/{ALPHA}/memory?ctxSize=x")
        assert (bad.status_code, bad.json()["error"]) == (400, "InvalidInput")
        assert running.client.get("/api/models/none/memory").status_code == 404


def test_without_llama_server(parts: Parts, tmp_path: Path) -> None:
    running = parts.daemon(tmp_path / "magid")
    running.environment["LLAMA_SERVER_PATH"] = "/no/llama-server"
    rest.write_models(running.models)
    with running, running.client:
        running.wait_for("models", lambda: ALPHA in running.client.get(
            "/api/models/registry").text)  # fmt: skip
        answer = memory(running)
        assert answer["fits"] == "unknown"
        assert answer["why"].startswith("cannot use /no/llama-server")
