"""What dashboards for the original program ask for beside the eleven documented routes."""

from collections.abc import Iterator
from datetime import datetime

import pytest

from tests.support import rest
from tests.support.fleets import chat
from tests.support.rest import ALPHA, BETA, refused
from tests.support.running import Running

pytestmark = pytest.mark.slow

SERVERS = "/api/models/servers"
ORIGINS = {
    "models", "totalVramGb", "totalVramUsedGb", "cacheHitRate", "activeQueries", "totalRequests",
    "timestamp", "metrics", "metricsTimestamp",
}  # fmt: skip


@pytest.fixture(scope="module")
def magid(parts: rest.Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with rest.serving(parts, tmp_path_factory.mktemp("daemon")) as running:
        yield running


def test_status_has_the_origins_keys(magid: Running) -> None:
    before = magid.get("/api/models/status")
    assert before.keys() >= ORIGINS
    with magid.client.stream("POST", "/v1/chat/completions", json=chat(ALPHA)) as answer:
        answer.read()
    after = magid.get("/api/models/status")
    assert after["totalRequests"] == before["totalRequests"] + 1
    assert after["activeQueries"] == 0
    assert 0 <= after["cacheHitRate"] <= 1
    assert datetime.fromisoformat(after["timestamp"]).tzinfo
    unknown = ("totalVramGb", "totalVramUsedGb", "metrics", "metricsTimestamp")
    assert [after[name] for name in unknown] == [None] * 4
    models = {m["id"]: m for m in after["models"]}
    assert models.keys() == {ALPHA, BETA}
    one, server = models[ALPHA], magid.servers()[ALPHA]
    assert (one["name"], one["port"], one["tier"]) == (
        server["displayName"], server["port"], server["tier"],
    )  # fmt: skip
    assert (one["state"], one["requestCount"], one["errorCount"]) == ("idle", 1, 0)
    assert one["avgResponseTime"] > 0
    assert one["memoryUsed"] > 0


def test_only_what_runs_is_listed_and_counted(magid: Running) -> None:
    both = magid.get(SERVERS)
    assert (both["totalServers"], both["readyServers"], len(both["servers"])) == (2, 2, 2)
    path = f"{SERVERS}/{ALPHA}"
    assert magid.ask("POST", f"{path}/stop?wait=60", {})["status"] == "stopped"
    assert magid.ask("POST", f"{path}/stop?wait=60", {})["status"] == "not_running"
    left = magid.get(SERVERS)
    assert (left["totalServers"], [s["modelId"] for s in left["servers"]]) == (1, [BETA])
    every = magid.get(f"{SERVERS}?all=true")
    assert (every["totalServers"], every["readyServers"], len(every["servers"])) == (1, 1, 2)
    models = {m["id"]: m["state"] for m in magid.get("/api/models/status")["models"]}
    assert models == {ALPHA: "offline", BETA: "idle"}
    assert magid.ask("POST", f"{path}/start?wait=60", {})["status"] == "started"
    assert magid.ask("POST", f"{path}/start?wait=60", {})["status"] == "already_running"
    assert magid.ask("POST", f"{path}/restart?wait=60", {})["status"] == "restarted"


def test_a_start_beside_a_server_that_runs(magid: Running) -> None:
    """One instance runs and one does not: something starts, so it is not `already_running`."""
    path, settings = f"{SERVERS}/{ALPHA}", f"/api/models/{ALPHA}/runtime-settings"
    first = magid.wait_state(ALPHA, "ready")
    try:
        magid.ask("PUT", settings, {"instances": 2})
        answer = magid.ask("POST", f"{path}/start?wait=60", {})
        assert answer["status"] == "starting"
        assert [s["isReady"] for s in answer["servers"]] == [True, True]
        assert first["pid"] in {s["pid"] for s in answer["servers"]}
        assert magid.ask("POST", f"{path}/start?wait=60", {})["status"] == "already_running"
    finally:
        magid.ask("PUT", settings, {"instances": None})
        magid.ask("POST", "/api/models/apply")
        magid.wait_for("one server", lambda: len(magid.get(SERVERS)["servers"]) == 2)


def test_start_all_and_stop_all_say_how_many(magid: Running) -> None:
    stopped = magid.ask("POST", f"{SERVERS}/stop-all", {}, status=202)
    assert stopped["stopped"] == 2
    magid.wait_state(ALPHA, "stopped")
    magid.wait_state(BETA, "stopped")
    assert magid.ask("POST", f"{SERVERS}/stop-all", {}, status=200)["stopped"] == 0
    started = magid.ask("POST", f"{SERVERS}/start-all", {}, status=202)
    assert (started["started"], started["total"]) == (2, 2)
    magid.wait_state(ALPHA, "ready")
    magid.wait_state(BETA, "ready")
    again = magid.ask("POST", f"{SERVERS}/start-all", {}, status=200)
    assert (again["started"], again["total"]) == (0, 2)


def test_start_all_right_behind_stop_all(magid: Running) -> None:
    """It waits for the stops; it was a 409 for the whole call."""
    before = {s["pid"] for s in magid.servers().values()}
    assert magid.ask("POST", f"{SERVERS}/stop-all", {}, status=202)["stopped"] == 2
    started = magid.ask("POST", f"{SERVERS}/start-all", {}, status=202)
    assert (started["started"], started["total"]) == (2, 2)

    def all_new() -> bool:
        servers = magid.servers().values()
        return all(s["isReady"] for s in servers) and before.isdisjoint(s["pid"] for s in servers)

    magid.wait_for("both to run again", all_new)


def test_all_models_are_enabled_and_disabled_at_once(magid: Running) -> None:
    def enabled() -> list[bool]:
        models = magid.get("/api/models/registry")["models"]
        return [model["enabled"] for model in models.values()]

    try:
        answer = magid.ask("POST", "/api/models/disable-all", {})
        assert (answer["modelsUpdated"], answer["enabled"]) == (2, False)
        assert enabled() == [False] * 5
        assert magid.get(SERVERS)["readyServers"] == 2  # until the next apply
        assert answer["restartRequired"] is True
        answer = magid.ask("POST", "/api/models/enable-all", {})
        assert (answer["modelsUpdated"], answer["enabled"]) == (5, True)
        assert enabled() == [True] * 5
        assert magid.ask("POST", "/api/models/enable-all", {})["modelsUpdated"] == 0
    finally:
        rest.forget_overrides(magid)


def test_the_range_of_ports_is_the_administrators(magid: Running) -> None:
    low, high = magid.port_range
    path = "/api/models/port-range"
    same = magid.ask("PUT", path, {"start": low, "end": high})
    assert (same["start"], same["end"], same["restartRequired"]) == (low, high, False)
    error = refused(magid, "PUT", path, {"start": low, "end": high + 1}, 409)
    assert f"port_range: [{low}, {high + 1}] in magid.yaml" in error["message"]
    assert refused(magid, "PUT", path, {"start": high + 1, "end": low}, 400)
    assert refused(magid, "PUT", path, {"start": 80, "end": high}, 400)
