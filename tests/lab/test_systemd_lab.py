"""Servers as units of a real systemd: the launchers' contract, and what people do meanwhile."""

import importlib.metadata
import io
import json
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from magid.units import unit_name
from tests import ggufs
from tests.lab.container import Container
from tests.lab.installing import LIBRARY
from tests.lab.launching import install_launcher
from tests.lab.trees import ROOT, VENDOR

pytestmark = pytest.mark.slow

SOON_S = 1.0  # in which what a person does has to show
MODELS = {"alpha_1p0b_q4km_fast": 8080, "beta_8p0b_q4km_balanced": 8081}
FILES = ("Alpha-1B-Q4_K_M.gguf", "Beta-8B-Q4_K_M.gguf")
ONE, OTHER = MODELS
UNIT = unit_name(MODELS[ONE])
SETTINGS = """\
model_paths: [/models]
profile: everything
server_defaults: {n_threads: 1, parallel: 1, ctx_size: 512}
restart: {limit: 50, first_delay: 0.5, max_delay: 0.5}
"""
PROFILE = "name: Everything\nenabled_models: ['*']\n"

INSIDE = "/srv/contract"
INSIDE_SETTINGS = """\
model_paths: [/srv/models]
port_range: [20000, 20999]
restart: {limit: 2, first_delay: 0.1, max_delay: 0.1}
"""
PYTEST_INI = "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
# Pure Python, all of it: what runs the tests here runs them on every release.
TOOLS = (
    *("pytest", "pytest-asyncio", "pluggy", "iniconfig", "packaging", "pygments"),
    "typing_extensions",
)


# -- the contract ------------------------------------------------------------------------------


def tools() -> bytes:
    """A tar archive of what runs tests, as it is installed here."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in TOOLS:
            for file in importlib.metadata.files(name) or []:
                assert file.suffix != ".so", f"{file} is for one Python only"
                if ".." not in file.parts and file.suffix != ".pyc":
                    tar.add(str(file.locate()), f"lib/{file}")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lab-model") / "Demo-Tiny-F16.gguf"
    return ggufs.write_chat_model(path, quantization="F16")


def test_the_contract_of_launchers(fresh_container: Container, model: Path) -> None:
    """By pytest in there: it has to see the processes, and to kill them."""
    install_launcher(fresh_container, model)
    fresh_container.write("/etc/magi/magid.yaml", INSIDE_SETTINGS)
    fresh_container.write("/srv/models/Demo-Tiny-F16.gguf", model.read_bytes())
    sources = {
        "__init__.py": b"",
        "launcher_contract.py": (ROOT / "tests/launcher_contract.py").read_bytes(),
        "test_contract.py": (ROOT / "tests/lab/inside/contract.py").read_bytes(),
    }
    for name, data in sources.items():
        fresh_container.write(f"{INSIDE}/tests/{name}", data)
    fresh_container.write(f"{INSIDE}/pytest.ini", PYTEST_INI)
    fresh_container.run(["tar", "-x", "-C", INSIDE], input=tools())
    path = ":".join([INSIDE, LIBRARY, VENDOR, f"{INSIDE}/lib"])
    done = fresh_container.run(
        [
            *("python3", "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={INSIDE}"),
            *("-c", f"{INSIDE}/pytest.ini", "--basetemp=/srv/models/tmp"),
            f"{INSIDE}/tests/test_contract.py",
        ],
        check=False,
        timeout=240.0,
        environment={"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 0, done.stdout + fresh_container.diagnosis()
    assert " passed" in done.stdout


# -- the daemon --------------------------------------------------------------------------------


class Daemon:
    """magid as a service of a container, with two models that run."""

    def __init__(self, container: Container) -> None:
        self.container = container
        self.client = container.client("http://127.0.0.1:8000")

    def servers(self) -> dict[str, dict[str, Any]]:
        reply = self.client.get("/api/models/servers")
        reply.raise_for_status()
        return {server["modelId"]: server for server in reply.json()["servers"]}

    def state(self, model_id: str = ONE) -> str:
        return str(self.servers()[model_id]["state"])

    def pids(self) -> dict[str, int]:
        return {model_id: server["pid"] for model_id, server in self.servers().items()}

    def is_ready(self) -> bool:
        try:
            return self.client.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def wait_ready(self) -> None:
        self.container.wait_until(self.is_ready, "readiness")
        for model_id in MODELS:
            self.wait_state("ready", model_id)

    def wait_state(self, state: str, model_id: str = ONE) -> float:
        """Seconds until it was so."""
        began = time.monotonic()
        self.container.wait_until(lambda: self.state(model_id) == state, f"{model_id} {state}")
        return time.monotonic() - began

    def wait_serving(self) -> None:
        """Until a magid that began anew has done all that it does at its start."""

        def serving() -> bool:
            return bool(self.client.get("/api/models/status").json()["phase"] == "serving")

        self.container.wait_until(serving, "magid serving")

    def shows(self, state: str, model_id: str = ONE) -> None:
        """It is so, within the time in which a person expects it."""
        took = self.wait_state(state, model_id)
        assert took < SOON_S, f"{state} showed after {took:.2f} s"


def installed_in(container: Container, model: Path) -> Daemon:
    install_launcher(container, model)
    container.run(["rm", "-r", "/models"])
    container.write("/etc/magi/magid.yaml", SETTINGS)
    container.write("/etc/magi/profiles/everything.yaml", PROFILE)
    for name in FILES:
        container.write(f"/models/{name}", model.read_bytes())
    units = ("magid.socket", "magid-local.socket", "magi-launcher.socket", "magid.service")
    container.systemctl("enable", *units)
    container.systemctl("start", *units)
    return Daemon(container)


@pytest.fixture(scope="module")
def installed(container: Container, model: Path) -> Iterator[Daemon]:
    daemon = installed_in(container, model)
    yield daemon
    daemon.client.close()


@pytest.fixture
def daemon(installed: Daemon) -> Iterator[Daemon]:
    """Both models are ready, before and after."""
    installed.wait_ready()
    yield installed
    if installed.state() != "ready":
        installed.container.systemctl("reset-failed", UNIT, check=False)
        installed.container.systemctl("start", UNIT)
    installed.wait_ready()


def test_systemctl_and_the_api_agree(daemon: Daemon) -> None:
    listed = json.loads(daemon.container.systemctl("list-units", "llama-server@*", "--output=json"))
    assert {unit["unit"] for unit in listed} == {
        f"llama-server@{p}.service" for p in MODELS.values()
    }
    for model_id, port in MODELS.items():
        server = daemon.servers()[model_id]
        shown = daemon.container.show(unit_name(port), "MainPID")
        assert (server["port"], str(server["pid"])) == (port, shown["MainPID"])
    status = daemon.container.show("magid", "StatusText")["StatusText"]
    assert status == "serving: 2 ready, profile everything"


def test_what_a_person_does_shows(daemon: Daemon) -> None:
    systemctl = daemon.container.systemctl
    systemctl("stop", UNIT)
    daemon.shows("stopped")
    systemctl("start", UNIT)
    daemon.shows("ready")
    before = daemon.pids()[ONE]
    systemctl("restart", UNIT)
    daemon.shows("ready")
    assert daemon.pids()[ONE] != before
    assert daemon.state(OTHER) == "ready"


def test_a_model_stopped_by_hand_stays_stopped(daemon: Daemon) -> None:
    daemon.container.systemctl("stop", UNIT)
    daemon.shows("stopped")
    daemon.client.post("/api/models/rescan").raise_for_status()
    daemon.container.systemctl("reload", "magid")
    daemon.container.systemctl("restart", "magid")
    daemon.wait_serving()
    assert daemon.state() == "stopped"
    assert daemon.client.post(f"/api/models/servers/{ONE}/start").status_code == 202
    daemon.wait_state("ready")


@pytest.mark.parametrize(
    ("signal", "reason"),
    [("KILL", "was killed by signal 9 (SIGKILL)"), ("SEGV", "was killed by signal 11 (SIGSEGV)")],
)
def test_a_crash_is_made_good(daemon: Daemon, signal: str, reason: str) -> None:
    before = daemon.servers()[ONE]
    daemon.container.systemctl("kill", f"--signal={signal}", UNIT)
    daemon.shows("backoff")
    assert daemon.servers()[ONE]["stateReason"] == f"{reason}; starting again in 0.5 s"
    daemon.wait_state("ready")
    after = daemon.servers()[ONE]
    assert (after["pid"] != before["pid"], after["stateReason"]) == (True, "")
    assert daemon.state(OTHER) == "ready"


def test_stopping_all_models(daemon: Daemon) -> None:
    daemon.container.systemctl("stop", "magi-models.target")
    for model_id in MODELS:
        daemon.shows("stopped", model_id)
    assert daemon.client.post("/api/models/servers/start-all").status_code in (200, 202)
    daemon.wait_ready()


@pytest.mark.parametrize("verb", ["daemon-reload", "daemon-reexec"])
def test_systemd_anew_changes_nothing(daemon: Daemon, verb: str) -> None:
    before = daemon.pids()
    daemon.container.systemctl(verb)
    daemon.container.systemctl("stop", UNIT)
    daemon.shows("stopped")
    daemon.container.systemctl("start", UNIT)
    daemon.shows("ready")
    assert daemon.pids()[OTHER] == before[OTHER]


def test_a_new_bus(daemon: Daemon) -> None:
    before = daemon.pids()
    daemon.container.systemctl("restart", "dbus")
    daemon.container.wait_until(
        lambda: "trying again" not in daemon.container.journal("magid")[-1]["MESSAGE"], "a bus"
    )
    daemon.container.systemctl("kill", "--signal=KILL", UNIT)
    daemon.wait_state("ready")
    daemon.container.wait_until(lambda: daemon.pids()[ONE] != before[ONE], "another process")
    assert daemon.pids()[OTHER] == before[OTHER]


@pytest.mark.parametrize("how", ["restart", "kill", "launcher"])
def test_models_outlive_magid_and_its_launcher(daemon: Daemon, how: str) -> None:
    before = daemon.pids()
    match how:
        case "restart":
            daemon.container.systemctl("restart", "magid")
        case "kill":
            daemon.container.systemctl("kill", "--signal=KILL", "magid")
        case _:
            daemon.container.systemctl("kill", "--signal=KILL", "magi-launcher")
    daemon.wait_ready()
    assert daemon.pids() == before
    if how != "launcher":
        daemon.container.systemctl("stop", UNIT)
        daemon.shows("stopped")


def test_reload_says_so(daemon: Daemon) -> None:
    daemon.container.systemctl("reload", "magid")
    shown = daemon.container.show("magid", "ActiveState", "SubState", "NRestarts", "WatchdogUSec")
    assert (shown["ActiveState"], shown["SubState"]) == ("active", "running")
    messages = [str(entry["MESSAGE"]) for entry in daemon.container.journal("magid")]
    assert any("reading models and profiles anew" in text for text in messages)


def test_logs_have_what_systemd_says(daemon: Daemon) -> None:
    daemon.container.systemctl("restart", UNIT)
    daemon.wait_state("ready")

    def has(text: str) -> Callable[[], bool]:
        return lambda: any(text in line["message"] for line in lines())

    def lines() -> list[dict[str, Any]]:
        reply = daemon.client.get(f"/api/models/servers/{ONE}/logs?lines=500")
        reply.raise_for_status()
        found: list[dict[str, Any]] = reply.json()["lines"]
        return found

    for text in ("model loaded", f"Started {UNIT}"):
        daemon.container.wait_until(has(text), text)


def test_the_log_is_followed(daemon: Daemon) -> None:
    path = f"/api/models/servers/{ONE}/logs?follow=true&lines=1"
    with daemon.client.stream("GET", path) as stream:
        stream.raise_for_status()
        daemon.container.systemctl("restart", UNIT)
        assert any("model loaded" in line for line in stream.iter_lines())


def test_a_bad_model_is_told_of_in_words(daemon: Daemon, model: Path) -> None:
    good = model.read_bytes()
    daemon.container.write(f"/models/{FILES[0]}", good[:-100])
    daemon.container.systemctl("restart", UNIT, check=False)
    daemon.shows("backoff")
    reason = daemon.servers()[ONE]["stateReason"]
    assert reason.startswith("exited with status 1: ")
    assert "not within the file bounds" in reason
    daemon.container.write(f"/models/{FILES[0]}", good)
    daemon.wait_state("ready")


def test_after_a_reboot_all_is_as_wanted(fresh_container: Container, model: Path) -> None:
    before = installed_in(fresh_container, model)
    with before.client:
        before.wait_ready()
    fresh_container.reboot()
    after = Daemon(fresh_container)
    with after.client:
        after.wait_ready()
        assert fresh_container.systemctl("is-system-running") == "running"
