"""magid as the service of a container, with the models of one profile."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from magid.systemd.unit_names import port_in, unit_name
from tests.lab.container import Container
from tests.lab.launching import install_launcher
from tests.support.deadlines import DEADLINE_S

MODELS = {
    "alpha_1p0b_q4km_fast": 8080,
    "beta_8p0b_q4km_balanced": 8081,
    "gamma_14p0b_q4km_powerful": 8082,
}
FILES = ("Alpha-1B-Q4_K_M.gguf", "Beta-8B-Q4_K_M.gguf", "Gamma-14B-Q4_K_M.gguf")
SETTINGS = """\
model_paths: [/models]
profile: everything
server_defaults: {n_threads: 1, parallel: 1, ctx_size: 512}
restart: {limit: 50, first_delay: 0.5, max_delay: 0.5}
"""
PROFILE = "name: Everything\nenabled_models: ['*']\n"
UNITS = (
    *("magid.socket", "magid-local.socket", "magid-view.socket"),
    *("magi-launcher.socket", "magi-key.socket", "magid.service"),
)


class Daemon:
    """magid in a container, and what it says of its servers."""

    def __init__(self, container: Container) -> None:
        self.container = container
        self.client = container.client("http://127.0.0.1:8000")

    def servers(self) -> dict[str, dict[str, Any]]:
        reply = self.client.get("/api/models/servers?all=true")
        reply.raise_for_status()
        return {server["modelId"]: server for server in reply.json()["servers"]}

    def server(self, model_id: str) -> dict[str, Any]:
        return self.servers()[model_id]

    def state(self, model_id: str) -> str:
        return str(self.server(model_id)["state"])

    def pids(self) -> dict[str, int]:
        return {model_id: server["pid"] for model_id, server in self.servers().items()}

    def put(self, model_id: str, what: str, value: object) -> None:
        """What a user decides of a model: PUT .../tier and its like."""
        url = f"/api/models/{model_id}/{what}"
        self.client.put(url, json=value).raise_for_status()

    def units(self) -> set[str]:
        """All servers' units that systemd knows of, in whatever state."""
        listed = self.container.systemctl("list-units", "--all", "llama-server@*", "--output=json")
        names = {unit["unit"] for unit in json.loads(listed)}
        return {name for name in names if port_in(name) is not None}

    def is_ready(self) -> bool:
        try:
            return self.client.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def wait_ready(self) -> None:
        self.container.wait_until(self.is_ready, "readiness")
        for model_id in MODELS:
            self.wait_state("ready", model_id)

    def wait_state(self, state: str, model_id: str) -> None:
        """Where that is ready, until systemd knows it too, which is later than magid."""
        self.container.wait_until(lambda: self.state(model_id) == state, f"{model_id} {state}")
        if state == "ready":
            unit = unit_name(self.server(model_id)["port"])
            self.container.wait_until(
                lambda: self.container.show(unit, "ActiveState")["ActiveState"] == "active", unit
            )

    def reported(self, state: str, model_id: str, act: Callable[[], object]) -> dict[str, Any]:
        """What the events say of the server when it gets into the state after `act`.

        For states that pass by themselves: between two looks they might be missed.
        """
        with self.client.stream("GET", "/api/events") as stream:
            stream.raise_for_status()
            lines = stream.iter_lines()
            next(line for line in lines if line.startswith("data: "))  # how it is before
            act()
            end = time.monotonic() + DEADLINE_S
            for line in lines:
                assert time.monotonic() < end, f"{model_id} did not get {state}"
                data = json.loads(line[6:]) if line.startswith("data: ") else {}
                server: dict[str, Any] = data.get("server", {})
                if (server.get("modelId"), server.get("state")) == (model_id, state):
                    return server
        raise AssertionError(f"the events ended before {model_id} was {state}")

    def restart(self, model_id: str, status: int, **query: float) -> None:
        """Restarts the model's server, once no other change of it is under way."""
        url = f"/api/models/servers/{model_id}/restart"

        def is_accepted() -> bool:
            reply = self.client.post(url, params=query)
            assert reply.status_code == status or reply.json()["error"] == "Busy", reply.text
            return reply.status_code == status

        self.container.wait_until(is_accepted, "restart")

    def entries(self, *matches: str) -> list[dict[str, Any]]:
        """Magid's own entries in the journal that have these fields."""
        return self.container.journal("magid", *matches)

    def wait_serving(self) -> None:
        """Until a magid that began anew has done all that it does at its start."""

        def serving() -> bool:
            return bool(self.client.get("/api/models/status").json()["phase"] == "serving")

        self.container.wait_until(serving, "magid serving")


def replaced(container: Container, *how: str) -> None:
    """Returns when another magid runs."""
    before = container.pid_of("magid")
    container.systemctl(*how)
    container.wait_until(lambda: container.pid_of("magid") not in (0, before), "another magid")


def check_agreement(daemon: Daemon) -> None:
    """systemctl, journalctl and the API say the same of all models."""
    container = daemon.container
    assert daemon.units() == {unit_name(port) for port in MODELS.values()}
    for model_id, port in MODELS.items():
        server, unit = daemon.server(model_id), unit_name(port)
        shown = container.show(unit, "MainPID", "ActiveState")
        assert (server["port"], str(server["pid"])) == (port, shown["MainPID"])
        assert (server["state"], shown["ActiveState"]) == ("ready", "active")
        assert container.http("GET", f"http://127.0.0.1:{port}/health").status_code == 200
        lines = [
            str(entry["MESSAGE"]) for entry in container.journal(unit, f"MAGI_MODEL={model_id}")
        ]
        assert any("model loaded" in line for line in lines)
    status = container.show("magid", "StatusText")["StatusText"]
    assert status == "serving: 3 ready, profile everything"


def installed_in(container: Container, model: Path, settings: str = SETTINGS) -> Daemon:
    """Enabled and started, with MODELS in its folder."""
    install_launcher(container, model)
    container.run(["rm", "-r", "/models"])
    container.write("/etc/magi/magid.yaml", settings)
    container.write("/etc/magi/profiles/everything.yaml", PROFILE)
    for name in FILES:
        container.write(f"/models/{name}", model.read_bytes())
    container.systemctl("enable", *UNITS)
    container.systemctl("start", *UNITS)
    return Daemon(container)
