"""A machine with magid and its doctor, and what has to be true of what doctor says."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.lab import faults
from tests.lab.container import Container, booted
from tests.lab.faults import Fault
from tests.lab.serving import Daemon, installed_in
from tests.lab.trees import Tree

PEOPLE = ("stranger", "member")  # the second one is in the group magi
# What magid says of a fault itself, and what only root can find out about it.
LESS_SEEN = {
    "magid-cannot-start": ("open-without-token",),
    "model-unread": ("model-file-closed", "model-way-closed", "model-folder-closed"),
    "model-unused": ("model-file-refused",),
    "magid-reports": (
        *("llama-server-does-not-run", "llama-server-too-old", "model-folder-closed"),
        *("model-folder-missing", "model-folder-private", "model-folder-not-mounted"),
    ),
}
HEALTHY = "no problems found (30 checks)\n"


class Doctor:
    """A machine with magid, and its doctor."""

    def __init__(self, daemon: Daemon) -> None:
        self.container: Container = daemon.container
        self.daemon = daemon

    def sh(self, script: str) -> str:
        """As root types it; what takes longer than a person would wait is ended."""
        return self.container.run(["timeout", "60", "sh", "-c", script], check=False).stdout

    def look(self, *words: str, user: str | None = None) -> "subprocess.CompletedProcess[str]":
        return self.container.run(["magictl", "doctor", *words], check=False, user=user)

    def findings(self, user: str | None = None) -> list[dict[str, Any]]:
        """What it finds, notes left out."""
        done = self.look("--json", user=user)
        assert done.stderr == ""
        found = [f for check in json.loads(done.stdout)["checks"] for f in check["findings"]]
        assert done.returncode == any(finding["severity"] == "error" for finding in found)
        return [finding for finding in found if finding["severity"] != "note"]

    def mend(self, found: list[dict[str, Any]], by_hand: str = "") -> None:
        """Run what doctor printed, or what a person has to do; then nothing is wrong any more."""
        printed = [command for finding in found for command in finding["run"]]
        for command in [by_hand] if by_hand else printed:
            self.sh(command)
        self.container.wait_until(self.is_settled, "servers that have settled")
        done = self.look()
        assert done.stdout == HEALTHY, "\n".join(["after", *printed, "", done.stdout])

    def is_settled(self) -> bool:
        """Asked again and again, so magictl, which takes longer to start, only where it has to."""
        try:
            servers = self.daemon.client.get("/api/models/servers?all=true").json()["servers"]
        except (httpx.TransportError, KeyError):  # by a fault, or a token is needed
            done = self.container.run(["magictl", "ps", "--all", "--json"], check=False)
            servers = json.loads(done.stdout or '{"servers": []}')["servers"]
        states = {server["state"] for server in servers}
        return not {"starting", "loading", "stopping"} & states


def check_found(found: list[dict[str, Any]], fault: Fault) -> None:
    """Asserts that doctor found it, under its name and in its words."""
    findings = [f for f in found if f["name"] == fault.finding and fault.says in f["what"]]
    assert findings, "\n".join([fault.says, "", *(f"{f['name']}: {f['what']}" for f in found)])
    assert findings[0]["run"] or fault.finding in faults.NO_COMMAND


def check_true(doctor: Doctor, found: list[dict[str, Any]]) -> None:
    """Asserts that a user without root gets no finding that root, who sees all, does not get."""
    real = {finding["name"] for finding in found}
    real |= {less for less, more in LESS_SEEN.items() if real & set(more)}
    for user in PEOPLE:
        false = [f["what"] for f in doctor.findings(user) if f["name"] not in real]
        assert not false, f"{user}: {false}"


@contextmanager
def with_doctor(tree: Tree, model: Path) -> Iterator[Doctor]:
    """A machine whose models are ready, with PEOPLE on it."""
    with booted(tree) as container:
        daemon = installed_in(container, model)
        daemon.wait_ready()
        container.run(["useradd", "stranger"])
        container.run(["useradd", "--groups", "magi", "member"])
        yield Doctor(daemon)
        daemon.client.close()
