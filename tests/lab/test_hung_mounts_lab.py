"""A model folder on a mount that hangs, on a booted machine: what systemd has to wait for."""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from magid.systemd.unit_names import unit_name
from tests.lab.container import Container
from tests.lab.serving import MODELS, SETTINGS, Daemon, installed_in
from tests.lab.trees import STABLE
from tests.support.mounts import Mounted, mounted

# What is tested is magid's, and the same on each release.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.parametrize(
        "release", [STABLE], ids=lambda one: one.name, indirect=True, scope="session"
    ),
]

NET = "/net/models"
ALPHA = next(iter(MODELS))
DELTA = "delta_1p0b_q4km_fast"


@pytest.fixture
def mount(container: Container, chat_model: Path) -> Iterator[Mounted]:
    container.write(f"{NET}/Delta-1B-Q4_K_M.gguf", chat_model.read_bytes())
    with mounted(Path(NET), within=container.leader) as one:
        yield one
        one.thaw()


def test_it_keeps_nothing_from_starting_and_ending(
    container: Container, mount: Mounted, chat_model: Path
) -> None:
    mount.hang()
    daemon = installed_in(container, chat_model, SETTINGS.replace("[/models]", f"[{NET}, /models]"))
    try:
        check(container, daemon, mount)
    finally:
        daemon.client.close()


def is_ready(daemon: Daemon, model_id: str) -> bool:
    """Also before it is known, and before magid answers."""
    try:
        server = daemon.servers().get(model_id)
    except httpx.TransportError:
        return False
    return server is not None and server["state"] == "ready"


def check(container: Container, daemon: Daemon, mount: Mounted) -> None:
    for model_id in MODELS:
        container.wait_until(partial(is_ready, daemon, model_id), f"{model_id} ready")
    assert NET in " ".join(daemon.client.get("/readyz").json()["reasons"])
    pid = daemon.pids()[ALPHA]
    again = daemon.client.post(f"/api/models/servers/{ALPHA}/restart?wait=120")
    assert again.status_code == 200, again.text
    assert daemon.pids()[ALPHA] != pid
    for unit in ("magid.service", "magi-launcher.service"):
        began = time.monotonic()
        container.systemctl("stop", unit)
        print(f"{unit} ended after {time.monotonic() - began:.1f} s")  # noqa: T201 - a figure
        assert container.show(unit, "Result") == {"Result": "success"}, "it was not killed"
    assert unit_name(MODELS[ALPHA]) in daemon.units()
    container.systemctl("start", "magid.service")
    daemon.wait_serving()
    mount.thaw()
    container.wait_until(lambda: is_ready(daemon, DELTA), f"{DELTA} ready")
    container.wait_until(daemon.is_ready, "readiness")
