"""The keys of status that dashboards for the original program's /status read. Pure."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from msgspec import Struct

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


class _ModelFigures(Struct):
    """Sums up ended requests to one model over its servers, tiers and paths."""

    requests: int = 0
    failed: int = 0
    answered: int = 0
    took_s: float = 0.0


_NONE = _ModelFigures()


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
    figures = _by_model(statistics)
    return {
        "models": [
            _model(server, server["port"] in busy, figures.get(server["modelId"], _NONE))
            for server in servers
        ],
        "totalVramGb": None,
        "totalVramUsedGb": None,
        "cacheHitRate": min(1.0, cached / prompts) if prompts else None,
        "activeQueries": len(active),
        "totalRequests": ended + len(active),
        "timestamp": views.when(datetime.fromtimestamp(now, UTC)) or "",
        "metrics": None,
        "metricsTimestamp": None,
    }


def _by_model(statistics: RequestStatistics) -> dict[str, _ModelFigures]:
    figures: dict[str, _ModelFigures] = {}
    for key, count in statistics.requests.items():
        of_model = figures.setdefault(key[0], _ModelFigures())
        of_model.requests += count
        if key[4] == Outcome.FAILED:
            of_model.failed += count
    for (model_id, _tier, _path), histogram in statistics.durations_s.items():
        of_model = figures.setdefault(model_id, _ModelFigures())
        of_model.answered += sum(histogram.counts)
        of_model.took_s += histogram.total
    return figures


def _model(server: schemas.Server, is_busy: bool, figures: _ModelFigures) -> schemas.ModelStatus:
    memory, answered = server["memoryBytes"], figures.answered
    return {
        "id": server["modelId"],
        "name": server["displayName"],
        "displayName": server["displayName"],
        "tier": server["tier"],
        "port": server["port"],
        "state": "processing" if is_busy else _STATES.get(server["state"], "offline"),
        "memoryUsed": None if memory is None else memory // _MIB,
        "memoryTotal": None,
        "requestCount": figures.requests,
        "avgResponseTime": 1000 * figures.took_s / answered if answered else None,
        "lastActive": None,
        "errorCount": figures.failed,
        "uptimeSeconds": server["uptimeSeconds"],
    }
