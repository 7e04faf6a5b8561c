"""Servers over REST: their states, what changes them, their logs, and the feed of events."""

import json
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support import rest
from tests.support.deadlines import DEADLINE_S
from tests.support.rest import ALPHA, BETA, DEEPSEEK, GAMMA, QWEN
from tests.support.running import Running

pytestmark = pytest.mark.slow

Events = Generator[tuple[str, Any], None, None]
ALPHA_SERVER = f"/api/models/servers/{ALPHA}"


@pytest.fixture
def magid(shared: Running) -> Iterator[Running]:
    """Every test finds both servers ready, and leaves no override behind."""
    shared.ask("POST", "/api/models/apply")
    shared.wait_for("both servers", lambda: settled(shared))
    yield shared
    rest.forget_overrides(shared)


def settled(magid: Running) -> bool:
    return [s["isReady"] for s in magid.servers().values()] == [True, True]


def test_servers(magid: Running) -> None:
    answer = magid.get("/api/models/servers")
    assert (answer["totalServers"], answer["readyServers"]) == (2, 2)
    server = magid.servers()[ALPHA]
    expected = {
        "modelId": ALPHA,
        "displayName": "ALPHA INSTRUCT 0.0B Q4_0",
        "port": rest.model(magid, ALPHA)["port"],
        "isReady": True,
        "isRunning": True,
        "tier": "fast",
        "isThinking": False,
        "state": "ready",
        "endpoint": f"http://127.0.0.1:{server['port']}",
        "specCurrent": True,
        "placement": None,
        "instance": 0,
        "unit": f"llama-server@{server['port']}.service",
    }
    assert expected.items() <= server.items()
    assert server["pid"] > 1
    assert server["uptimeSeconds"] >= 0
    assert server["memoryBytes"] > 0
    assert server["cpuSeconds"] > 0
    assert server["invocationId"]


def test_servers_show_the_overrides_of_their_model(magid: Running) -> None:
    magid.ask("PUT", f"/api/models/{ALPHA}/thinking", {"thinking": True})
    server = magid.servers()[ALPHA]
    assert (server["tier"], server["isThinking"]) == ("powerful", True)
    magid.ask("PUT", f"/api/models/{ALPHA}/runtime-settings", {"ctxSize": 256})
    assert not magid.servers()[ALPHA]["specCurrent"]


# -- changes -----------------------------------------------------------------------------------


def test_stop_start_and_restart_answer_at_once_or_when_done(magid: Running) -> None:
    stopped = magid.ask("POST", f"{ALPHA_SERVER}/stop?wait=30", status=200)
    assert stopped.keys() == {"message", "modelId", "status", "servers"}
    assert stopped["message"] == f"{ALPHA} has stopped"
    (server,) = stopped["servers"]
    assert (server["state"], server["pid"], server["uptimeSeconds"]) == ("stopped", None, 0)
    assert magid.ask("POST", f"{ALPHA_SERVER}/stop", status=202)["modelId"] == ALPHA  # idempotent
    requested = magid.ask("POST", f"{ALPHA_SERVER}/start", status=202)
    assert requested["message"] == f"Start of {ALPHA} requested"
    first = magid.wait_state(ALPHA, "ready")
    again = magid.ask("POST", f"{ALPHA_SERVER}/restart?wait=30", status=200)["servers"][0]
    assert again["state"] == "ready"
    assert again["invocationId"] != first["invocationId"]


@pytest.mark.parametrize("action", ["start", "restart"])
def test_a_disabled_model_is_not_started(magid: Running, action: str) -> None:
    answer = rest.refused(magid, "POST", f"/api/models/servers/{DEEPSEEK}/{action}", None, 409)
    assert (answer["error"], answer["details"]) == ("ModelDisabled", {"modelId": DEEPSEEK})


@pytest.mark.parametrize("action", ["start", "restart", "stop"])
def test_no_such_model(magid: Running, action: str) -> None:
    answer = rest.refused(magid, "POST", f"/api/models/servers/nope/{action}", None, 404)
    assert answer["error"] == "ModelNotFound"


@pytest.mark.parametrize("wait", ["-1", "nan", "inf", "3601", "soon", "1e999"])
def test_waits_that_cannot_be(magid: Running, wait: str) -> None:
    answer = rest.refused(magid, "POST", f"{ALPHA_SERVER}/stop?wait={wait}", None, 400)
    assert answer["details"]["field"] == "wait"
    assert magid.servers()[ALPHA]["isReady"]


def test_a_wait_that_is_too_short_ends_and_the_work_goes_on(magid: Running) -> None:
    answer = rest.refused(magid, "POST", f"{ALPHA_SERVER}/restart?wait=0.000001", None, 504)
    assert answer["error"] == "TimedOut"
    magid.wait_state(ALPHA, "ready")


def test_a_caller_that_goes_away_while_it_waits_stops_nothing(magid: Running) -> None:
    before = magid.servers()[ALPHA]["invocationId"]
    with rest.connect(magid.port) as connection:
        connection.sendall(
            f"POST {ALPHA_SERVER}/restart?wait=60 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        )
        magid.wait_for("the restart to begin", lambda: invocation(magid) != before)
    magid.wait_state(ALPHA, "ready")
    assert "ERROR" not in magid.log.read_text()


def invocation(magid: Running) -> str | None:
    found: str | None = magid.servers()[ALPHA]["invocationId"]
    return found


def test_a_server_that_cannot_load_says_why(magid: Running) -> None:
    magid.ask("PUT", f"/api/models/{DEEPSEEK}/enabled", {"enabled": True})
    path = f"/api/models/servers/{DEEPSEEK}"
    answer = rest.refused(magid, "POST", f"{path}/start?wait=60", None, 503)
    assert answer["error"] == "ServerFailed"
    assert answer["details"]["modelId"] == DEEPSEEK
    ready = magid.client.get("/readyz")
    assert ready.status_code == 503
    assert any(DEEPSEEK in reason for reason in ready.json()["reasons"])
    assert magid.get(f"{path}/logs?lines=5")["lines"]
    magid.ask("PUT", f"/api/models/{DEEPSEEK}/enabled", {"enabled": None})
    magid.ask("POST", f"{path}/stop?wait=30")


def test_stop_all_and_start_all(magid: Running) -> None:
    assert magid.ask("POST", "/api/models/servers/start-all", status=200)["start"] == []
    plan = magid.ask("POST", "/api/models/servers/stop-all", status=202)
    assert plan.keys() == {
        "message", "stop", "start", "keep", "blocked", "conditions", "stopped",
    }  # fmt: skip
    assert {line["modelId"] for line in plan["stop"]} == {ALPHA, BETA}
    for line in plan["stop"]:
        assert line["unit"] == f"llama-server@{line['port']}.service"
        assert line["reason"] == "stop asked for"
    magid.wait_for(
        "both to stop", lambda: magid.get("/api/models/status")["serversByState"]["stopped"] == 2
    )
    assert magid.ask("POST", "/api/models/servers/stop-all", status=200)["stop"] == []
    started = magid.ask("POST", "/api/models/servers/start-all", status=202)
    assert {line["modelId"] for line in started["start"]} == {ALPHA, BETA}
    magid.wait_for("both to run", lambda: settled(magid))


def states(magid: Running) -> set[str]:
    return {server["state"] for server in magid.servers().values()}


def test_apply_makes_what_runs_equal_what_is_wanted(magid: Running) -> None:
    nothing = magid.ask("POST", "/api/models/apply", status=200)
    assert {line["modelId"] for line in nothing["keep"]} == {ALPHA, BETA}
    magid.ask("PUT", f"/api/models/{ALPHA}/enabled", {"enabled": False})
    magid.ask("PUT", f"/api/models/{GAMMA}/enabled", {"enabled": True})
    dry = magid.ask("POST", "/api/models/apply?dryRun=true", status=200)
    assert ids(dry, "stop") == [ALPHA]
    assert ids(dry, "start") == [GAMMA]
    assert ids(dry, "keep") == [BETA]
    assert all(line["reason"] for line in dry["stop"] + dry["start"] + dry["keep"])
    assert settled(magid)  # nothing was touched
    real = magid.ask("POST", "/api/models/apply?dryRun=false", status=202)
    assert [ids(real, key) for key in ("stop", "start", "keep")] == [[ALPHA], [GAMMA], [BETA]]
    magid.wait_for("gamma", lambda: settled(magid) and GAMMA in magid.servers())
    rest.forget_overrides(magid)
    magid.ask("POST", "/api/models/apply", status=202)
    magid.wait_for("alpha", lambda: settled(magid) and ALPHA in magid.servers())


def ids(plan: dict[str, Any], key: str) -> list[str]:
    return [line["modelId"] for line in plan[key]]


def test_a_word_that_is_neither_true_nor_false(magid: Running) -> None:
    answer = rest.refused(magid, "POST", "/api/models/apply?dryRun=maybe", None, 400)
    assert answer["details"]["field"] == "dryRun"


# -- logs --------------------------------------------------------------------------------------


def test_logs(magid: Running) -> None:
    everything = magid.get(f"{ALPHA_SERVER}/logs?lines=2000")
    assert everything["modelId"] == ALPHA
    lines = everything["lines"]
    assert len(lines) > 5
    assert lines[0].keys() == {"cursor", "timestamp", "port", "message", "run"}
    assert {line["port"] for line in lines} == {magid.servers()[ALPHA]["port"]}
    assert [line["cursor"] for line in lines] == sorted(line["cursor"] for line in lines)
    assert magid.get(f"{ALPHA_SERVER}/logs?lines=3")["lines"] == lines[-3:]
    listening = magid.get(f"{ALPHA_SERVER}/logs?lines=2000&grep=LISTENING")["lines"]
    assert listening == [line for line in lines if "listening" in line["message"].lower()] != []
    middle = lines[len(lines) // 2]["timestamp"]
    since = magid.get(f"{ALPHA_SERVER}/logs?lines=2000&since={middle}")["lines"]
    assert since == [line for line in lines if line["timestamp"] >= middle]
    assert magid.get(f"{ALPHA_SERVER}/logs?lines=2000&since=1d")["lines"] == lines
    assert magid.get(f"{ALPHA_SERVER}/logs?since=0s")["lines"] == []


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("lines=0", "lines"), ("lines=2001", "lines"), ("lines=ten", "lines"),
        ("lines=" + "9" * 5000, "lines"), ("since=yesterday", "since"),
        ("since=2025-13-01", "since"), ("instance=16", "instance"), ("follow=perhaps", "follow"),
        ("follow=true&since=tomorrow", "since"),
    ],
)  # fmt: skip
def test_log_queries_that_are_refused(magid: Running, query: str, field: str) -> None:
    answer = rest.refused(magid, "GET", f"{ALPHA_SERVER}/logs?{query}", None, 400)
    assert answer["details"]["field"] == field


@pytest.mark.parametrize(
    ("model_id", "query"), [(QWEN, ""), (QWEN, "?follow=true"), (ALPHA, "?instance=1")]
)
def test_logs_of_a_server_that_never_was(magid: Running, model_id: str, query: str) -> None:
    path = f"/api/models/servers/{model_id}/logs{query}"
    assert rest.refused(magid, "GET", path, None, 404)["error"] == "NotFound"


def test_followed_logs_resume_where_the_caller_left(magid: Running) -> None:
    lines = magid.get(f"{ALPHA_SERVER}/logs?lines=4")["lines"]
    with following(magid, "lines=4") as events:
        assert [next(events) for _ in lines] == [(line["cursor"], line) for line in lines]
    last = lines[1]["cursor"]
    with following(magid, "lines=1000", last) as events:
        assert [next(events)[1] for _ in range(2)] == lines[2:]
        magid.ask("POST", f"{ALPHA_SERVER}/restart?wait=30")
        cursor, fresh = next(events)
        assert fresh["cursor"] == cursor > lines[-1]["cursor"]
    with following(magid, "grep=listening", lines[-1]["cursor"]) as events:
        assert "listening" in next(events)[1]["message"]


def test_a_cursor_of_another_log(magid: Running) -> None:
    response = magid.client.get(
        f"{ALPHA_SERVER}/logs?follow=true", headers={"Last-Event-ID": "nonsense"}
    )
    assert response.status_code == 400
    assert response.json()["message"].startswith("cannot continue")


def following(magid: Running, query: str, last: str = "") -> "closing[Events]":
    """A followed log: cursor and entry of each event."""
    return closing(_follow(magid, query, last))


def _follow(magid: Running, query: str, last: str) -> Events:
    headers = {"Last-Event-ID": last} if last else {}
    url = f"{magid.url}{ALPHA_SERVER}/logs?follow=true&{query}"
    with httpx.stream("GET", url, headers=headers, timeout=DEADLINE_S, trust_env=False) as response:
        assert response.headers["content-type"] == "text/event-stream"
        for fields in events_of(response):
            assert fields["event"] == "log"
            yield fields["id"], json.loads(fields["data"])


def events_of(response: httpx.Response) -> Iterator[dict[str, str]]:
    fields: dict[str, str] = {}
    for line in response.iter_lines():
        if line:
            name, _, value = line.partition(": ")
            assert name in ("id", "event", "data", "retry"), f"not a field: {line!r}"
            fields[name] = value
        elif fields:
            yield fields
            fields = {}


# -- events ------------------------------------------------------------------------------------


def test_events_begin_with_everything_and_go_on_with_changes(magid: Running) -> None:
    with httpx.stream(
        "GET", f"{magid.url}/api/events", timeout=DEADLINE_S, trust_env=False
    ) as response:
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["x-accel-buffering"] == "no"
        events = events_of(response)
        first = next(events)
        snapshot = json.loads(first["data"])
        assert first["event"] == "snapshot"
        assert first["id"] == str(snapshot["revision"])
        assert snapshot["registry"] == magid.get("/api/models/registry")
        assert snapshot["servers"]["readyServers"] == 2
        assert (snapshot["phase"], snapshot["ready"]) == ("serving", True)
        assert first["retry"] == "2000"
        status = magid.get("/api/models/status")
        for name in ("activeProfile", "pendingChanges", "versions"):
            assert snapshot[name] == status[name]
        assert snapshot["profiles"] == magid.get("/api/models/profiles")

        seen = [int(first["id"])]
        magid.ask("PUT", f"/api/models/{BETA}/tier", {"tier": "fast"})
        registry = expect(events, "registry", seen)
        assert registry["models"].keys() == {BETA}
        assert registry["models"][BETA] == rest.model(magid, BETA)
        assert registry["removed"] == []

        magid.ask("POST", f"{ALPHA_SERVER}/stop?wait=30")
        states = []
        while "stopped" not in states:
            server = expect(events, "server", seen)["server"]
            assert server["modelId"] == ALPHA
            states.append(server["state"])
        assert states == ["stopping", "stopped"]

        magid.ask("POST", "/api/models/profiles/test/activate?apply=false")
        assert expect(events, "profile", seen)["activeProfile"] == "test"
        assert seen == sorted(set(seen)), "ids grow"


def expect(events: Iterator[dict[str, str]], kind: str, seen: list[int]) -> dict[str, Any]:
    """The payload of the next event of this kind; `seen` gets the ids."""
    for fields in events:
        payload: dict[str, Any] = json.loads(fields["data"])
        assert payload["revision"] == int(fields["id"])
        seen.append(payload["revision"])
        if fields["event"] == kind:
            return payload
    raise AssertionError(f"the stream ended without an event {kind}")


def test_streams_end_with_the_daemon_and_tell_why(parts: rest.Parts, tmp_path: Path) -> None:
    with rest.serving(parts, tmp_path) as running:
        with following(running, "lines=1") as logs:
            next(logs)
            events = running.events()
            assert next(events)[0] == "snapshot"
            assert running.process
            running.process.terminate()
            received = list(events)
            assert received[-1][0] == "resync"
            assert ("phase", "draining") in [(kind, data.get("phase")) for kind, data in received]
            assert not list(logs)
        assert running.process.wait(DEADLINE_S) == 0
        assert "still under way" not in running.log.read_text()


@pytest.mark.parametrize("path", ["/api/events", f"{ALPHA_SERVER}/logs?follow=true"])
def test_head_of_a_stream(magid: Running, path: str) -> None:
    response = magid.client.head(path)
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-type"] == "text/event-stream"
    assert magid.client.get("/livez").status_code == 200
