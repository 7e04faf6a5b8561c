"""Where units go: real llama-servers in the sandbox, and two GPUs of any size behind RPC.

What tests/end_to_end/test_placement.py shows of child processes.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.lab import rpc_gpus
from tests.lab.container import Container
from tests.lab.rpc_gpus import RemoteGpu
from tests.lab.serving import MODELS, SETTINGS, Daemon, installed_in

pytestmark = pytest.mark.slow

TOTAL = 400  # MiB of each GPU
# Contexts: a server needs 288 or 75 MiB with them.
HUGE, LARGE = 524_288, 131_072
ALPHA, BETA, GAMMA = MODELS
MORE = f"""\
gpu_reserve: 1048576
gateway: {{queue_timeout: 3}}
llama_server_path: {rpc_gpus.PROGRAM}
rpc_servers: ["%s", "%s"]
"""


class Machine:
    """magid as a service, and its GPUs."""

    def __init__(self, daemon: Daemon, gpus: tuple[RemoteGpu, ...]) -> None:
        self.daemon, self.gpus = daemon, gpus

    def begin(self, *free: int, **settings: Any) -> None:
        """Nothing runs, so many MiB of each GPU are free, and all models have these settings."""
        for name in MODELS:
            self.stop(name)
            self.change(name, **{"ctxSize": LARGE} | settings)
        self.list_gpus()  # what has ended is seen back, before others take it
        for gpu, mib in zip(self.gpus, free, strict=True):
            gpu.hide(0)
            gpu.use(TOTAL - mib)
        self.list_gpus()

    def change(self, name: str, **settings: Any) -> None:
        none = dict.fromkeys(("device", "offload", "start"))
        self.daemon.put(name, "runtime-settings", none | {"ctxSize": LARGE} | settings)

    def start(self, name: str, status: int = 200, wait: int = 100) -> Any:
        answer = self.daemon.client.post(f"/api/models/servers/{name}/start?wait={wait}")
        assert answer.status_code == status, answer.text
        return answer.json()

    def stop(self, name: str) -> None:
        path = f"/api/models/servers/{name}/stop?wait=100"
        self.daemon.client.post(path).raise_for_status()

    def ask(self, name: str, status: int = 200) -> httpx.Response:
        body = {"model": name, "prompt": "a", "max_tokens": 1}
        answer = self.daemon.client.post("/v1/completions", json=body)
        assert answer.status_code == status, answer.text
        return answer

    def list_gpus(self) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = self.daemon.client.post("/api/gpus/refresh").json()["gpus"]
        return listed

    def where(self) -> list[set[str]]:
        """The models on each GPU."""
        gpus = self.daemon.client.get("/api/gpus").json()["gpus"]
        return [{server["modelId"] for server in gpu["servers"]} for gpu in gpus]

    def free(self) -> list[int]:
        """MiB, by what the GPUs themselves say."""
        return [gpu["freeBytes"] >> 20 for gpu in self.list_gpus()]

    def processes(self) -> dict[str, int]:
        return {name: pid for name, pid in self.daemon.pids().items() if pid}


@pytest.fixture(scope="module")
def machine(
    container: Container, chat_model: Path, llama_server_with_rpc: Path
) -> Iterator[Machine]:
    rpc_gpus.unpack(container, llama_server_with_rpc)
    gpus = tuple(rpc_gpus.started(container, number, TOTAL) for number in (1, 2))
    settings = SETTINGS.replace(", ctx_size: 512", ", batch_size: 32")
    daemon = installed_in(container, chat_model, settings + MORE % tuple(g.address for g in gpus))
    container.wait_until(daemon.is_ready, "readiness")
    yield Machine(daemon, gpus)
    daemon.client.close()


def test_two_at_once_and_others_that_grow(machine: Machine) -> None:
    machine.begin(100, 90)
    machine.start(ALPHA, status=202, wait=0)
    machine.start(BETA, status=202, wait=0)
    for name in (ALPHA, BETA):
        machine.daemon.wait_state("ready", name)
    assert sorted(map(len, machine.where())) == [1, 1]
    assert machine.where()[0] | machine.where()[1] == {ALPHA, BETA}
    before = machine.processes()
    refused = machine.start(GAMMA, status=507)
    assert refused["error"] == "DoesNotFit"
    by_name = {one["name"]: one for one in refused["details"]["devices"]}
    assert {one["servers"][0]["modelId"] for one in by_name.values()} == {ALPHA, BETA}
    assert all(one["roomBytes"] < refused["details"]["needBytes"] for one in by_name.values())
    machine.gpus[0].use(TOTAL)
    assert machine.free()[0] == 0
    assert machine.processes() == before, "what runs keeps its place"
    machine.stop(ALPHA)
    machine.stop(BETA)
    machine.start(GAMMA)
    assert machine.where() == [set(), {GAMMA}]


def test_a_split_where_one_will_not_do(machine: Machine) -> None:
    machine.begin(285, 285)
    machine.change(ALPHA, ctxSize=HUGE)
    machine.start(ALPHA)
    assert machine.where() == [{ALPHA}, {ALPHA}]
    assert all(285 - left > 20 for left in machine.free())
    unit = machine.daemon.server(ALPHA)["unit"]
    command = machine.daemon.container.run(["systemctl", "show", "-P", "ExecStart", unit]).stdout
    assert "--tensor-split" in command
    assert "--fit off" in command


@contextmanager
def busy(machine: Machine, name: str) -> Iterator[None]:
    """The model answers a request that has no end meanwhile."""
    body = {"model": name, "prompt": "a", "max_tokens": 10**6, "stream": True, "ignore_eos": True}
    with machine.daemon.client.stream("POST", "/v1/completions", json=body) as answer:
        assert answer.status_code == 200
        lines = answer.iter_lines()  # kept: the stream ends with it
        next(lines)
        yield


def test_room_is_made_by_what_is_idle(machine: Machine) -> None:
    machine.begin(170, 0, start="on-demand")
    machine.ask(ALPHA)
    machine.ask(BETA)
    assert machine.where()[0] == {ALPHA, BETA}
    machine.ask(ALPHA)
    machine.ask(GAMMA)
    assert machine.where()[0] == {ALPHA, GAMMA}, "beta was used longest ago"
    before = machine.processes()
    machine.change(BETA, ctxSize=HUGE, start="on-demand")
    never = machine.ask(BETA, status=507).json()["error"]
    assert never["code"] == "does_not_fit"
    assert machine.processes() == before, "nothing stops in vain"
    machine.change(BETA, start="on-demand")
    with busy(machine, ALPHA), busy(machine, GAMMA):
        later = machine.ask(BETA, status=503)
    assert int(later.headers["retry-after"]) > 0
    assert re.search("it waits for (alpha|gamma)", later.json()["error"]["message"])
    assert machine.processes() == before


def test_memory_that_comes_back_late_is_waited_for(machine: Machine) -> None:
    """A driver frees it some time after the process has ended."""
    machine.begin(100, 0)
    machine.start(ALPHA)
    machine.gpus[0].keep(keeps=True)
    machine.stop(ALPHA)
    assert machine.free()[0] < 30
    machine.start(BETA, status=202, wait=0)
    machine.gpus[0].keep(keeps=False)
    machine.daemon.wait_state("ready", BETA)
    assert machine.where() == [{BETA}, set()]


def test_a_refused_allocation_is_no_crash(machine: Machine) -> None:
    """A driver keeps memory for itself that it calls free: elsewhere once, then it is said."""
    machine.begin(100, 170)
    machine.gpus[0].hide(60)
    machine.start(ALPHA)
    assert machine.where() == [set(), {ALPHA}]
    machine.change(BETA, device="RPC0")
    refused = machine.start(BETA, status=507)
    assert "could not allocate its memory" in refused["message"]
    states = {name: machine.daemon.state(name) for name in (ALPHA, BETA)}
    assert states == {ALPHA: "ready", BETA: "stopped"}
    machine.gpus[0].hide(0)
    machine.start(BETA)
    assert machine.where() == [{BETA}, {ALPHA}]


def test_on_the_processor_only_where_that_is_allowed_and_said(machine: Machine) -> None:
    machine.begin(40, 40)
    assert machine.start(ALPHA, status=507)["error"] == "DoesNotFit"
    machine.change(ALPHA, offload="cpu")
    machine.start(ALPHA)
    assert machine.daemon.server(ALPHA)["placement"]["extent"] == "none"
    conditions = machine.daemon.client.get("/api/models/status").json()["conditions"]
    assert "OffGpu" in {one["code"] for one in conditions}
    text = machine.daemon.client.get("/metrics").text
    assert re.search(r"^magi_server_off_gpu\{.*\} 1\.0$", text, re.MULTILINE)
    machine.change(BETA, device="RPC7")
    assert machine.start(BETA, status=409)["error"] == "DeviceMissing"
