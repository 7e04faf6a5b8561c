"""events and top: what changes, as it comes."""

import json
import re
import signal
import subprocess
import threading
from typing import Any

import pytest

from tests.support.deadlines import DEADLINE_S
from tests.support.magictl import MAGICTL, Type, environment, magictl, strange
from tests.support.rest import ALPHA, BETA, PROFILE, QWEN
from tests.support.running import Running

pytestmark = pytest.mark.slow


def test_events(magid: Running, type_in: Type) -> None:
    process = subprocess.Popen(
        [MAGICTL, "events", "--json"], env=environment(magid.url), stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        assert first["event"] == "snapshot"
        assert ALPHA in first["data"]["registry"]["models"]
        type_in(f"tier {QWEN} balanced")
        events = (json.loads(line) for line in process.stdout)  # predictions come meanwhile
        second = next(event for event in events if event["event"] == "registry")
        assert list(second["data"]["models"]) == [QWEN]
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130


def test_events_for_a_person(magid: Running, type_in: Type) -> None:
    """Each kind that is there to be told, in its order; none but what is news for a person."""
    process = subprocess.Popen(
        [MAGICTL, "events"], env=environment(magid.url), stdout=subprocess.PIPE, text=True
    )
    overdue = threading.Timer(DEADLINE_S, process.kill)  # ends a wait for what never comes
    overdue.start()
    try:
        assert process.stdout is not None
        told = iter(process.stdout.readline, "")
        ready = "2 of 2 servers ready; serving, ready, profile test"
        assert next(told).endswith(f"  5 models, {ready}\n")

        def until(end: str) -> None:
            line = next(line for line in told if line.endswith(f"  {end}\n"))
            assert re.fullmatch(r"\d\d:\d\d:\d\d  .*\n", line)

        type_in(f"tier {QWEN} balanced")
        until(f"registry: {QWEN} changed")
        (magid.profiles / "other.yaml").write_text(PROFILE)
        until("profiles: other changed")
        (magid.profiles / "other.yaml").unlink()
        until("profiles: nothing changed, other removed")
        port = magid.servers()[ALPHA]["port"]
        type_in(f"stop {ALPHA}")
        until(f"llama-server@{port}.service ({ALPHA}) is stopped")
        until("magid: serving, ready, profile test, 1 to start")
        type_in(f"start {ALPHA}")
        until(f"llama-server@{port}.service ({ALPHA}) is ready")
    finally:
        overdue.cancel()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=DEADLINE_S)


OVERALL = {"phase": "serving", "ready": False, "reasons": ["a", "b"], "activeProfile": None,
           "pendingChanges": {"stop": 2, "start": 1}}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "data", "line"),
    [
        ("serverRemoved", {"port": 8080, "unit": "x@1.service", "modelId": "m"},
         "x@1.service (m) was removed"),
        ("status", OVERALL, "magid: serving, not ready (a; b), profile -, 2 to stop, 1 to start"),
        ("registry", {"models": {}, "removed": ["m"], "registry": {"portRange": []}},
         "registry: portRange changed, m removed"),
        ("downloadRemoved", {"id": "qwen3-8b-0badcafe"}, "download qwen3-8b-0badcafe was removed"),
        ("figures", {"servers": [], "memory": {}}, ""),
        ("requests", {"requests": {"running": 1}}, ""),
        ("ofTomorrow", {}, ""),
    ],
)  # fmt: skip
def test_an_event_for_a_person(kind: str, data: Any, line: str) -> None:
    said = f"event: {kind}\nid: 1\ndata: {json.dumps(data)}\n\n".encode()
    with strange(b"HTTP/1.1 200 OK\r\n\r\n" + said) as url:
        done = magictl("--request-timeout", "2", "events", url=url)
    assert done.returncode == 124
    assert {text[10:] for text in done.stdout.splitlines()} == ({line} if line else set())


def test_top_once(type_in: Type) -> None:
    lines = type_in("top").stdout.splitlines()
    assert lines[0].startswith("magid: serving, profile test, up ")
    assert lines[3].split()[:3] == ["MODEL", "PORT", "STATE"]
    assert [line.split()[0] for line in lines[4:]] == [ALPHA, BETA]
    assert json.loads(type_in("top --json").stdout).keys() == {"status", "requests"}


def test_who_follows_goes_on_when_magid_is_back(magid: Running) -> None:
    process = subprocess.Popen(
        [MAGICTL, "events", "--json"], env=environment(magid.url), stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["event"] == "snapshot"
        magid.stop()
        magid.start()
        seen = (json.loads(line)["event"] for line in process.stdout)
        assert "snapshot" in seen  # everything once more: what changed meanwhile is in it
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=DEADLINE_S)
    magid.wait_ready()
