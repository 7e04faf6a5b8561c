"""The keys of status that the front ends of the seed's program read. Pure."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from magid.api import views
from magid.api.schemas import servers as schemas
from magid.gateway.accounting.request_log import Outcome, Record
from magid.gateway.accounting.statistics import RequestStatistics
from magid.servers.backend import ServerState

_MIB = 2**20
_STATES: Mapping[ServerState, schemas.ModelState] = {
    ServerState.READY: "idle",
    ServerState.FAILED: "error",
    ServerState.BACKOFF: "error",
}


def dashboard_status(
    servers: Iterable[schemas.Server],
    running: Iterable[Record],
    ended: int,
    statistics: RequestStatistics,
    now: float,
) -> schemas.DashboardStatus:
    """Null is what magid does not know: memory of GPUs, and a history of figures."""
    active = list(running)
    busy = {record.port for record in active}
    counts = statistics.models.values()
    prompts = sum(count.prompt_tokens for count in counts)
    cached = sum(count.cached_tokens for count in counts)
    return {
        "models": [_model(server, server["port"] in busy, statistics) for server in servers],
        "totalVramGb": None,
        "totalVramUsedGb": None,
        "cacheHitRate": min(1.0, cached / prompts) if prompts else None,
        "activeQueries": len(active),
        "totalRequests": ended + len(active),
        "timestamp": views.when(datetime.fromtimestamp(now, UTC)) or "",
        "metrics": None,
        "metricsTimestamp": None,
    }


def _model(
    server: schemas.Server, is_busy: bool, statistics: RequestStatistics
) -> schemas.ModelStatus:
    model_id, memory = server["modelId"], server["memoryBytes"]
    ended = {key: n for key, n in statistics.requests.items() if key[0] == model_id}
    good = [h for key, h in statistics.durations_s.items() if key[0] == model_id]
    answered = sum(sum(histogram.counts) for histogram in good)
    took_s = sum(histogram.total for histogram in good)
    return {
        "id": model_id,
        "name": server["displayName"],
        "displayName": server["displayName"],
        "tier": server["tier"],
        "port": server["port"],
        "state": "processing" if is_busy else _STATES.get(server["state"], "offline"),
        "memoryUsed": None if memory is None else memory // _MIB,
        "memoryTotal": None,
        "requestCount": sum(ended.values()),
        "avgResponseTime": 1000 * took_s / answered if answered else None,
        "lastActive": None,
        "errorCount": sum(n for key, n in ended.items() if key[4] == Outcome.FAILED),
        "uptimeSeconds": server["uptimeSeconds"],
    }
