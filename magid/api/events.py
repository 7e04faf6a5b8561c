"""What `/api/events` tells: first everything, then each change, so that a WebUI never polls."""

from typing import Any

from pydantic_core import to_json

from magid.api import views
from magid.api.context import Context
from magid.api.replies import Call, Stream
from magid.api.sse import event_of
from magid.daemon import Change


class Feed:
    """Turns the daemon's changes into events. Lives as long as the API."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._models = ctx.daemon.snapshot.models
        self._unsubscribe = ctx.daemon.subscribe(self._on_change)

    def close(self) -> None:
        self._unsubscribe()
        self._ctx.fanout.close()

    def _on_change(self, change: Change) -> None:
        if not self._ctx.fanout.is_heard:
            self._models = self._ctx.daemon.snapshot.models
            return
        payload = self._payload(change)
        if payload is not None:
            self._ctx.fanout.publish(change.kind, payload)

    def _payload(self, change: Change) -> dict[str, Any] | None:
        daemon = self._ctx.daemon
        if change.kind == "server":
            observed = daemon.observed().get(change.port or 0)
            return None if observed is None else {"server": self._ctx.server_now(observed)}
        if change.kind == "registry":
            return self._registry_changes()
        return _overall(self._ctx)

    def _registry_changes(self) -> dict[str, Any] | None:
        before, now = self._models, self._ctx.daemon.snapshot.models
        self._models = now
        changed = {i: views.discovered_model(m) for i, m in now.items() if before.get(i) != m}
        gone = sorted(before.keys() - now.keys())
        if not changed and not gone:
            return None
        return {"models": changed, "removed": gone}


async def get_events(ctx: Context, call: Call) -> Stream:
    """Everything, then every change, as server-sent events.

    Last-Event-ID needs no memory here: who comes back gets a fresh snapshot.
    """

    async def everything() -> bytes:
        await ctx.look_for_program()
        revision = ctx.fanout.revision
        servers = views.servers_reply(await ctx.servers())
        rest = to_json({"revision": revision, "servers": servers, **_overall(ctx)})
        data = b'{"registry":%s,%s' % (ctx.registry_json(ctx.daemon.snapshot), rest[1:])
        return event_of("snapshot", data, str(revision))

    return Stream(ctx.fanout.watch(everything))


def _overall(ctx: Context) -> dict[str, Any]:
    reasons = ctx.unready_reasons()
    return {
        "phase": ctx.daemon.phase,
        "ready": not reasons,
        "reasons": reasons,
        "activeProfile": ctx.daemon.snapshot.active.name,
        "problems": list(ctx.daemon.snapshot.problems),
    }
