"""logs: of a model's server, and of magid itself."""

import json
import re
import signal
import subprocess
from threading import Event

import pytest

from tests.support.deadlines import DEADLINE_S
from tests.support.magictl import MAGICTL, Type, environment, strange
from tests.support.rest import ALPHA, QWEN
from tests.support.running import Running

pytestmark = pytest.mark.slow


def test_logs(type_in: Type) -> None:
    lines = type_in(f"logs {ALPHA} -n 500 --grep listening").stdout.splitlines()
    assert lines
    assert all("listening" in line for line in lines)
    assert len(type_in(f"logs {ALPHA} -n 2").stdout.splitlines()) == 2


def test_logs_have_the_time_of_day_and_one_run(magid: Running, type_in: Type) -> None:
    type_in(f"restart {ALPHA}")
    current = type_in(f"logs {ALPHA} -n 2000").stdout.splitlines()
    assert all(re.match(r"(\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d  ", line) for line in current)
    previous = type_in(f"logs {ALPHA} -n 2000 --previous").stdout.splitlines()
    every = type_in(f"logs {ALPHA} -n 2000 --all").stdout.splitlines()
    listening = [sum("listening on" in line for line in log) for log in (current, previous, every)]
    assert listening[:2] == [1, 1]
    assert listening[2] >= 2
    assert every[-len(current) :] == current
    runs = [
        line["run"] for line in magid.get(f"/api/models/servers/{ALPHA}/logs?run=current")["lines"]
    ]
    assert len(set(runs)) == 1
    done = type_in(f"logs {ALPHA} --all --previous", 2)
    assert "not allowed with" in done.stderr


def test_logs_of_magid_itself(magid: Running, type_in: Type) -> None:
    lines = type_in("logs -n 500 --grep ready").stdout.splitlines()
    assert any(f"({ALPHA}) is ready after " in line for line in lines)
    assert all(re.match(r"\d{4}-\d\d-\d\dT[\d:.]+Z [a-z]+: ", line) for line in lines)
    assert len(type_in("logs -n 1").stdout.splitlines()) == 1
    (told,) = json.loads(type_in("logs -n 1 --json").stdout)["lines"]
    assert told.keys() == magid.get("/api/logs?lines=1")["lines"][0].keys()


def test_logs_of_magid_are_followed_across_a_restart(magid: Running, type_in: Type) -> None:
    """Each entry once, and none is missed."""
    words = [MAGICTL, "logs", "-f", "-n", "1", "--grep", "decided for"]
    type_in(f"tier {QWEN} balanced")
    with subprocess.Popen(
        words, env=environment(magid.url), stdout=subprocess.PIPE, text=True
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline().endswith("tierOverride=balanced\n")
        magid.stop()
        magid.start()
        magid.wait_ready()
        type_in(f"tier {QWEN} powerful")
        assert process.stdout.readline().endswith("tierOverride=powerful\n")
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == ""
    assert process.returncode == 130


def test_logs_follow_until_ctrl_c(magid: Running) -> None:
    process = subprocess.Popen(
        [MAGICTL, "logs", ALPHA, "-f", "-n", "1"],
        env=environment(magid.url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, errors) == (130, "")


def test_who_follows_a_log_without_a_line_goes_on_too() -> None:
    asked = Event()
    with strange(b"HTTP/1.1 200 OK\r\n\r\n: nothing yet\n\n", asked) as url:
        process = subprocess.Popen(
            [MAGICTL, "--request-timeout", "3", "logs", "-f"], env=environment(url),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert asked.wait(DEADLINE_S)
    output, errors = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, output) == (124, ""), errors
