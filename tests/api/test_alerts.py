"""The alert rules that we ship: sound, each fires when it should, never where all is well."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from magid.api.metrics_families import FAMILIES, Kind
from tests.support import prometheus
from tests.support.prometheus import names_in, promtool

pytestmark = pytest.mark.slow  # it takes packaging/test-tools' programs

RULES = prometheus.ROOT / "packaging" / "prometheus" / "magi.rules.yml"
JOB = 'job="magid",instance="h:8000"'
SERVER = f'{JOB},model="m",port="8080"'
MODEL = f'{JOB},model="m",tier="fast"'
TOKEN = "magi_gateway_time_to_first_token_seconds_bucket"

# The series of a machine where all is well, for an hour and a half.
HEALTHY = {
    f"up{{{JOB}}}": "1x90",
    f"magi_ready{{{JOB}}}": "1x90",
    f"process_start_time_seconds{{{JOB}}}": "1000x90",
    f"magi_config_last_reload_successful{{{JOB}}}": "1x90",
    f'magi_registry_writes_total{{{JOB},result="error"}}': "2x90",
    f"magi_state_filesystem_avail_bytes{{{JOB}}}": "5000000000x90",
    f"magi_state_filesystem_size_bytes{{{JOB}}}": "10000000000x90",
    f'magi_discovery_files{{{JOB},result="broken"}}': "0x90",
    f'magi_server_state{{{SERVER},state="failed"}}': "0x90",
    f'magi_server_state{{{SERVER},state="backoff"}}': "0x90",
    f'magi_server_state{{{SERVER},state="loading"}}': "0 1x9 0x80",  # as large ones do
    f"magi_server_restarts_total{{{SERVER}}}": "0 1 1 2 2x86",
    f"magi_server_available{{{SERVER}}}": "1x90",
    f'magi_gateway_requests_total{{{MODEL},outcome="ok",code="200"}}': "0+60x90",
    f'magi_gateway_requests_total{{{MODEL},outcome="refused",code="429"}}': "3x90",
    f'magi_gateway_requests_total{{{MODEL},outcome="failed",code="502"}}': "0+1x90",
    f'magi_gateway_queue_length{{{JOB},queue="m"}}': "5x90",
    f"magi_gateway_queue_limit{{{JOB}}}": "256x90",
    f'{TOKEN}{{{MODEL},le="5.0"}}': "0+60x90",
    f'{TOKEN}{{{MODEL},le="20.0"}}': "0+60x90",
    f'{TOKEN}{{{MODEL},le="+Inf"}}': "0+60x90",
}

# What differs from that, and after how many minutes it fires, at last; not one minute earlier if
# `for` says so.
FIRES: dict[str, tuple[dict[str, str], int]] = {
    "MagidDown": ({f"up{{{JOB}}}": "1x9 0x80"}, 13),
    "MagidNotReady": ({f"magi_ready{{{JOB}}}": "1x9 0x80"}, 21),
    "MagidRestartsOften": (
        {f"process_start_time_seconds{{{JOB}}}": "1x9 2x9 3x9 4x9 5x50"}, 45),
    "MagiConfigNotLoaded": ({f"magi_config_last_reload_successful{{{JOB}}}": "1x9 0x80"}, 16),
    "MagiRegistryWriteFails": (
        {f'magi_registry_writes_total{{{JOB},result="error"}}': "2x9 3x80"}, 12),
    "MagiStateDiskFull": ({f"magi_state_filesystem_avail_bytes{{{JOB}}}": "60000000x90"}, 6),
    "MagiBrokenFiles": ({f'magi_discovery_files{{{JOB},result="broken"}}': "1x90"}, 61),
    "MagiServerFailed": ({f'magi_server_state{{{SERVER},state="failed"}}': "0x9 1x80"}, 12),
    "MagiServerInBackoff": (
        {f'magi_server_state{{{SERVER},state="backoff"}}': "0x9" + " 1 0 0" * 25}, 17),
    "MagiServerRestartsOften": (
        {f"magi_server_restarts_total{{{SERVER}}}": "0x9 1x2 2x2 3x2 4x2 5x2 5x60"}, 30),
    "MagiServerLoadsLong": ({f'magi_server_state{{{SERVER},state="loading"}}': "1x90"}, 21),
    "MagiServerLeftOut": ({f"magi_server_available{{{SERVER}}}": "1x9 0x80"}, 13),
    "MagiQueueFull": (
        {f'magi_gateway_requests_total{{{MODEL},outcome="refused",code="429"}}': "0+2x90"}, 8),
    "MagiQueueLong": ({f'magi_gateway_queue_length{{{JOB},queue="m"}}': "250x90"}, 6),
    "MagiTimeToFirstTokenHigh": (
        {f'{TOKEN}{{{MODEL},le="5.0"}}': "0+30x90"}, 15),
    "MagiRequestsFail": (
        {f'magi_gateway_requests_total{{{MODEL},outcome="failed",code="502"}}': "0+10x90"}, 8),
}  # fmt: skip


def rules() -> list[dict[str, Any]]:
    return [
        rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
    ]


def at(minutes: int, firing: str | None) -> dict[str, Any]:
    samples = [{"labels": f'{{alertname="{firing}"}}', "value": 1}] if firing else []
    return {
        "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
        "eval_time": f"{minutes}m",
        "exp_samples": samples,
    }


def case(name: str, differs: dict[str, str], looks: list[dict[str, Any]]) -> dict[str, Any]:
    series = [{"series": s, "values": v} for s, v in (HEALTHY | differs).items()]
    return {"name": name, "interval": "1m", "input_series": series, "promql_expr_test": looks}


def test_rules_are_sound() -> None:
    status, said = promtool("check", "rules", str(RULES))
    assert status == 0, said
    assert "SUCCESS" in said


def test_every_rule_asks_for_metrics_that_there_are_and_says_what_to_do() -> None:
    histograms = [f.name for f in FAMILIES if f.kind is Kind.HISTOGRAM]
    known = {f.name for f in FAMILIES} | {"up", "process_start_time_seconds"}
    for rule in rules():
        asked = {prometheus.family_of(name, histograms) for name in names_in(rule["expr"])}
        assert asked, rule["alert"]
        assert asked <= known, rule["alert"]
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["annotations"].keys() == {"summary", "description"}


def test_each_alert_fires_when_it_should_and_only_then(tmp_path: Path) -> None:
    assert FIRES.keys() == {rule["alert"] for rule in rules()}
    waits = {rule["alert"]: int(re.sub(r"\D", "", rule.get("for", "0m"))) for rule in rules()}
    healthy = case("healthy", {}, [at(minutes, None) for minutes in (5, 30, 60, 85)])
    cases = [healthy]
    for alert, (differs, minutes) in FIRES.items():
        early = [at(minutes // 2, None)] if 1 < waits[alert] < 60 else []
        cases.append(case(alert, differs, [*early, at(minutes, alert)]))
    path = tmp_path / "rules_test.json"  # JSON is YAML
    path.write_text(json.dumps({"rule_files": [str(RULES)], "tests": cases}))
    status, said = promtool("test", "rules", str(path))
    assert status == 0, said


@pytest.mark.parametrize("missing", [f"up{{{JOB}}}"])
def test_a_magid_that_prometheus_does_not_know_counts_as_down(missing: str, tmp_path: Path) -> None:
    without = case("gone", {}, [at(5, "MagidDown")])
    without["input_series"] = [s for s in without["input_series"] if s["series"] != missing]
    path = tmp_path / "rules_test.json"
    path.write_text(json.dumps({"rule_files": [str(RULES)], "tests": [without]}))
    status, said = promtool("test", "rules", str(path))
    assert status == 0, said
