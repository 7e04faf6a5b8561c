"""Where a real daemon's servers go, on GPUs of the tests: real llama-servers, their real memory."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.support import ggufs
from tests.support.gpus import Gpus, MakeGpus
from tests.support.magictl import magictl
from tests.support.rest import Parts
from tests.support.running import Running

pytestmark = pytest.mark.slow

MIB = 1 << 20
# Contexts: a server needs 292, 76 or 12 MiB with them.
HUGE, LARGE, SMALL = 524_288, 131_072, 16_384
PORTS = 6
CONFIGURATION = "gpu_reserve: 1048576\nctx_default_max: 65536\n"


@contextmanager
def placed(
    gpus: Gpus, parts: Parts, folder: Path, models: dict[str, int], configuration: str = ""
) -> Iterator[Running]:
    """A daemon with these models, by their context; none is enabled."""
    low = parts.free_ports(PORTS)
    home = folder / "magid"
    home.mkdir(exist_ok=True)
    running = Running(
        home, port=parts.free_port(), port_range=(low, low + PORTS - 1),
        llama_server=gpus.llama_server,
    )  # fmt: skip
    with running.configuration.open("a") as file:
        file.write(CONFIGURATION + configuration)
    (running.profiles / "test.yaml").write_text("name: Test\nenabled_models: []\n")
    for name in models:
        path = running.models / f"{name}-F16.gguf"
        ggufs.write_chat_model(path, quantization="F16", context=1 << 20)
    with running, running.client:
        running.wait_ready()
        for name, ctx in models.items():
            running.ask("PUT", f"/api/models/{name_of(running, name)}/enabled", {"enabled": True})
            change(running, name, ctxSize=ctx, batchSize=32)
        yield running


def name_of(magid: Running, name: str) -> str:
    models: dict[str, Any] = magid.get("/api/models/registry")["models"]
    return next(model_id for model_id in models if model_id.startswith(name))


def change(magid: Running, name: str, **settings: Any) -> None:
    magid.ask("PUT", f"/api/models/{name_of(magid, name)}/runtime-settings", settings)


def start(magid: Running, name: str, status: int = 200) -> Any:
    path = f"/api/models/servers/{name_of(magid, name)}/start?wait=60"
    return magid.ask("POST", path, status=status)


def where(magid: Running) -> dict[str, list[str]]:
    """GPU -> the first words of the models on it."""
    return {
        gpu["name"]: [server["modelId"].split("_")[0] for server in gpu["servers"]]
        for gpu in magid.get("/api/gpus")["gpus"]
    }


def need(magid: Running, name: str) -> int:
    """What a whole server of it takes on one GPU, in MiB, as it was predicted."""
    (device,) = magid.get(f"/api/models/{name_of(magid, name)}/memory")["devices"]
    return int(device["totalBytes"]) // MIB


def args(magid: Running, name: str) -> str:
    """The command line of its process."""
    (server,) = magid.get("/api/models/servers?all=true")["servers"]
    return " ".join(psutil.Process(server["pid"]).cmdline())


def test_each_goes_where_it_fits_best(make_gpus: MakeGpus, parts: Parts, tmp_path: Path) -> None:
    """And stays there: a restart of magid ends children, so what is pinned is its place only."""
    gpus = make_gpus((200, 0), (80, 0), (80, 0))
    models = {"alpha": LARGE, "beta": LARGE, "gamma": LARGE, "delta": LARGE, "extra": LARGE}
    with placed(gpus, parts, tmp_path, models) as magid:
        for name in ("alpha", "beta", "gamma", "delta"):
            start(magid, name)
        assert where(magid) == {"RPC0": ["gamma", "delta"], "RPC1": ["alpha"], "RPC2": ["beta"]}
        held = [gpu.memory()["used"] for gpu in gpus.fakes]
        needs = [
            sum(server["needBytes"] // MIB for server in gpu["servers"])
            for gpu in magid.get("/api/gpus")["gpus"]
        ]
        assert all(have <= need <= have + 6 for have, need in zip(held, needs, strict=True))
        refused = start(magid, "extra", status=507)
        assert refused["error"] == "DoesNotFit"
        assert "RPC1 has room for" in refused["message"]
        by_name = {one["name"]: one for one in refused["details"]["devices"]}
        assert [s["modelId"].split("_")[0] for s in by_name["RPC1"]["servers"]] == ["alpha"]
        assert by_name["RPC1"]["roomBytes"] < refused["details"]["needBytes"]
        assert magid.get("/api/models/status")["conditions"][0]["code"] == "DoesNotFit"
        assert all(gpu.memory()["refused"] == 0 for gpu in gpus.fakes), "nothing was tried"
        text = magid.client.get("/metrics").text
        assert re.search(r'^magi_server_gpu_need_bytes\{.*device="RPC1".*\} [0-9.e+]+$', text, re.M)
        assert len(re.findall(r"^magi_server_off_gpu\{.*\} 0\.0$", text, re.M)) == 4
        head, *rows = magictl("ps", url=magid.url).stdout.splitlines()
        assert head.split()[4:6] == ["MEMORY", "GPU"]
        assert sorted(row.split()[6] for row in rows) == ["RPC0", "RPC0", "RPC1", "RPC2"], rows
        shown = magictl("gpus", url=magid.url)
        assert re.search(r"^RPC0 .*gamma.*, delta", shown.stdout, re.M), shown.stdout


def test_a_split_where_one_will_not_do(make_gpus: MakeGpus, parts: Parts, tmp_path: Path) -> None:
    gpus = make_gpus((285, 0), (285, 0))
    with placed(gpus, parts, tmp_path, {"alpha": HUGE}) as magid:
        start(magid, "alpha")
        assert where(magid) == {"RPC0": ["alpha"], "RPC1": ["alpha"]}
        assert all(gpu.memory()["used"] > 20 for gpu in gpus.fakes)
        words = args(magid, "alpha")
        assert "--device RPC0,RPC1" in words
        assert "--tensor-split" in words
        assert words.endswith("--fit off")


# -- room for on-demand models ------------------------------------------------------------------


def ask(magid: Running, name: str, status: int = 200) -> httpx.Response:
    body = {"model": name_of(magid, name), "prompt": "a", "max_tokens": 1}
    answer = magid.client.post("/v1/completions", json=body)
    assert answer.status_code == status, answer.text
    return answer


@contextmanager
def busy(magid: Running, name: str) -> Iterator[None]:
    """The model answers a request that has no end meanwhile."""
    body = {"model": name_of(magid, name), "prompt": "a", "max_tokens": 10**6, "stream": True}
    with magid.client.stream("POST", "/v1/completions", json=body | {"ignore_eos": True}) as answer:
        assert answer.status_code == 200
        lines = answer.iter_lines()  # kept: the stream ends with it
        next(lines)
        yield


def test_room_is_made_for_a_request(make_gpus: MakeGpus, parts: Parts, tmp_path: Path) -> None:
    gpus = make_gpus((170, 0))
    models = {"alpha": LARGE, "beta": LARGE, "gamma": LARGE, "huge": HUGE}
    settings = "gateway: {queue_timeout: 3}\n"
    with placed(gpus, parts, tmp_path, models, settings) as magid:
        for name in models:
            change(magid, name, start="on-demand")
        ask(magid, "alpha")
        ask(magid, "beta")
        assert where(magid) == {"RPC0": ["alpha", "beta"]}
        ask(magid, "gamma")
        assert sorted(where(magid)["RPC0"]) == ["beta", "gamma"], "alpha was used longest ago"
        ask(magid, "beta")
        ask(magid, "alpha")
        assert sorted(where(magid)["RPC0"]) == ["alpha", "beta"]
        never = ask(magid, "huge", status=507).json()["error"]
        assert never["code"] == "does_not_fit"
        assert "RPC0 has room for" in never["message"]
        assert sorted(where(magid)["RPC0"]) == ["alpha", "beta"], "nothing stops in vain"
        with busy(magid, "alpha"):
            ask(magid, "gamma")
            assert sorted(where(magid)["RPC0"]) == ["alpha", "gamma"], "it was idle"
            with busy(magid, "gamma"):
                later = ask(magid, "beta", status=503)
        assert int(later.headers["retry-after"]) > 0
        assert "it waits for alpha" in later.json()["error"]["message"]
        change(magid, "alpha", start="always")
        change(magid, "gamma", start="always")
        pinned = ask(magid, "beta", status=507).json()["error"]["message"]
        assert re.search(r"alpha\S* 75\.0 MiB, gamma\S* 75\.0 MiB", pinned), pinned
        assert gpus.fakes[0].memory()["refused"] == 0


# -- memory that is not there -------------------------------------------------------------------


def test_a_refused_allocation_is_no_crash(
    make_gpus: MakeGpus, parts: Parts, tmp_path: Path
) -> None:
    """A driver keeps memory for itself that it calls free: elsewhere once, then it is said."""
    gpus = make_gpus((100, 0), (170, 0))
    gpus.fakes[0].hide(60)
    with placed(gpus, parts, tmp_path, {"alpha": LARGE, "beta": LARGE}) as magid:
        start(magid, "alpha")
        assert where(magid) == {"RPC0": [], "RPC1": ["alpha"]}
        assert gpus.fakes[0].memory()["refused"] > 0
        change(magid, "beta", device="RPC0")
        refused = start(magid, "beta", status=507)
        assert "could not allocate its memory" in refused["message"]
        servers = magid.get("/api/models/servers?all=true")["servers"]
        states = {s["modelId"].split("_")[0]: s["state"] for s in servers}
        assert (states["alpha"], states["beta"]) == ("ready", "stopped")
        gpus.fakes[0].hide(0)
        start(magid, "beta")
        assert where(magid) == {"RPC0": ["beta"], "RPC1": ["alpha"]}


@pytest.mark.parametrize(("offload", "device"), [("part", "RPC0"), ("cpu", "none")])
def test_what_runs_on_the_processor_is_said(
    make_gpus: MakeGpus, parts: Parts, tmp_path: Path, offload: str, device: str
) -> None:
    gpus = make_gpus((40, 0))  # some of its context is all that fits
    with placed(gpus, parts, tmp_path, {"alpha": LARGE}) as magid:
        start(magid, "alpha", status=507)
        change(magid, "alpha", offload=offload)
        start(magid, "alpha")
        assert f"--device {device}" in args(magid, "alpha")
        conditions = magid.get("/api/models/status")["conditions"]
        on = "RPC0,processor" if offload == "part" else "processor"
        assert f" {on} " in magictl("ps", url=magid.url).stdout
        assert "OffGpu" in {one["code"] for one in conditions}
        assert re.search(
            r"^magi_server_off_gpu\{.*\} 1\.0$", magid.client.get("/metrics").text, re.M
        )
        (server,) = magid.get("/api/models/servers")["servers"]
        assert server["placement"]["extent"] == ("part" if offload == "part" else "none")
        assert re.search("WARNING .* goes to .*the processor", magid.log.read_text())
        memory = magid.get(f"/api/models/{name_of(magid, 'alpha')}/memory")
        assert memory["fits"] == ("part" if offload == "part" else "yes")


def test_a_device_that_is_not_there(make_gpus: MakeGpus, parts: Parts, tmp_path: Path) -> None:
    with placed(make_gpus((170, 0)), parts, tmp_path, {"alpha": SMALL}) as magid:
        change(magid, "alpha", device="RPC7")
        refused = start(magid, "alpha", status=409)
        assert refused["error"] == "DeviceMissing"
        assert magid.get(f"/api/models/{name_of(magid, 'alpha')}/memory")["fits"] == "no"
