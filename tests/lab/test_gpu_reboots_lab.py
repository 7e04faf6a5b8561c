"""Boots of one machine with different sets of GPUs: places adapt, and a choice is waited for.

Each GPU is a service of the container that a real llama-server reaches over RPC.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import rpc_gpus
from tests.lab.container import Container
from tests.lab.serving import MODELS, SETTINGS, Daemon, installed_in
from tests.support.deadlines import DEADLINE_S

pytestmark = pytest.mark.slow

UNIT = f"""\
[Unit]
Before=magid.service
[Service]
ExecStart=sh -c 'tail -f /dev/null | python3 -I -S {rpc_gpus.FAKE} \\
    {rpc_gpus.FOLDER}/ggml-rpc-server 400 0 {{port}} >/dev/null'
TimeoutStopSec=5
ExecStartPost=sh -c 'until ss -Hltn "sport = {{port}}" | grep -q .; do sleep 0.05; done'
[Install]
WantedBy=multi-user.target
"""
PORTS = (50161, 50162)
FIRST, SECOND = (f"127.0.0.1:{port}" for port in PORTS)
MORE = f"""\
gpu_reserve: 1048576
llama_server_path: {rpc_gpus.PROGRAM}
rpc_servers: ["{FIRST}", "{SECOND}"]
"""
PINNED, FREE = list(MODELS)[:2]


@pytest.fixture(scope="module")
def daemon(container: Container, chat_model: Path, llama_server_with_rpc: Path) -> Iterator[Daemon]:
    rpc_gpus.unpack(container, llama_server_with_rpc)
    for port in PORTS:
        container.write(f"/etc/systemd/system/{name_of(port)}", UNIT.format(port=port))
    container.systemctl("daemon-reload")
    container.systemctl("enable", "--now", *map(name_of, PORTS))
    daemon = installed_in(container, chat_model, SETTINGS + MORE)
    profile = f"name: Two\nenabled_models: [{PINNED}, {FREE}]\n"
    container.write("/etc/magi/profiles/everything.yaml", profile)
    wait_ready(daemon)
    yield daemon
    daemon.client.close()


def wait_ready(daemon: Daemon) -> None:
    """Each model is predicted before it starts, by servers that several processes simulate."""
    daemon.container.wait_until(daemon.is_ready, "readiness", DEADLINE_S * 3)


def name_of(port: int) -> str:
    return f"fake-gpu-{port}.service"


def rebooted(daemon: Daemon, *, without: int) -> None:
    """The machine comes up again, with the other GPU only."""
    container = daemon.container
    container.systemctl("enable", *map(name_of, PORTS))
    container.systemctl("disable", name_of(without))
    daemon.client.close()
    container.reboot()
    daemon.client = container.client("http://127.0.0.1:8000")
    container.wait_until(lambda: _is_serving(daemon), "the end of the boot", DEADLINE_S * 3)


def _is_serving(daemon: Daemon) -> bool:
    answer = daemon.client.get("/api/models/status")
    return answer.is_success and answer.json()["phase"] == "serving"


def places(daemon: Daemon, model_id: str) -> list[str]:
    placement = daemon.server(model_id)["placement"] or {"devices": []}
    return [device["id"] for device in placement["devices"]]


def refusals(container: Container) -> str:
    return container.run(["magictl", "status"], check=False).stdout


def test_places_follow_the_gpus_of_each_boot(daemon: Daemon) -> None:
    container = daemon.container
    daemon.put(PINNED, "runtime-settings", {"device": SECOND})
    daemon.restart(PINNED, 200, wait=60)
    daemon.restart(FREE, 200, wait=60)
    assert places(daemon, PINNED) == [SECOND]
    assert len(places(daemon, FREE)) == 1

    rebooted(daemon, without=PORTS[1])
    assert places(daemon, FREE) == [FIRST]
    assert PINNED not in daemon.servers() or daemon.state(PINNED) != "ready"
    said = f"cannot start '{PINNED}': its setting device names {SECOND}"
    assert said in refusals(container)
    assert daemon.client.get("/readyz").status_code == 503

    container.systemctl("start", name_of(PORTS[1]))
    container.run(["magictl", "gpus", "--refresh"])
    wait_ready(daemon)
    assert places(daemon, PINNED) == [SECOND]
    assert said not in refusals(container)

    rebooted(daemon, without=PORTS[0])
    wait_ready(daemon)
    assert places(daemon, PINNED) == places(daemon, FREE) == [SECOND]
