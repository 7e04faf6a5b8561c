"""Schemas of servers, plans, logs and the daemon's state."""

from typing import Literal

from typing_extensions import TypedDict

from magid.control.conditions import Code, Severity
from magid.discovery.tiers import Tier
from magid.servers.backend import ServerState


class ServerDevice(TypedDict):
    """A GPU of a server, and what it was predicted to take there."""

    name: str
    id: str
    needBytes: int


class ServerPlacement(TypedDict):
    """Where magid has placed a server, when it was started.

    `extent`: all its layers are on these devices; part, or none of them; or own: as its settings
    say. `ctxSize` is the context that magid has chosen, null where a setting did.
    """

    devices: list[ServerDevice]
    extent: Literal["all", "part", "none", "own"]
    ctxSize: int | None


class Server(TypedDict):
    modelId: str
    displayName: str
    port: int
    pid: int | None
    isReady: bool
    isRunning: bool
    uptimeSeconds: int
    tier: Tier
    isThinking: bool
    unit: str
    instance: int
    state: ServerState
    stateReason: str
    restarts: int
    memoryBytes: int | None
    cpuSeconds: float | None
    invocationId: str | None
    endpoint: str
    specCurrent: bool
    placement: ServerPlacement | None


class ServersReply(TypedDict):
    totalServers: int
    readyServers: int
    servers: list[Server]


class ServerAction(TypedDict):
    message: str
    modelId: str
    status: Literal["started", "starting", "already_running", "stopped", "not_running", "restarted"]
    servers: list[Server]


class PlanLine(TypedDict):
    modelId: str
    port: int | None
    unit: str | None
    reason: str


class Condition(TypedDict):
    code: Code
    severity: Severity
    message: str
    remedy: list[str]
    modelIds: list[str]


class PlanReply(TypedDict):
    message: str
    stop: list[PlanLine]
    start: list[PlanLine]
    keep: list[PlanLine]
    blocked: list[PlanLine]
    conditions: list[Condition]


class StartAllReply(PlanReply):
    started: int
    total: int


class StopAllReply(PlanReply):
    stopped: int


class LogEntry(TypedDict):
    cursor: str
    timestamp: str
    port: int
    message: str
    run: str | None


class ScrapeTarget(TypedDict):
    """As Prometheus' http_sd_configs wants it."""

    targets: list[str]
    labels: dict[str, str]


class LogsReply(TypedDict):
    modelId: str
    lines: list[LogEntry]


LogLevel = Literal["critical", "error", "warning", "info", "debug"]


class OwnLogEntry(TypedDict):
    cursor: str
    timestamp: str
    level: LogLevel
    message: str
    event: str | None
    messageId: str | None
    modelId: str | None
    unit: str | None
    requestId: str | None
    clientRequestId: str | None


class OwnLogsReply(TypedDict):
    lines: list[OwnLogEntry]


class Memory(TypedDict):
    totalBytes: int | None
    availableBytes: int | None


class Versions(TypedDict):
    magid: str
    python: str
    llamaServer: str | None
    llamaServerPath: str | None


class Pending(TypedDict):
    stop: int
    start: int


ModelState = Literal["processing", "idle", "error", "offline"]


class ModelStatus(TypedDict):
    """One server. Memory is in MiB, `avgResponseTime` in milliseconds.

    `requestCount`, `errorCount` and `avgResponseTime` are those of its model, over all its servers.
    """

    id: str
    name: str
    displayName: str
    tier: Tier
    port: int
    state: ModelState
    memoryUsed: int | None
    memoryTotal: int | None
    requestCount: int
    avgResponseTime: float | None
    lastActive: str | None
    errorCount: int
    uptimeSeconds: int


class DashboardStatus(TypedDict):
    models: list[ModelStatus]
    totalVramGb: float | None
    totalVramUsedGb: float | None
    cacheHitRate: float | None
    activeQueries: int
    totalRequests: int
    timestamp: str
    metrics: dict[str, float] | None
    metricsTimestamp: str | None


class StatusReply(DashboardStatus):
    phase: str
    ready: bool
    activeProfile: str | None
    totalModels: int | None
    enabledModels: int | None
    modelsByTier: dict[str, int | None]
    serversByState: dict[str, int]
    servers: list[Server]
    problems: list[str]
    conditions: list[Condition]
    pendingChanges: Pending
    memory: Memory
    versions: Versions
    uptimeSeconds: int


class HealthReply(TypedDict):
    status: Literal["ok", "unavailable"]
    phase: str
    reasons: list[str]
    warnings: list[str]
    conditions: list[Condition]


class LiveReply(TypedDict):
    status: Literal["ok"]
