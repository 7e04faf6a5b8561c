"""enable, disable, tier, thinking and set, with diff and apply."""

import json

import pytest

from tests.support.magictl import Type, magictl
from tests.support.rest import ALPHA, BETA
from tests.support.running import Running

pytestmark = pytest.mark.slow


def test_overrides(magid: Running, type_in: Type) -> None:
    assert type_in(f"tier {ALPHA} powerful").stdout == f"Tier updated for {ALPHA}\n"
    assert type_in(f"thinking {ALPHA} on").returncode == 0
    done = type_in(f"disable {ALPHA}")
    assert done.stderr == "not in force yet; run: magictl apply\n"
    row = magid.get("/api/models/registry")["models"][ALPHA]
    assert (row["tierOverride"], row["thinkingOverride"], row["enabled"]) == (
        "powerful", True, False,
    )  # fmt: skip
    assert "1 to stop: magictl apply" in type_in("status").stdout
    plan = type_in("diff").stdout.splitlines()
    assert type_in("apply --dry-run").stdout.splitlines() == plan
    assert [line[0] for line in plan] == ["-", " "]
    assert ALPHA in plan[0]
    assert BETA in plan[1]
    type_in(f"enable {ALPHA}")
    type_in(f"tier {ALPHA} auto")
    type_in(f"thinking {ALPHA} off")
    assert type_in("apply").stdout.startswith("Nothing to do")


def test_a_decision_that_counts_now(magid: Running, type_in: Type) -> None:
    done = type_in(f"disable --now {ALPHA}")
    assert done.stdout.splitlines()[-1] == f"{ALPHA} has stopped"
    assert done.stderr == ""
    assert ALPHA not in type_in("ps -q").stdout
    done = type_in(f"enable {ALPHA} --now")
    assert done.stdout.splitlines()[-1] == f"{ALPHA} is ready"
    assert magid.servers()[ALPHA]["state"] == "ready"


def test_set_changes_and_reverts(magid: Running, type_in: Type) -> None:
    done = type_in(f"set {ALPHA} ctx-size=1K parallel=2 memory_max=2GiB start=on-demand")
    assert done.stdout == f"Runtime settings updated for {ALPHA}\n"
    assert magictl("set", ALPHA, "extraArgs=--temp 0.5", url=magid.url).returncode == 0
    changed = magid.get(f"/api/models/{ALPHA}")
    assert {key: changed[key] for key in ("ctxSize", "parallel", "memoryMax", "start")} == {
        "ctxSize": 1024, "parallel": 2, "memoryMax": 2**31, "start": "on-demand",
    }  # fmt: skip
    assert changed["extraArgs"] == ["--temp", "0.5"]
    assert "cannot limit" in type_in(f"cat {ALPHA}", 1).stdout  # memory, without systemd
    type_in(f"set {ALPHA} memoryMax=")
    lines = [line.split() for line in type_in(f"cat {ALPHA}").stdout.splitlines()]
    assert ["--ctx-size", "1024", "override"] in lines
    assert ["--temp", "0.5", "extraArgs:", "override"] in lines
    type_in(f"set {ALPHA} ctxSize= parallel= start= extraArgs=")
    reverted = magid.get(f"/api/models/{ALPHA}")
    assert (reverted["ctxSize"], reverted["parallel"], reverted["extraArgs"]) == (512, 1, [])


def test_set_the_port_too(magid: Running, type_in: Type) -> None:
    port = magid.servers()[ALPHA]["port"]
    done = type_in(f"set {ALPHA} port={port} ctxSize=512")
    assert len(done.stdout.splitlines()) == 2
    assert magid.get(f"/api/models/{ALPHA}")["sources"]["port"] == "override"
    answers = type_in(f"set {ALPHA} port= ctxSize= --json").stdout.splitlines()
    assert [json.loads(line)["modelId"] for line in answers] == [ALPHA, ALPHA]
