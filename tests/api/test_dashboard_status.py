"""The figures of status for dashboards: what they count, and what they cost. No daemon."""

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import pytest

from magid.api.dashboard_status import dashboard_status
from magid.api.schemas.servers import DashboardStatus, Server
from magid.discovery.tiers import Tier
from magid.gateway.accounting.request_log import Outcome, Record
from magid.gateway.accounting.statistics import RequestStatistics
from magid.gateway.accounting.token_usage import UsageStore
from magid.gateway.routing.resolver import ModelRoute, Reason
from magid.servers.backend import ServerState


@pytest.fixture
def counts(tmp_path: Path) -> RequestStatistics:
    return RequestStatistics(lambda _: True, UsageStore(tmp_path))


def server(model_id: str, instance: int, state: ServerState = ServerState.READY) -> Server:
    return {
        "modelId": model_id, "displayName": model_id.upper(), "port": 8080 + instance, "pid": 7,
        "isReady": True, "isRunning": True, "uptimeSeconds": 5, "tier": Tier.FAST,
        "isThinking": False, "unit": "", "instance": instance, "state": state, "stateReason": "",
        "restarts": 0, "memoryBytes": 3 * 2**20, "cpuSeconds": 1.0, "invocationId": None,
        "endpoint": "", "specCurrent": True, "placement": None,
    }  # fmt: skip


def add(
    counts: RequestStatistics,
    model_id: str,
    outcome: Outcome,
    *,
    path: str = "/",
    status: int = 200,
) -> None:
    record = Record(
        id="1", at=0.0, path=path, requested_model=model_id, is_stream=False, model_id=model_id,
        port=8080, status=status, outcome=outcome, sent_s=0.0, duration_s=0.5,
    )  # fmt: skip
    counts.add(record, ModelRoute(model_id, (), "", Tier.FAST, reason=Reason.MODEL))


def shown(servers: Sequence[Server], counts: RequestStatistics) -> DashboardStatus:
    return dashboard_status(servers, (), 0, counts, 0.0)


def test_each_server_has_the_counts_of_its_model(counts: RequestStatistics) -> None:
    for path in ("/a", "/b"):
        add(counts, "m", Outcome.OK, path=path)
    add(counts, "m", Outcome.FAILED, status=502)
    add(counts, "m", Outcome.CANCELLED)
    add(counts, "other", Outcome.FAILED, status=502)
    models = shown([server("m", 0), server("m", 1), server("idle", 2)], counts)["models"]
    assert [(m["id"], m["port"]) for m in models] == [("m", 8080), ("m", 8081), ("idle", 8082)]
    assert [(m["requestCount"], m["errorCount"]) for m in models] == [(4, 1), (4, 1), (0, 0)]
    assert [m["avgResponseTime"] for m in models] == [500.0, 500.0, None]
    assert {m["memoryUsed"] for m in models} == {3}


def test_a_hundred_servers_cost_little_more_than_one(counts: RequestStatistics) -> None:
    """The counts, here 9,600, are read once and not for each server."""
    for model in range(100):
        for path in range(96):
            add(counts, f"m{model}", Outcome.OK, path=f"/{path}")
    one, hundred = [server("m0", 0)], [server(f"m{n}", n) for n in range(100)]
    assert shown(hundred, counts)["models"][99]["requestCount"] == 96

    def fastest_s(servers: Sequence[Server]) -> float:
        took = []
        for _ in range(5):
            start = perf_counter()
            shown(servers, counts)
            took.append(perf_counter() - start)
        return min(took)

    assert fastest_s(hundred) < 10 * fastest_s(one)
