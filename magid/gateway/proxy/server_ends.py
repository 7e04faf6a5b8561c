"""Why a server ended while it answered: stopped, by magid or with systemctl, or by itself.

magid knows its own stops before they begin. Of the others it hears from systemd, perhaps a moment
after the connection has ended.
"""

import asyncio
from collections.abc import Callable

from magid.control.daemon import Daemon
from magid.control.state import Change
from magid.errors import MagidError, ServerLost, ServerStopped
from magid.gateway.routing.fleet import Backend
from magid.servers.backend import BY_SYSTEMCTL, ServerState

WAIT_S = 2.0  # for systemd to tell, which is late on a busy machine

Then = Callable[[str], None]


def error_of(backend: Backend, why: str, stopped: str) -> MagidError:
    """The error for the client of a server that was `stopped`, or else ended as `why` says."""
    server = f"the server of {backend.model_id!r} on port {backend.port}"
    if stopped:
        return ServerStopped(
            f"cannot finish: {server} was stopped ({stopped}); GET /api/models/servers shows "
            "whether it runs again",
            modelId=backend.model_id,
        )
    return ServerLost(
        f"cannot finish: {server} failed: {why}; GET /api/models/servers/{backend.model_id}/logs "
        "may show the reason",
        modelId=backend.model_id,
    )


class EndOfServer:
    """Calls `then` once, with why the server was stopped, or with "" if it ended by itself."""

    def __init__(self, daemon: Daemon, backend: Backend, then: Then) -> None:
        self._daemon, self._backend, self._then = daemon, backend, then
        self._timer: asyncio.TimerHandle | None = None
        self._unsubscribe: Callable[[], None] | None = None
        if not self._look():
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(WAIT_S, self._give_up)
            self._unsubscribe = daemon.subscribe(self._on_change)

    def _on_change(self, _change: Change) -> None:
        if self._unsubscribe is not None:
            self._look()

    def _look(self) -> bool:
        """Returns whether it is known by now, and was told."""
        reason = self._daemon.why_stopped(self._backend.port, self._backend.process)
        if not reason and self._state is not None:
            return False
        self._tell(reason)
        return True

    @property
    def _state(self) -> ServerState | None:
        """The state of this process while it is shown as one that has not ended yet."""
        server = self._daemon.observed().get(self._backend.port)
        if server is None or server.process != self._backend.process:
            return None
        is_open = server.state in (ServerState.READY, ServerState.STOPPING) and not server.reason
        return server.state if is_open else None

    def _give_up(self) -> None:
        """A unit that stops and was not stopped by magid was stopped by a person."""
        self._tell(BY_SYSTEMCTL if self._state is ServerState.STOPPING else "")

    def _tell(self, reason: str) -> None:
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._then(reason)
