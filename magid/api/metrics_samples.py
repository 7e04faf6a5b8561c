"""Collects the samples of `metrics_families.FAMILIES` from the parts that own the figures.

The figures are kept anyway, so a scrape changes nothing and queries no llama-server. The memory use
of servers comes from the kernel or systemd, and is left out when the answer takes too long.
"""

import asyncio
import os
import platform
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

from magid import __version__, errors
from magid.api import views
from magid.api.context import Context
from magid.api.metrics_families import Buckets, Labelled, Value
from magid.api.schemas import servers as server_schemas
from magid.control.conditions import Severity
from magid.control.daemon import Daemon
from magid.control.engine_devices import EngineDevices
from magid.control.placing import Placing
from magid.control.planner import Wanted
from magid.control.snapshot import Phase, Snapshot
from magid.discovery.tiers import Tier
from magid.gateway.accounting.statistics import Histogram, ModelCounts, RequestStatistics
from magid.gateway.accounting.token_usage import UsageStore
from magid.gateway.dispatcher import Dispatcher
from magid.host import usage
from magid.host.usage import GpuMemory, ServerFigures
from magid.http.status import status_for
from magid.library.job import STATES
from magid.servers.backend import ObservedServer, ServerState

FIGURES_TIMEOUT_S = 2.0  # Prometheus waits 10 s for a whole scrape

Named = Iterator[tuple[str, tuple[str, ...], Value]]


async def gather(ctx: Context) -> dict[str, list[Labelled]]:
    """Returns the current samples by family. Milliseconds at 1,000 models and sixteen servers."""
    figures = await _figures(ctx)
    await _look_for_program(ctx)
    daemon, now = ctx.daemon, ctx.daemon.snapshot
    observed = daemon.observed()
    servers = views.server_list(now, observed, figures, time.time())
    parts = (
        _of_magid(ctx, now),
        _of_what_is_known(daemon, now),
        _of_state(daemon),
        _of_servers(servers, observed, now),
        _of_gateway_servers(ctx.gateway),
        _of_gateway(ctx.gateway, daemon.config.gateway.queue_limit),
        _of_requests(ctx.gateway.statistics),
        _of_callers(ctx.gateway.usage),
        _of_gpus(usage.memory()),
        _of_devices(daemon.gpus.devices),
        _of_places(daemon.gpus.placing, daemon.gpus.devices, observed.values()),
        _of_events(ctx),
        _of_downloads(ctx),
    )
    found: dict[str, list[Labelled]] = {}
    for part in parts:
        for name, labels, value in part:
            found.setdefault(f"magi_{name}", []).append((labels, value))
    return found


async def _figures(ctx: Context) -> Mapping[int, ServerFigures]:
    try:
        async with asyncio.timeout(FIGURES_TIMEOUT_S):
            return await ctx.daemon.launcher.figures()
    except (TimeoutError, errors.MagidError):
        return {}


async def _look_for_program(ctx: Context) -> None:
    """Checks llama-server as /readyz does; slow only when the program has just been replaced."""
    with suppress(TimeoutError):
        async with asyncio.timeout(FIGURES_TIMEOUT_S):
            await ctx.look_for_program()


def _of_downloads(ctx: Context) -> Named:
    seen = ctx.downloads.seen.values()
    counts = Counter(status.state for status in seen)
    for state in STATES:
        yield "downloads", (state,), counts[state]
    yield "download_bytes_per_second", (), sum(status.rate for status in seen)


# -- magid -------------------------------------------------------------------------------------


def _of_magid(ctx: Context, now: Snapshot) -> Named:
    daemon = ctx.daemon
    yield "build_info", (__version__, platform.python_version()), 1
    severities = [one.severity for one in ctx.conditions()]
    yield "ready", (), Severity.ERROR not in severities
    yield "problems", (), sum(one is not Severity.NOTE for one in severities)
    for phase in Phase:
        yield "phase", (phase,), daemon.phase is phase
    yield "profile_info", (now.active.name or "none",), 1
    usable = not (now.active.problem or daemon.scans.last_failed)
    yield "config_last_reload_successful", (), usable


def _of_what_is_known(daemon: Daemon, now: Snapshot) -> Named:
    counts = Counter((model.tier, model.enabled) for model in now.models.values())
    for tier in Tier:
        for enabled in (True, False):
            yield "models", (tier, str(enabled).lower()), counts[tier, enabled]
    disk, scans = now.disk, daemon.scans
    for result, files in (
        ("model", len(disk.found)), ("broken", len(disk.broken)),
        ("pending", len(disk.pending)), ("missing", len(now.missing)),
    ):  # fmt: skip
        yield "discovery_files", (result,), files
    yield "discovery_scans_total", ("ok",), scans.done
    yield "discovery_scans_total", ("error",), scans.failed
    if scans.last_at is not None:
        yield "discovery_last_scan_timestamp_seconds", (), scans.last_at
        yield "discovery_last_scan_duration_seconds", (), scans.last_duration_s


def _of_state(daemon: Daemon) -> Named:
    writes = daemon.writes
    yield "registry_writes_total", ("ok",), writes.done
    yield "registry_writes_total", ("error",), writes.failed
    if writes.last_at is not None:
        yield "registry_last_write_timestamp_seconds", (), writes.last_at
    yield from _of_filesystem(daemon.config.state_dir)


def _of_filesystem(folder: Path) -> Named:
    """Does not block: the state is on a local disk, because it is locked and synced."""
    try:
        seen = os.statvfs(folder)
    except OSError:
        return
    yield "state_filesystem_avail_bytes", (), seen.f_bavail * seen.f_frsize
    yield "state_filesystem_size_bytes", (), seen.f_blocks * seen.f_frsize


def _of_gpus(found: Iterable[GpuMemory]) -> Named:
    for gpu in found:
        yield "gpu_memory_total_bytes", (gpu.address,), gpu.total
        yield "gpu_memory_used_bytes", (gpu.address,), gpu.used


def _of_devices(devices: EngineDevices) -> Named:
    listed = devices.present
    for gpu in listed.gpus:
        if gpu.device.total is not None:
            yield "gpu_device_total_bytes", (gpu.device.name,), gpu.device.total
        if gpu.device.free is not None:
            yield "gpu_device_free_bytes", (gpu.device.name,), gpu.device.free
    if listed.listed_at is not None:
        yield "gpu_last_listing_timestamp_seconds", (), listed.listed_at
    yield "gpu_listings_total", ("ok",), devices.listings
    yield "gpu_listings_total", ("error",), devices.failures


def _of_places(
    placing: Placing, devices: EngineDevices, servers: Iterable[ObservedServer]
) -> Named:
    for room in placing.holders.capacity(devices.present.gpus).devices:
        if room.room is not None:
            yield "gpu_device_room_bytes", (room.name,), room.room
    for server in servers:
        placement = server.place
        if placement is None or not server.state.is_running:
            continue
        key = (server.model_id, str(server.port))
        for device in placement.devices:
            yield "server_gpu_need_bytes", (*key, device.name), device.need
        is_off = placement.extent == "part" or (placement.extent == "none" and placing.has_gpus)
        yield "server_off_gpu", key, is_off


def _of_events(ctx: Context) -> Named:
    yield "events_listeners", (), ctx.fanout.listeners
    yield "events_published_total", (), ctx.fanout.revision
    yield "events_listeners_dropped_total", (), ctx.fanout.dropped


# -- servers -----------------------------------------------------------------------------------


def _of_servers(
    servers: list[server_schemas.Server], observed: Mapping[int, ObservedServer], now: Snapshot
) -> Named:
    for shown in servers:
        key = (shown["modelId"], str(shown["port"]))
        about = (*key, shown["tier"], shown["unit"], str(shown["instance"]))
        yield "server_info", about, 1
        for state in ServerState:
            yield "server_state", (*key, state), shown["state"] == state
        yield "server_wanted", key, _is_wanted(shown, now.wanted)
        yield "server_restarts_total", key, shown["restarts"]
        if shown["memoryBytes"] is not None:
            yield "server_memory_bytes", key, shown["memoryBytes"]
        if shown["cpuSeconds"] is not None:
            yield "server_cpu_seconds_total", key, shown["cpuSeconds"]
        yield from _times(key, observed.get(shown["port"]))


def _is_wanted(shown: server_schemas.Server, wanted: Wanted) -> bool:
    """Whether the server is wanted. One on demand counts as wanted while it runs."""
    spec = wanted.by_port.get(shown["port"])
    is_its_own = spec is not None and spec.model_id == shown["modelId"]
    return is_its_own and (shown["isRunning"] or shown["port"] not in wanted.on_demand)


def _times(key: tuple[str, str], server: ObservedServer | None) -> Named:
    if server is None or server.started_at is None or not server.state.is_running:
        return
    yield "server_start_time_seconds", key, server.started_at
    if server.ready_at is not None:
        yield "server_load_seconds", key, max(0.0, server.ready_at - server.started_at)


def _of_gateway_servers(gateway: Dispatcher) -> Named:
    for server in gateway.servers():
        key = (server.backend.model_id, str(server.backend.port))
        yield "server_slots", key, server.backend.facts.slots
        yield "server_inflight_requests", key, server.outstanding
        yield "server_available", key, not server.why_not


# -- the gateway -------------------------------------------------------------------------------


def _of_gateway(gateway: Dispatcher, queue_limit: int) -> Named:
    yield "gateway_inflight_requests", (), len(gateway.records.running)
    yield "gateway_queue_limit", (), queue_limit
    for error, count in gateway.errors.items():
        yield "gateway_errors_total", (error, _statuses().get(error, "none")), count
    for queue, length in gateway.queues().items():
        yield "gateway_queue_length", (queue,), length


def _of_requests(statistics: RequestStatistics) -> Named:
    for (*labels, code), count in statistics.requests.items():
        status = str(code) if isinstance(code, int) else _statuses().get(code, "none")
        yield "gateway_requests_total", (*map(str, labels), status), count
    for decision, count in statistics.decisions.items():
        yield "route_decisions_total", decision, count
    for whole, histogram in statistics.durations_s.items():
        yield "gateway_request_duration_seconds", whole, _buckets(histogram)
    for key, counts in statistics.models.items():
        yield from _of_model(key, counts)


def _of_model(key: tuple[str, str], counts: ModelCounts) -> Named:
    yield "gateway_time_to_first_token_seconds", key, _buckets(counts.first_token_s)
    yield "gateway_queue_wait_seconds", key, _buckets(counts.waited_s)
    yield "gateway_tokens_per_second", key, _buckets(counts.speed)
    yield "gateway_tokens_total", (*key, "prompt"), counts.prompt_tokens
    yield "gateway_tokens_total", (*key, "answer"), counts.answer_tokens
    yield "gateway_cached_prompt_tokens_total", key, counts.cached_tokens
    yield "gateway_draft_tokens_total", key, counts.draft_tokens
    yield "gateway_accepted_draft_tokens_total", key, counts.accepted_tokens


def _of_callers(store: UsageStore) -> Named:
    for token, counts in store.by_token.items():
        yield "gateway_caller_requests_total", (token,), counts.requests
        yield "gateway_caller_tokens_total", (token, "prompt"), counts.prompt_tokens
        yield "gateway_caller_tokens_total", (token, "answer"), counts.answer_tokens


def _buckets(histogram: Histogram) -> Buckets:
    """Returns a copy, because another thread renders it while requests go on."""
    return Buckets(histogram.bounds, tuple(histogram.counts), histogram.total)


@cache
def _statuses() -> Mapping[str, str]:
    """Returns the HTTP status of each of magid's errors, by its code."""
    return {kind.__name__: str(status_for(kind)) for kind in _tree(errors.MagidError)}


def _tree(kind: type[errors.MagidError]) -> Iterator[type[errors.MagidError]]:
    for below in kind.__subclasses__():
        yield below
        yield from _tree(below)
