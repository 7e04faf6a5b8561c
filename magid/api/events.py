"""`/api/events`: first a snapshot, then each change, so that a WebUI never polls.

Changes that the daemon announces are sent at once. The rest (memory, edited files, the number of
requests) is compared every few seconds while a client is connected.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from magid.api import views
from magid.api.context import Context, DashboardState
from magid.api.library_views import download_view, downloads_view
from magid.api.reply import Call, Stream
from magid.api.sse import RETRY, event_of
from magid.control.conditions import Severity, messages
from magid.control.fits import ModelFit
from magid.control.state import Change
from magid.errors import MagidError
from magid.http.json_text import to_json
from magid.library.job import JobStatus
from magid.servers.backend import ObservedServer

# They change all the time: they are sent alone, without the rest of the server's row.
FIGURES = ("memoryBytes", "cpuSeconds", "uptimeSeconds")
_MEMORY_STEP = 0.01  # of the machine's memory: smaller changes are not sent


def changes(before: DashboardState, now: DashboardState) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields kind and payload of each event that leads from `before` to `now`."""
    for port in before.servers.keys() - now.servers.keys():
        gone = before.servers[port]
        yield "serverRemoved", {"port": port, "unit": gone["unit"], "modelId": gone["modelId"]}
    for port, server in now.servers.items():
        old = before.servers.get(port)
        if old is None or lasting(old) != lasting(server):
            yield "server", {"server": server}
    if before.status != now.status:
        yield "status", now.status
    if before.profiles != now.profiles:
        yield "profiles", {"profiles": sorted(now.profiles), **_profile_changes(before, now)}
    if before.requests != now.requests:
        yield "requests", {"requests": now.requests}
    if _figures_differ(before, now):
        yield "figures", {"servers": [figures(s) for s in now.servers.values()],
                          "memory": now.memory}  # fmt: skip


def lasting(server: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a server's row without the figures that change all the time."""
    return {name: value for name, value in server.items() if name not in FIGURES}


def figures(server: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the figures that change all the time, with the server's port and model id."""
    return {name: server[name] for name in ("port", "modelId", *FIGURES)}


def _profile_changes(before: DashboardState, now: DashboardState) -> dict[str, list[str]]:
    changed = (name for name, text in now.profiles.items() if before.profiles.get(name) != text)
    return {
        "changed": sorted(changed),
        "removed": sorted(before.profiles.keys() - now.profiles.keys()),
    }


def _figures_differ(before: DashboardState, now: DashboardState) -> bool:
    """Compares figures but not uptime, which clients can count themselves."""
    for port, server in now.servers.items():
        old = before.servers.get(port)
        if old is not None and any(
            old[name] != server[name] for name in ("memoryBytes", "cpuSeconds")
        ):
            return True
    free, old_free = now.memory["availableBytes"] or 0, before.memory["availableBytes"] or 0
    return abs(free - old_free) > _MEMORY_STEP * (now.memory["totalBytes"] or 0)


log = logging.getLogger(__name__)


LOOK_S = 2.0
SETTLE_S = 0.1  # collects changes that come together into one comparison


class Feed:
    """Turns the daemon's changes into events. Lives as long as the API."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._models = ctx.daemon.snapshot.models
        self._fits = self._present_fits()
        self._frame = self._present_frame()
        self._changed = asyncio.Event()
        self._unsubscribe = ctx.daemon.subscribe(self._on_change)
        self._unsubscribe_downloads = ctx.downloads.subscribe(
            self._on_download, self._on_download_removed
        )
        self._looking = asyncio.create_task(self._keep_looking())

    def close(self) -> None:
        self._unsubscribe()
        self._unsubscribe_downloads()
        self._looking.cancel()
        self._ctx.fanout.close()

    # -- changes that the daemon announces ----------------------------------------------------

    def _on_change(self, change: Change) -> None:
        if not self._ctx.fanout.is_heard:
            self._models, self._frame = self._ctx.daemon.snapshot.models, self._present_frame()
            self._fits = self._present_fits()
            return
        if change.kind != "memory":  # the status does not depend on it
            self._changed.set()
        payload = self._payload(change)
        if payload is not None:
            self._ctx.fanout.publish(change.kind, payload)

    def _on_download(self, status: JobStatus) -> None:
        if self._ctx.fanout.is_heard:
            has_units = self._ctx.daemon.launcher.has_model_users
            view = download_view(status, has_units=has_units)
            self._ctx.fanout.publish("download", {"download": view})

    def _on_download_removed(self, job_id: str) -> None:
        if self._ctx.fanout.is_heard:
            self._ctx.fanout.publish("downloadRemoved", {"id": job_id})

    def _payload(self, change: Change) -> dict[str, Any] | None:
        daemon = self._ctx.daemon
        if change.kind == "server":
            observed = daemon.observed().get(change.port or 0)
            return None if observed is None else self._server(observed)
        if change.kind == "registry":
            return self._registry_changes()
        if change.kind == "gpus":
            return {**self._ctx.gpus()}
        if change.kind == "memory":
            return self._memory_changes()
        return overall(self._ctx)

    def _server(self, observed: ObservedServer) -> dict[str, Any]:
        """Returns the server's row with the last known figures of the same process."""
        row: Any = self._ctx.server_now(observed)
        sent = self._ctx.sent
        if sent is not None:
            old: Any = sent.servers.get(observed.port)
            if old is not None and old["pid"] == row["pid"]:
                row |= {name: old[name] for name in FIGURES if row[name] is None}
            sent.servers[observed.port] = row
        return {"server": row}

    def _registry_changes(self) -> dict[str, Any] | None:
        """Returns new, changed and removed models, and other changed parts of the registry."""
        snapshot = self._ctx.daemon.snapshot
        before, now = self._models, snapshot.models
        self._models = now
        fits = self._ctx.daemon.gpus.fits
        changed = {
            i: views.discovered_model(m, fits.of(i)) for i, m in now.items() if before.get(i) != m
        }
        gone = sorted(before.keys() - now.keys())
        frame = self._present_frame()
        other = {name: value for name, value in frame.items() if self._frame.get(name) != value}
        self._frame = frame
        if not changed and not gone and not other:
            return None
        return {"models": changed, "removed": gone, "registry": other}

    def _memory_changes(self) -> dict[str, Any] | None:
        """Returns the models of which it has changed whether they fit."""
        before, self._fits = self._fits, self._present_fits()
        changed = {
            i: views.memory_fit(fit) for i, fit in self._fits.items() if before.get(i) != fit
        }
        return {"models": changed} if changed else None

    def _present_fits(self) -> dict[str, ModelFit]:
        fits = self._ctx.daemon.gpus.fits
        return {i: fits.of(i) for i in self._ctx.daemon.snapshot.models}

    def _present_frame(self) -> dict[str, Any]:
        """Returns all of the registry but its models."""
        daemon = self._ctx.daemon
        return {**views.registry_frame(daemon.snapshot, daemon.config)}

    # -- changes that are not announced -------------------------------------------------------

    async def _keep_looking(self) -> None:
        while True:
            await self._ctx.fanout.heard.wait()
            try:
                await self._look()
            except MagidError as error:  # the bus is away: the next comparison may succeed
                log.debug("cannot look at the servers: %s", error.message)
            except Exception:
                log.exception("looking for changes failed with an internal error")
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._changed.wait()
                await asyncio.sleep(SETTLE_S)
            except TimeoutError:
                pass
            self._changed.clear()

    async def _look(self) -> None:
        now = await look(self._ctx)
        before, self._ctx.sent = self._ctx.sent, now
        if before is not None:
            for kind, payload in changes(before, now):
                self._ctx.fanout.publish(kind, payload)


async def get_events(ctx: Context, call: Call) -> Stream:
    """Everything, then every change, as server-sent events.

    Last-Event-ID needs no history: a client that reconnects gets a fresh snapshot.
    """
    return Stream(ctx.fanout.watch(_everything(ctx)))


def _everything(ctx: Context) -> Callable[[], Any]:
    async def everything() -> bytes:
        versions = await ctx.versions()
        now = await look(ctx)
        # No await from here on: snapshot and revision must be of the same moment.
        if ctx.fanout.listeners <= 1 or ctx.sent is None:
            ctx.sent = now  # later events are differences from this state
        revision = ctx.fanout.revision
        rest = to_json({
            "revision": revision,
            "servers": views.servers_reply([*now.servers.values()]),
            "profiles": sorted(now.profiles),
            "requests": now.requests,
            "gpus": ctx.gpus(),
            "downloads": downloads_view(
                ctx.downloads.seen.values(),
                library=ctx.daemon.config.library_root,
                has_units=ctx.daemon.launcher.has_model_users,
            ),
            "memory": now.memory,
            "versions": versions,
            **now.status,
        })  # fmt: skip
        data = b'{"registry":%s,%s' % (ctx.registry_json(ctx.daemon.snapshot), rest[1:])
        return RETRY + event_of("snapshot", data, str(revision))

    return everything


async def look(ctx: Context) -> DashboardState:
    """Returns the current dashboard state."""
    ctx.daemon.refresh_profile()
    await ctx.look_for_program()
    memory = await ctx.memory()
    servers = await ctx.servers()
    # No await from here on: all parts must be of the same moment.
    profiles = ctx.daemon.profiles
    return DashboardState(
        servers={server["port"]: server for server in servers},
        status=overall(ctx),
        profiles={name: profiles.revision(name) for name in profiles.list()},
        requests=request_counts(ctx),
        memory=memory,
    )


def request_counts(ctx: Context) -> dict[str, int]:
    """Returns counts of requests now, and since magid started. Tokens count when requests end."""
    counts = ctx.gateway.statistics.models.values()
    return {
        "running": len(ctx.gateway.records.running),
        "waiting": ctx.gateway.waiting,
        "ended": ctx.gateway.records.ended,
        "refused": ctx.gateway.records.refused,
        "promptTokens": sum(count.prompt_tokens for count in counts),
        "answerTokens": sum(count.answer_tokens for count in counts),
    }


def overall(ctx: Context) -> dict[str, Any]:
    """Returns the status of magid as a whole."""
    found = ctx.conditions()
    reasons = messages(found, Severity.ERROR)
    plan = ctx.daemon.make_plan()
    return {
        "phase": ctx.daemon.phase,
        "ready": not reasons,
        "reasons": reasons,
        "activeProfile": ctx.daemon.snapshot.active.name,
        "problems": messages(found, Severity.WARNING),
        "conditions": views.conditions(found),
        "pendingChanges": {"stop": len(plan.stop), "start": len(plan.start)},
    }
