"""start, stop, restart and wait."""

import json
import subprocess

import pytest

from magid.cli import interaction
from tests.support.deadlines import DEADLINE_S
from tests.support.magictl import MAGICTL, Type, environment
from tests.support.rest import ALPHA, BETA, DEEPSEEK
from tests.support.running import Running

pytestmark = pytest.mark.slow


def test_stop_start_and_restart_wait_for_the_end(magid: Running, type_in: Type) -> None:
    assert type_in(f"stop {ALPHA} {BETA}").stdout == (f"{ALPHA} has stopped\n{BETA} has stopped\n")
    assert {s["state"] for s in magid.servers().values()} == {"stopped"}
    type_in(f"start {ALPHA} {BETA}")
    before = magid.servers()
    assert {s["state"] for s in before.values()} == {"ready"}
    type_in(f"restart {ALPHA}")
    assert magid.servers()[ALPHA]["pid"] != before[ALPHA]["pid"]
    assert type_in(f"start --no-wait {ALPHA}").stdout == f"Start of {ALPHA} requested\n"


def test_one_that_is_refused_does_not_keep_the_others_from_being_done(
    magid: Running, type_in: Type
) -> None:
    done = type_in(f"restart {DEEPSEEK} nothing {ALPHA}", 1)
    assert done.stdout == f"{ALPHA} is ready\n"
    assert done.stderr.splitlines() == [
        f"magictl: cannot start '{DEEPSEEK}'",
        "it is disabled",
        f"try: magictl enable {DEEPSEEK}",
        "magictl: cannot find model 'nothing'",
        "none of the 5 models matches it",
        "try: magictl ls",
    ]


def test_wait_sees_what_others_do(magid: Running, type_in: Type) -> None:
    with subprocess.Popen(
        [MAGICTL, "wait", ALPHA, "--for=stopped", "--json"],
        env=environment(magid.url), stdout=subprocess.PIPE, text=True,
    ) as waiting:  # fmt: skip
        type_in(f"stop {ALPHA}")
        answer, _ = waiting.communicate(timeout=DEADLINE_S)
    assert waiting.returncode == 0
    assert [s["state"] for s in json.loads(answer)["servers"]] == ["stopped"]
    type_in(f"load {ALPHA}")


def test_wait_means_what_is_wanted_now(type_in: Type) -> None:
    type_in(f"set {ALPHA} ctxSize=256")
    late = type_in(f"wait {ALPHA} --timeout 2", 124)
    assert late.stderr.endswith("try: magictl diff, magictl ps -a\n")
    assert f"{ALPHA}: settings changed: ctxSize 512 -> 256\n" in type_in("diff").stdout
    type_in("apply")
    assert type_in(f"wait {ALPHA}").stdout == f"{ALPHA} is ready\n"
    type_in(f"set {ALPHA} ctxSize=")
    type_in("apply")
    type_in(f"wait {ALPHA}")


def test_the_bar_of_a_load() -> None:
    server = {"state": "loading", "stateReason": ""}
    lines = [interaction.bar("m", [server], seconds) for seconds in (0.0, 20.0, 600.0)]
    assert [line.count("#") for line in lines] == sorted({line.count("#") for line in lines})
    assert all("." in line.partition("]")[0] for line in lines)  # it is not done before it is done
    assert lines[1].endswith("] m: loading, 20 s")
    ready = {"state": "ready", "stateReason": ""}
    assert "." not in interaction.bar("m", [ready], 1.0).partition("]")[0]
    broken = {"state": "backoff", "stateReason": "it\x1b crashed"}
    assert "m: backoff, it? crashed" in interaction.bar("m", [ready, broken], 1.0)
    assert interaction.bar("m", [], 3.0) == "m: requested, 3 s"
