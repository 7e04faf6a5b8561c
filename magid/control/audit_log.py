"""Logs server state changes and user decisions, one line each.

The backends and the REST layer do not log these events, so each event reads the same whatever
caused it.
"""

import logging
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from magid.catalog.effective import Model
from magid.catalog.registry import ModelEntry, fields_of
from magid.log.events import Event, about
from magid.servers.backend import ObservedServer, ServerState

log = logging.getLogger(__name__)

_LOGGED = {
    ServerState.READY: (logging.INFO, Event.SERVER_READY),
    ServerState.STOPPED: (logging.INFO, Event.SERVER_STOPPED),
    ServerState.BACKOFF: (logging.WARNING, Event.SERVER_BACKOFF),
    ServerState.FAILED: (logging.ERROR, Event.SERVER_FAILED),
}


class StateLog:
    """Logs the state changes of servers, as a listener of `ServerBackend.subscribe`."""

    def __init__(self) -> None:
        self._seen: dict[int, ServerState] = {}

    def on_change(self, server: ObservedServer) -> None:
        """Logs the server's new state.

        A server that was already ready or stopped when magid started is not logged.
        """
        before = self._seen.get(server.port)
        self._seen[server.port] = server.state
        is_old = before is None and server.state in (ServerState.READY, ServerState.STOPPED)
        if before is server.state or is_old or server.state not in _LOGGED:
            return
        level, event = _LOGGED[server.state]
        log.log(
            level, "%s (%s) %s", server.unit, server.model_id, _how(server),
            extra=about(event, model=server.model_id, port=server.port),
        )  # fmt: skip


def _how(server: ObservedServer) -> str:
    if server.state is ServerState.READY and server.started_at and server.ready_at:
        return f"is ready after {server.ready_at - server.started_at:.1f} s"
    return server.described


def log_decision(before: ModelEntry, model: Model) -> None:
    """Logs which settings of a model a user has changed."""
    old, new = map(fields_of, (before, model.entry))
    words = ", ".join(_changes(old, new)) or "nothing changed"
    log.info(
        "decided for %s: %s", model.model_id, words,
        extra=about(Event.DECIDED, model=model.model_id),
    )  # fmt: skip


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """Yields KEY=VALUE for each change, as `magictl set` takes it: KEY= for the default."""
    for name, value in new.items():
        if isinstance(value, dict):
            yield from _changes(old.get(name) or {}, value)
        elif old.get(name) != value:
            yield f"{name}={_text(value)}"


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return shlex.join(map(str, value))
    return "" if value is None else str(value)
