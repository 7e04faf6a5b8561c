"""Control groups of version 1: a process is in many of them, and one names its unit."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import cgroups
from tests.lab.container import booted
from tests.lab.serving import MODELS, Daemon, installed_in
from tests.lab.trees import OLDEST, Release, Tree

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not cgroups.are_of_both_versions(), reason="this host has version 2 alone"),
]

ONE = next(iter(MODELS))


@pytest.fixture(scope="module")
def daemon(all_trees: dict[Release, Tree], chat_model: Path) -> Iterator[Daemon]:
    with booted(all_trees[OLDEST], unified=False) as container:
        daemon = installed_in(container, chat_model)
        daemon.wait_ready()
        yield daemon
        daemon.client.close()


def test_doctor_knows_magid_s_own_servers(daemon: Daemon) -> None:
    """As root, who sees whose ports they are; and it says what the old version means."""
    done = daemon.container.run(["magictl", "doctor", "--json"], check=False)
    checks = json.loads(done.stdout)["checks"]
    found = [(f["name"], f["severity"]) for check in checks for f in check["findings"]]
    assert [one for one in found if one[1] != "note"] == [("control-groups-1", "warning")]
    assert done.returncode == 0


@pytest.mark.parametrize("signal", ["TERM", "KILL"])
def test_a_server_whose_process_is_killed_is_started_again(daemon: Daemon, signal: str) -> None:
    before = daemon.server(ONE)["pid"]
    daemon.container.run(["kill", f"-{signal}", str(before)])
    daemon.container.wait_until(lambda: daemon.pids()[ONE] not in (None, before), "a new process")
    daemon.wait_state("ready", ONE)


def test_magid_shows_its_own_log(daemon: Daemon) -> None:
    """It has to know its unit for that."""
    lines = daemon.client.get("/api/logs").json()["lines"]
    assert any(line["message"].startswith("magid 0") for line in lines), lines
