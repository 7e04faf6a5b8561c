"""A real Prometheus scrapes a real daemon with real llama-servers, by the files that we ship."""

import json
import os
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from magid.api.metrics_families import FAMILIES, Kind
from tests.support import fleets, ggufs, prometheus
from tests.support.fleets import SMALL, chat
from tests.support.prometheus import Prometheus, names_in, promtool
from tests.support.rest import Parts
from tests.support.running import Running

pytestmark = pytest.mark.slow

PACKAGING = prometheus.ROOT / "packaging"
DASHBOARD = PACKAGING / "grafana" / "magid.json"
EXAMPLE = PACKAGING / "prometheus" / "prometheus.yml"
RULES = PACKAGING / "prometheus" / "magi.rules.yml"
CODER = "coder_0p0b_f16_balanced"
PROFILE = "name: Test\nenabled_models: ['*']\n"
SECOND = "1s"
# Queues that were used, and GPUs that tell: a machine for tests has neither.
ELSEWHERE = {
    "magi_gateway_queue_length",
    "magi_gpu_memory_total_bytes",
    "magi_gpu_memory_used_bytes",
    "magi_gpu_device_total_bytes",
    "magi_gpu_device_free_bytes",
    "magi_gpu_device_room_bytes",
    "magi_server_gpu_need_bytes",
    "magi_server_off_gpu",
}


@dataclass(frozen=True, slots=True)
class Watched:
    """A daemon and the Prometheus that scrapes it."""

    magid: Running
    prometheus: Prometheus


def write_models(models: Path) -> None:
    fleets.write_small(models)
    ggufs.write_chat_model(models / "Coder-F16.gguf", name="Coder", quantization="F16")


def config(magid: Running) -> dict[str, Any]:
    """The example that we ship, faster and for this daemon."""
    shipped: dict[str, Any] = yaml.safe_load(
        EXAMPLE.read_text().replace("127.0.0.1:8000", f"127.0.0.1:{magid.port}")
    )
    shipped["global"] = {"scrape_interval": SECOND, "evaluation_interval": SECOND}
    shipped["rule_files"] = [str(RULES)]
    (discovery,) = shipped["scrape_configs"][1]["http_sd_configs"]
    discovery["refresh_interval"] = SECOND
    return shipped


@pytest.fixture(scope="module")
def watched(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("prometheus")
    with fleets.fleet(parts, folder / "magid", write_models, profile=PROFILE) as magid:
        talk(magid)
        with prometheus.running(folder, parts.free_port(), config(magid)) as server:
            server.wait_for("up == 1", lambda found: len(found) == 3)
            talk(magid)
            # Rates take two scrapes that differ.
            total = "sum(increase(magi_gateway_requests_total[1m])) > 0"
            server.wait_for(total, lambda found: bool(found))
            yield Watched(magid, server)


def talk(magid: Running) -> None:
    """Requests of every kind that there is a figure for."""
    with fleets.client(magid) as client:
        for model in (SMALL, "balanced", "auto", "auto"):
            for stream in (True, False):
                answer = client.post("/v1/chat/completions", json=chat(model, stream=stream))
                assert answer.status_code == 200, answer.text
        assert client.post("/v1/chat/completions", json=chat("nobody")).status_code == 404
        assert client.post("/v1/chat/completions", json=[]).status_code == 400


def test_magid_and_every_server_is_up_under_its_labels(watched: Watched) -> None:
    own, *servers = sorted(
        watched.prometheus.query("up"), key=lambda r: r["metric"]["job"] != "magid"
    )
    assert own["value"][1] == "1"
    assert {row["value"][1] for row in servers} == {"1"}
    shown = {
        tuple(row["metric"][name] for name in ("job", "model", "tier", "port", "unit"))
        for row in servers
    }
    assert shown == {
        ("llama-server", model, s["tier"], str(s["port"]), s["unit"])
        for model, s in watched.magid.servers().items()
    }
    counted = watched.prometheus.query("llamacpp:tokens_predicted_total > 0")
    assert {row["metric"]["model"] for row in counted} == {SMALL, CODER}


def test_what_magid_shows_is_whole_and_to_promtools_taste(watched: Watched) -> None:
    text = watched.magid.client.get("/metrics").text
    status, said = promtool("check", "metrics", text=text)
    assert (status, said) == (0, "")
    shown = set(re.findall(r"^(magi_\w+?)(?:_bucket|_sum|_count)?[{ ]", text, re.M))
    assert shown | ELSEWHERE == {family.name for family in FAMILIES}


def test_counts_of_prometheus_are_those_of_the_gateway(watched: Watched) -> None:
    asked = watched.magid.get("/api/requests?limit=100")["requests"]
    good = sum(r["modelId"] == SMALL and r["status"] == 200 for r in asked)
    query = f'sum(magi_gateway_requests_total{{model="{SMALL}",outcome="ok"}})'
    watched.prometheus.wait_for(query, lambda found: int(found[0]["value"][1]) == good)
    tokens = sum(r["answerTokens"] for r in asked if r["modelId"] == SMALL)
    query = f'sum(magi_gateway_tokens_total{{model="{SMALL}",direction="answer"}})'
    assert int(watched.prometheus.query(query)[0]["value"][1]) == tokens
    for query in (
        'magi_gateway_requests_total{model="other",code="404"}',
        'magi_gateway_errors_total{error="ModelNotFound",code="404"}',
    ):
        assert watched.prometheus.query(query)[0]["value"][1] == "2"
    assert watched.prometheus.query('magi_gateway_errors_total{error="InvalidInput",code="400"}')


def test_the_rules_run_and_are_silent(watched: Watched) -> None:
    groups = watched.prometheus.get("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    written = [
        rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
    ]
    assert {rule["name"] for rule in rules} == {rule["alert"] for rule in written}
    assert {rule["health"] for rule in rules} == {"ok"}
    assert {rule["state"] for rule in rules} == {"inactive"}


# -- the dashboard -------------------------------------------------------------------------------


def panels() -> list[dict[str, Any]]:
    return [p for p in json.loads(DASHBOARD.read_text())["panels"] if p["type"] != "row"]


def expressions() -> list[str]:
    """As Grafana would send them, with everything chosen."""
    found = [target["expr"] for panel in panels() for target in panel["targets"]]
    found += [a["expr"] for a in json.loads(DASHBOARD.read_text())["annotations"]["list"]]
    chosen = {"$__rate_interval": "1m", "$instance": ".*", "$model": ".*"}
    for name, value in chosen.items():
        found = [expression.replace(name, value) for expression in found]
    assert not [expression for expression in found if "$" in expression]
    return found


def test_every_panel_asks_for_metrics_that_there_are(watched: Watched) -> None:
    stored = set(watched.prometheus.get("label/__name__/values"))
    for expression in expressions():
        asked = names_in(expression)
        assert asked, expression
        assert asked <= stored | ELSEWHERE, expression


def test_every_panel_can_be_drawn(watched: Watched) -> None:
    may_be_empty = ELSEWHERE | {"process_start_time_seconds"}  # was it started of late?
    for expression in expressions():
        rows = watched.prometheus.query(expression)
        assert rows or names_in(expression) <= may_be_empty, expression


def test_panels_have_a_title_a_description_and_a_place_of_their_own() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        place = panel["gridPos"]
        cells = {
            (place["x"] + dx, place["y"] + dy)
            for dx in range(place["w"])
            for dy in range(place["h"])
        }
        assert panel["title"]
        assert panel["type"] == "row" or panel["description"]
        assert taken.isdisjoint(cells), panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells


def test_every_metric_of_the_gateway_and_the_servers_has_a_panel() -> None:
    histograms = [f.name for f in FAMILIES if f.kind is Kind.HISTOGRAM]
    drawn = {prometheus.family_of(n, histograms) for e in expressions() for n in names_in(e)}
    parts = ("magi_gateway_", "magi_server_", "magi_route_")
    unseen = {f.name for f in FAMILIES if f.name.startswith(parts)} - drawn
    assert unseen == {
        "magi_server_info",  # labels for joins
        "magi_server_start_time_seconds",
        "magi_gateway_queue_limit",  # for an alert
    }


# -- what changes ----------------------------------------------------------------------------------


def test_a_server_that_crashes_shows_and_one_that_is_stopped_is_no_target(watched: Watched) -> None:
    magid, server = watched.magid, watched.prometheus
    os.kill(magid.servers()[CODER]["pid"], signal.SIGKILL)
    restarts = f'magi_server_restarts_total{{model="{CODER}"}} == 1'
    server.wait_for(restarts, lambda found: bool(found))
    magid.wait_state(CODER, "ready")
    magid.ask("POST", f"/api/models/servers/{CODER}/stop?wait=30")
    stopped = f'magi_server_state{{model="{CODER}",state="stopped"}} == 1'
    server.wait_for(stopped, lambda found: bool(found))
    server.wait_for(f'up{{model="{CODER}"}}', lambda found: not found)


def test_metrics_of_a_server_that_cannot_be_had(watched: Watched) -> None:
    magid = watched.magid
    path = "/api/models/servers/{}/metrics"
    magid.ask("POST", f"/api/models/servers/{CODER}/stop?wait=30")
    error = magid.ask("GET", path.format(CODER), status=503)
    assert error["message"].startswith(f"cannot get metrics of '{CODER}': llama-server@")
    assert "is stopped" in error["message"]
    error = magid.ask("GET", path.format(SMALL) + "?instance=7", status=404)
    assert "it has no server 7" in error["message"]
    assert magid.ask("GET", path.format("nobody"), status=404)["error"] == "ModelNotFound"
