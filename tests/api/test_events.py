"""The feed of events: a page that listens knows all that GET shows; a hundred pages do no harm."""

import asyncio
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from magid.api.events import lasting
from tests.support import fake_llama, ggufs, rest
from tests.support.deadlines import DEADLINE_S
from tests.support.running import Running

pytestmark = pytest.mark.slow

ALPHA = "alpha_1p0b_q4km_fast"
BETA = "beta_8p0b_q4km_balanced"
NONE = "name: None\nenabled_models: []\n"


class Page:
    """A WebUI that never asks: it folds the events into what it shows."""

    def __init__(self) -> None:
        self.registry: dict[str, Any] = {}
        self.servers: dict[int, dict[str, Any]] = {}
        self.status: dict[str, Any] = {}
        self.profiles: list[str] = []
        self.requests: dict[str, int] = {}
        self.gpus: dict[str, Any] = {}
        self.downloads: dict[str, Any] = {}

    def take(self, kind: str, data: dict[str, Any]) -> None:
        match kind:
            case "snapshot":
                self.registry = data["registry"]
                self.servers = {s["port"]: s for s in data["servers"]["servers"]}
                self.profiles, self.requests = data["profiles"], data["requests"]
                self.gpus = data["gpus"]
                self.downloads = {d["id"]: d for d in data["downloads"]["downloads"]}
                self._take_status(data)
            case "registry":
                self.registry["models"] |= data["models"]
                for model_id in data["removed"]:
                    del self.registry["models"][model_id]
                self.registry |= data["registry"]
            case "memory":
                for model_id, memory in data["models"].items():
                    if model_id in self.registry["models"]:
                        self.registry["models"][model_id]["memory"] = memory
            case "server":
                self.servers[data["server"]["port"]] = data["server"]
            case "serverRemoved":
                self.servers.pop(data["port"], None)
            case "profiles":
                self.profiles = data["profiles"]
            case "requests":
                self.requests = data["requests"]
            case "gpus":
                self.gpus = {name: value for name, value in data.items() if name != "revision"}
            case "download":
                self.downloads[data["download"]["id"]] = data["download"]
            case "downloadRemoved":
                del self.downloads[data["id"]]
            case "figures":
                for figures in data["servers"]:
                    self.servers[figures["port"]] |= figures
            case "status" | "phase" | "profile":
                self._take_status(data)
            case _:
                raise AssertionError(kind)

    def _take_status(self, data: dict[str, Any]) -> None:
        names = (
            *("phase", "ready", "activeProfile", "pendingChanges", "reasons", "problems"),
            "conditions",
        )
        self.status = {name: data[name] for name in names}

    def differences(self, magid: Running) -> list[str]:
        """What it shows that GET shows otherwise."""
        status = magid.get("/api/models/status")
        ready = magid.client.get("/readyz").json()
        shown = {
            "registry": (self.registry, magid.get("/api/models/registry")),
            "servers": (
                [lasting(self.servers[port]) for port in sorted(self.servers)],
                [lasting(s) for s in magid.get("/api/models/servers?all=true")["servers"]],
            ),
            "profiles": (self.profiles, magid.get("/api/models/profiles")),
            "status": (
                {n: self.status[n] for n in ("phase", "ready", "activeProfile", "pendingChanges")},
                {n: status[n] for n in ("phase", "ready", "activeProfile", "pendingChanges")},
            ),
            "downloads": (
                [*self.downloads.values()],
                magid.get("/api/library/downloads")["downloads"],
            ),
            "gpus": (self.gpus["problem"], magid.get("/api/gpus")["problem"]),
            "reasons": (self.status["reasons"], ready["reasons"]),
            "problems": (self.status["problems"], ready["warnings"]),
            "conditions": (self.status["conditions"], ready["conditions"]),
            "requests": (
                self.requests["ended"],
                len(magid.get("/api/requests?limit=1100")["requests"]),
            ),
        }
        return [f"{n}: {mine} {theirs}" for n, (mine, theirs) in shown.items() if mine != theirs]


@pytest.fixture(scope="module")
def shared(parts: rest.Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = parts.daemon(tmp_path_factory.mktemp("events"))
    program = fake_llama.install(running.folder / "bin")
    running.environment["LLAMA_SERVER_PATH"] = str(program)
    running.environment["MAGI_BIND"] += f",unix:{running.folder / 'magid.sock'}"
    low, high = running.port_range
    running.configuration.write_text(f"port_range: [{low}, {high}]\n")
    (running.profiles / "none.yaml").write_text(NONE)
    ggufs.write_sparse_model(running.models / "Alpha-1B-Q4_K_M.gguf", parameters_billions=1)
    ggufs.write_sparse_model(running.models / "Beta-8B-Q4_K_M.gguf", parameters_billions=8)
    with running, running.client:
        running.wait_ready()
        yield running


@pytest.fixture
def magid(shared: Running) -> Iterator[Running]:
    yield shared
    shared.ask("POST", "/api/models/profiles/test/activate")
    rest.forget_overrides(shared)
    for model_id in (ALPHA, BETA):
        shared.wait_state(model_id, "ready")


@pytest.fixture
def page(magid: Running) -> Iterator["Listening"]:
    listening = Listening(magid)
    yield listening
    listening.events.close()


class Listening:
    """A page with its stream."""

    def __init__(self, magid: Running) -> None:
        self.magid, self.shown = magid, Page()
        self.events: Any = magid.events()
        self.seen: list[int] = []
        self._next()

    def _next(self) -> tuple[str, Any]:
        kind, data = next(self.events)
        self.seen.append(data["revision"])
        self.shown.take(kind, data)
        return kind, data

    def hears(self, kind: str) -> dict[str, Any]:
        """The next event of this kind."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            got, data = self._next()
            if got == kind:
                return dict(data)
        raise AssertionError(f"no event {kind}")

    def agrees(self) -> None:
        """With all that GET shows, at once or after further events."""
        deadline = time.monotonic() + DEADLINE_S
        while differences := self.shown.differences(self.magid):
            assert time.monotonic() < deadline, differences
            self._next()
        assert self.seen == sorted(set(self.seen)), "revisions grow"


def test_the_snapshot_is_all_that_is_shown(page: Listening) -> None:
    assert page.shown.differences(page.magid) == []


def test_decisions_and_what_is_pending(page: Listening) -> None:
    page.magid.ask("PUT", f"/api/models/{ALPHA}/tier", {"tier": "powerful"})
    page.agrees()
    page.magid.ask("PUT", f"/api/models/{ALPHA}/enabled", {"enabled": False})
    assert page.hears("status")["pendingChanges"] == {"stop": 1, "start": 0}
    page.magid.ask("POST", "/api/models/apply")
    assert page.hears("serverRemoved")["modelId"] == ALPHA
    page.agrees()
    assert {s["modelId"] for s in page.shown.servers.values()} == {BETA}
    page.magid.ask("PUT", f"/api/models/{ALPHA}/enabled", {"enabled": None})
    page.agrees()
    row = next(s for s in page.shown.servers.values() if s["modelId"] == ALPHA)
    assert row["state"] == "stopped"


def test_a_server_that_is_killed(page: Listening) -> None:
    before = page.magid.servers()[ALPHA]
    psutil.Process(before["pid"]).kill()
    while page.hears("server")["server"]["state"] != "ready":
        pass
    page.agrees()
    after = next(s for s in page.shown.servers.values() if s["modelId"] == ALPHA)
    assert after["pid"] not in (before["pid"], None)


def test_files_that_somebody_edits(page: Listening) -> None:
    """Profiles that are not active, and models on the disk."""
    path = page.magid.profiles / "night.yaml"
    path.write_text(NONE)
    told = page.hears("profiles")
    assert (told["profiles"], told["changed"]) == (["night", "none", "test"], ["night"])
    path.write_text(NONE + "description: changed\n")
    assert page.hears("profiles")["changed"] == ["night"]
    path.unlink()
    assert page.hears("profiles")["removed"] == ["night"]
    (page.magid.models / "Broken.gguf").write_bytes(b"GGUF" + bytes(100))
    page.magid.ask("POST", "/api/models/rescan")
    assert len(page.hears("registry")["registry"]["modelsBroken"]) == 1
    page.agrees()
    (page.magid.models / "Broken.gguf").unlink()
    page.magid.ask("POST", "/api/models/rescan")
    page.agrees()


def test_another_profile(page: Listening) -> None:
    page.magid.ask("POST", "/api/models/profiles/none/activate")
    assert page.hears("profile")["activeProfile"] == "none"
    page.hears("serverRemoved")
    page.hears("serverRemoved")
    page.agrees()


def test_requests_and_figures(page: Listening) -> None:
    body = {"model": ALPHA, "messages": [{"role": "user", "content": "Hello"}]}
    for _ in range(50):
        page.magid.client.post("/v1/chat/completions", json=body)
    while (counts := page.hears("requests")["requests"])["ended"] < 50 or counts["running"]:
        pass
    tokens = {"promptTokens": 0, "answerTokens": 0}  # these servers tell none
    assert counts == {"running": 0, "waiting": 0, "ended": 50, "refused": 0} | tokens
    page.agrees()
    before = {port: s["cpuSeconds"] for port, s in page.shown.servers.items()}
    for _ in range(50):
        page.magid.client.post("/v1/chat/completions", json=body)
    figures = page.hears("figures")
    assert figures["memory"]["totalBytes"] > figures["memory"]["availableBytes"] > 0
    while not any(s["cpuSeconds"] > before[s["port"]] for s in figures["servers"]):
        figures = page.hears("figures")
    assert all(s["memoryBytes"] > 0 for s in figures["servers"])


# -- a hundred of them -------------------------------------------------------------------------

CLIENTS = 99
CHANGES = 500
ASK = b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n"
EVENT = re.compile(rb"id: (\d+)\nevent: (\w+)\n")
LAST = b'"activeProfile":"none"'
MOST_GROWTH = 48 * 1024 * 1024  # bytes of memory


async def listen_to(port: int, ready: asyncio.Semaphore) -> list[tuple[str, int]]:
    """Kind and revision of every event until the last change, which names profile `none`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**22)
    received = bytearray()
    try:
        writer.write(ASK)
        while b"event: snapshot" not in received:
            received += await reader.read(65536)
        ready.release()
        while LAST not in received[-4096:]:
            data = await reader.read(65536)
            assert data, received[-200:]
            received += data
    finally:
        writer.close()
    return [(kind.decode(), int(number)) for number, kind in EVENT.findall(received)]


async def crowd(magid: Running, stuck: socket.socket) -> list[list[tuple[str, int]]]:
    ready = asyncio.Semaphore(0)
    async with asyncio.timeout(DEADLINE_S * 2):
        tasks = [asyncio.create_task(listen_to(magid.port, ready)) for _ in range(CLIENTS)]
        for _ in range(CLIENTS):
            await ready.acquire()
        await asyncio.to_thread(change, magid)
        return await asyncio.gather(*tasks)


def change(magid: Running) -> None:
    for number in range(CHANGES):
        tier = ("fast", "powerful")[number % 2]
        magid.client.put(f"/api/models/{ALPHA}/tier", json={"tier": tier}).raise_for_status()
    magid.ask("POST", "/api/models/profiles/none/activate?apply=false")


def test_one_of_a_hundred_that_does_not_read_costs_the_others_nothing(
    magid: Running, tmp_path: Path
) -> None:
    """The others hear every change, in order; the stuck one is dropped, and little is kept."""
    assert magid.process is not None
    process = psutil.Process(magid.process.pid)
    with socket.socket(socket.AF_UNIX) as stuck:
        stuck.connect(str(magid.folder / "magid.sock"))
        stuck.sendall(ASK)
        before = process.memory_info().rss
        told = asyncio.run(crowd(magid, stuck))
        grown = process.memory_info().rss - before
        assert dropped(magid) == 1
    for one in told:
        kinds = [kind for kind, _ in one]
        assert kinds[0] == "snapshot"
        assert kinds.count("registry") >= CHANGES
        revisions = [revision for _, revision in one]
        assert revisions == list(range(revisions[0], revisions[0] + len(revisions)))
    assert grown < MOST_GROWTH


def dropped(magid: Running) -> int:
    text = magid.client.get("/metrics").text
    (line,) = [
        li for li in text.splitlines() if li.startswith("magi_events_listeners_dropped_total ")
    ]
    return int(float(line.split()[1]))
