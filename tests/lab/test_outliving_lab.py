"""What must not happen while magid is restarted, upgraded and killed under load: anything."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.lab.container import ENVIRONMENT, Container
from tests.lab.installing import install_magid
from tests.lab.serving import MODELS, Daemon, installed_in
from tests.lab.trees import STABLE
from tests.support.deadlines import DEADLINE_S

# What is tested is magid's, and the same on each release.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.parametrize(
        "release", [STABLE], ids=lambda one: one.name, indirect=True, scope="session"
    ),
]

RATE = 80  # requests a second, at a model's port and at the API
GATEWAY_RATE = 40  # what waits during a restart has to fit into the gateway's queue
TIMES = 20
ONE, OTHER, THIRD = MODELS
LOAD = (Path(__file__).parent / "inside/load.py").read_text()


def request(method: str, path: str, key: str = "", body: object = None) -> str:
    data = "" if body is None else json.dumps(body)
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close"]
    lines += [f"Authorization: Bearer {key}"] if key else []
    lines += ["Content-Type: application/json", f"Content-Length: {len(data)}"] if data else []
    return "\r\n".join([*lines, "", data])


def key_of(daemon: Daemon, port: int) -> str:
    return daemon.container.read(f"/run/magi-keys/{port}.key").decode().strip()


def load_on(daemon: Daemon) -> dict[str, Any]:
    """A model's completions, the API, and one answer that is long under way."""
    keys = {m: key_of(daemon, port) for m, port in MODELS.items()}
    short = {"prompt": "a", "n_predict": 1}
    short_v1 = {"prompt": "a", "max_tokens": 1}
    # Much text for each token: all of it is more than the kernel keeps for a slow reader.
    long = {"prompt": "a", "n_predict": 400, "n_probs": 200, "stream": True, "ignore_eos": True}
    return {
        "targets": {
            "model": {
                "port": MODELS[ONE],
                "rate": RATE,
                "again": True,
                "request": request("POST", "/completion", keys[ONE], short),
            },
            "api": {
                "port": 8000,
                "rate": RATE,
                "again": False,
                "request": request("GET", "/livez"),
            },
            "gateway": {
                "port": 8000,
                "rate": GATEWAY_RATE,
                "again": False,
                "request": request("POST", "/v1/completions", body={"model": THIRD, **short_v1}),
            },
        },
        "stream": {
            "port": MODELS[OTHER],
            "request": request("POST", "/completion", keys[OTHER], long),
        },
    }


class Load:
    """Under way from the start of `loaded`; `outcomes` are there after it."""

    outcomes: dict[str, dict[str, int]]


@contextmanager
def loaded(daemon: Daemon) -> Iterator[Load]:
    load = Load()
    command = daemon.container.command(["python3", "-I", "-c", LOAD])
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT
    ) as process:
        try:
            assert process.stdin is not None
            process.stdin.write(json.dumps(load_on(daemon)).encode() + b"\n")
            process.stdin.flush()
            yield load
            output, _ = process.communicate(timeout=2 * DEADLINE_S)  # more than a request is given
        finally:
            process.kill()
    load.outcomes = json.loads(output)
    print(daemon.container.release.name, load.outcomes)  # noqa: T201 - a figure


@pytest.fixture(scope="module")
def daemon(container: Container, chat_model: Path) -> Iterator[Daemon]:
    one = installed_in(container, chat_model)
    one.wait_ready()
    yield one
    one.client.close()


def test_restarts_and_an_upgrade_are_not_noticed(daemon: Daemon) -> None:
    before = daemon.pids()
    with loaded(daemon) as load:
        for number in range(TIMES):
            if number == TIMES // 2:
                # While it is installed, for a moment, no worker can be started that reads models.
                daemon.wait_serving()
                install_magid(daemon.container)
            daemon.container.systemctl("restart", "magid")
    assert load.outcomes["stream"] == {"200": 1}
    assert load.outcomes["model"].keys() == {"200"}
    assert load.outcomes["api"].keys() == {"200"}
    assert load.outcomes["gateway"].keys() == {"200"}
    daemon.wait_ready()
    assert daemon.pids() == before


@pytest.mark.parametrize("signal", ["KILL", "SEGV"])
def test_crashes_are_noticed_by_those_who_ask_magid_alone(daemon: Daemon, signal: str) -> None:
    """And by them only while they wait for its answer: nobody is refused."""
    before, container = daemon.pids(), daemon.container
    with loaded(daemon) as load:
        for _ in range(TIMES // 2):
            pid = container.pid_of("magid")
            container.systemctl("kill", f"--signal={signal}", "magid")
            container.wait_until(
                lambda pid=pid: (
                    container.pid_of("magid") not in (0, pid)  # type: ignore[misc]  # a default binds it now
                    and container.show("magid", "ActiveState")["ActiveState"] == "active"
                ),
                "another magid",
            )
    assert load.outcomes["stream"] == {"200": 1}
    assert load.outcomes["model"].keys() == {"200"}
    for name in ("api", "gateway"):
        assert load.outcomes[name].keys() <= {"200", "reset", "cut", "cut before its answer"}
    daemon.wait_ready()
    assert daemon.pids() == before
