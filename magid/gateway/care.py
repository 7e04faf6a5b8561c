"""Looking after servers: which ones answer, and which ones only seem to.

/health is asked at the profile's interval, and at once where a request got no byte for a while. A
server that does not answer it gets no requests, and those that wait for it move on. One that
answers it and fails its requests is given one of ours: if that fails too, it is restarted.
"""

import logging
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from magid.daemon import Daemon
from magid.errors import MagidError
from magid.gateway import probes
from magid.gateway.fleet import Fleet
from magid.gateway.servers import Server
from magid.kinds import ModelKind
from magid.messages import Event, about

log = logging.getLogger(__name__)

# A request that got no byte for so long makes its server suspect: /health is asked at once.
SUSPECT_S = 5.0


class Care:
    """`look` at all servers about once a second; what takes longer goes on in tasks of its own."""

    def __init__(self, daemon: Daemon, spawn: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        self._daemon, self._spawn = daemon, spawn

    def look(self, servers: Iterable[Server], fleet: Fleet, interval_s: float) -> None:
        now = time.monotonic()
        for server in servers:
            waited = now - server.probed_at
            if waited >= interval_s or (waited >= probes.TIMEOUT_S and _is_in_doubt(server, now)):
                server.probed_at = now
                self._spawn(_probe(server))
            offer = fleet.offers.get(server.backend.model_id)
            if server.is_suspect and offer is not None and server.backend in offer.backends:
                server.is_suspect = False
                self._spawn(self._examine(server, offer.kind))

    async def _examine(self, server: Server, kind: ModelKind) -> None:
        """Whether it is the server's own fault that it answers 5xx."""
        backend = server.backend
        if await probes.can_work(backend, kind):
            server.breaker.succeeded()
            return
        log.error(
            "restarting the server on port %d (%s): it answers /health and fails its requests",
            backend.port, backend.model_id,
            extra=about(Event.SERVER_MENDED, model=backend.model_id, port=backend.port),
        )  # fmt: skip
        try:
            self._daemon.restart_server(backend.port)
        except MagidError as error:
            log.warning(
                "%s", error.message, extra=about(Event.CHANGE_FAILED, model=backend.model_id)
            )


def _is_in_doubt(server: Server, now: float) -> bool:
    return bool(server.probe_failures) or any(
        now - exchange.last_byte > SUSPECT_S for exchange in server.exchanges
    )


async def _probe(server: Server) -> None:
    if await probes.is_healthy(server.backend):
        server.probe_failures = 0
        return
    server.probe_failures += 1
    if server.probe_failures < probes.UNWELL:
        return
    why = "it does not answer /health"
    log.warning(
        "the server on port %d gets no requests: %s", server.backend.port, why,
        extra=about(
            Event.SERVER_LEFT_OUT, model=server.backend.model_id, port=server.backend.port
        ),
    )  # fmt: skip
    now = time.monotonic()
    server.breaker.failed(now, why, at_once=True)
    for exchange in list(server.exchanges):
        if exchange.last_byte < now - probes.UNWELL * probes.TIMEOUT_S:
            exchange.give_up_on_server(why)
