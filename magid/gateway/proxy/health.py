"""Health checks: finds servers that do not answer, and those that only answer /health.

/health is asked at the profile's interval, and at once where a request got no byte for a while. A
server that does not answer it gets no requests, and those that wait for it move on. One that
answers /health and failed several requests is given one of magid's own, because those requests
may be at fault: it is left out, and restarted, only if it fails that one too.
"""

import logging
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from magid.control.daemon import Daemon
from magid.discovery.kinds import ModelKind
from magid.errors import BadReply, MagidError, ServerUnreachable
from magid.gateway.proxy.server import UNWELL, UpstreamServer, is_own_trouble
from magid.gateway.routing.fleet import (
    Backend,
    Fleet,
    ServerProperties,
    adapters_in,
    facts_of,
)
from magid.http.json_text import to_json
from magid.llama.client import get_json
from magid.log.events import Event, about
from magid.servers.backend import ServerState

log = logging.getLogger(__name__)


# A request that got no byte for so long makes its server suspect: /health is asked at once.
SUSPECT_S = 5.0
# Between two requests of magid's own to one server, each of which takes a slot's cache: the pause
# doubles while the server passes, because then requests are at fault.
EXAMINE_S, MAX_EXAMINE_S = 2.0, 60.0


class HealthChecker:
    """`look` at all servers about once a second; what takes longer goes on in tasks of its own."""

    def __init__(self, daemon: Daemon, spawn: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        self._daemon, self._spawn = daemon, spawn

    def look(self, servers: Iterable[UpstreamServer], fleet: Fleet, interval_s: float) -> None:
        now = time.monotonic()
        for server in servers:
            if now - server.probed_at >= _due_s(server, now, interval_s):
                server.probed_at = now
                self._spawn(_probe(server))
            if self._is_stopping(server.backend):
                _give_up_where_held_up(server)
            offer = fleet.offers.get(server.backend.model_id)
            if offer is not None and server.backend in offer.backends and _is_due(server, now):
                server.is_being_examined, server.is_suspect = True, False
                self._spawn(self._examine(server, offer.kind))

    def _is_stopping(self, backend: Backend) -> bool:
        observed = self._daemon.observed().get(backend.port)
        return (
            observed is not None
            and observed.process == backend.process
            and observed.state is ServerState.STOPPING
        )

    async def _examine(self, server: UpstreamServer, kind: ModelKind) -> None:
        """Whether it is the server's own fault that requests fail."""
        try:
            works = await can_work(server.backend, kind)
        finally:
            server.is_being_examined, server.examined_at = False, time.monotonic()
        if works:
            server.examinations += 1
            server.breaker.found_well(time.monotonic(), by_work=True)
        elif works is not None:
            server.leave_out("it fails a request of magid's own", needs_work=True)
            self._restart(server)
        server.is_suspect = server.is_suspect or not works or server.breaker.is_open

    def _restart(self, server: UpstreamServer) -> None:
        """Restarts the server, unless a client still receives an answer from it."""
        backend, now = server.backend, time.monotonic()
        if any(now - forwarded.last_byte < SUSPECT_S for forwarded in server.active):
            return
        observed = self._daemon.observed().get(backend.port)
        if observed is None or observed.process != backend.process:
            return  # another process is there by now
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


def _give_up_where_held_up(server: UpstreamServer) -> None:
    """llama-server ends only when each answer is written or its connection has ended.

    One that a client does not take would hold up the stop until systemd kills the process.
    """
    for forwarded in list(server.active):
        if forwarded.is_held_up:
            forwarded.give_up_on_server("its server is being stopped")


def _is_due(server: UpstreamServer, now: float) -> bool:
    """Whether to probe it with a request. After a long time without, pauses start small."""
    since = now - server.examined_at
    if since > 2 * MAX_EXAMINE_S:
        server.examinations = 0
    pause = min(MAX_EXAMINE_S, EXAMINE_S * 2.0 ** min(server.examinations, 10))
    return server.is_suspect and not server.is_being_examined and since >= pause


def _due_s(server: UpstreamServer, now: float, interval_s: float) -> float:
    """How long after the last /health the next one is asked."""
    if server.probe_failures or any(now - e.last_byte > SUSPECT_S for e in server.active):
        return min(interval_s, TIMEOUT_S)
    return 0.0 if server.is_doubted or server.breaker.is_open else interval_s


async def _probe(server: UpstreamServer) -> None:
    answer = await is_healthy(server.backend)
    if answer is None:
        return
    if answer:
        server.probe_failures, server.is_doubted = 0, False
        server.breaker.found_well(time.monotonic())
        return
    server.probe_failures += 1
    if server.probe_failures < UNWELL:
        return
    why = "it does not answer /health"
    server.leave_out(why)
    now = time.monotonic()
    for forwarded in list(server.active):
        if forwarded.last_byte < now - UNWELL * TIMEOUT_S:
            forwarded.give_up_on_server(why)


LOOK_S = 1.0  # between checks of all servers
TIMEOUT_S = 2.0
# One token; a busy server may let it wait for its turn.
WORK_TIMEOUT_S = 30.0


_WORK: dict[ModelKind, tuple[str, dict[str, object]]] = {
    ModelKind.CHAT: ("/v1/completions", {"prompt": "a", "max_tokens": 1}),
    ModelKind.EMBEDDING: ("/v1/embeddings", {"input": "a"}),
    ModelKind.RERANKER: ("/v1/rerank", {"query": "a", "documents": ["a"]}),
}


async def facts(backend: Backend) -> ServerProperties | None:
    """Returns None if the server does not report it."""
    try:
        _, props = await _asked(backend, "/props")
    except ServerUnreachable:
        return None
    return facts_of(props)


async def adapters(backend: Backend) -> tuple[str, ...] | None:
    """Returns the paths of the server's LoRA adapters by their ids; None if it does not tell."""
    try:
        _, listed = await _asked(backend, "/lora-adapters")
    except ServerUnreachable:
        return None
    return adapters_in(listed)


async def is_healthy(backend: Backend) -> bool | None:
    """Checks /health, which needs no key. None: magid could not connect for a reason of its own."""
    try:
        status, _ = await get_json(backend.address, "/health", key=None, timeout_s=TIMEOUT_S)
    except ServerUnreachable as error:
        return None if is_own_trouble(error.__cause__) else False
    return status == 200


async def is_idle(backend: Backend) -> bool:
    """Whether no slot is at work; a server that does not tell is not known to be."""
    try:
        _, slots = await _asked(backend, "/slots")
    except ServerUnreachable:
        return False
    return isinstance(slots, list) and not _any_at_work(slots)


def _any_at_work(slots: list[object]) -> bool:
    return any(isinstance(slot, dict) and slot.get("is_processing") for slot in slots)


async def can_work(
    backend: Backend, kind: ModelKind, *, timeout_s: float = WORK_TIMEOUT_S
) -> bool | None:
    """Whether it answers the smallest request of its kind. A refusal (4xx, 501) counts as well.

    None: it cannot be told. It works on others' requests and had no time for this one, or magid
    could not even ask.
    """
    path, body = _WORK[kind]
    try:
        status, _ = await _asked(backend, path, to_json(body), timeout_s=timeout_s)
    except BadReply:
        return False
    except ServerUnreachable as error:
        if is_own_trouble(error.__cause__):
            return None
        return await _is_merely_busy(backend, timeout_s)
    return status < 500 or status == 501


async def _is_merely_busy(backend: Backend, timeout_s: float) -> bool | None:
    """Returns None if it works on a request; False if it is idle, or stuck, and did not answer."""
    try:
        _, slots = await _asked(backend, "/slots", timeout_s=timeout_s)
    except ServerUnreachable:
        return False
    return False if isinstance(slots, list) and not _any_at_work(slots) else None


async def _asked(
    backend: Backend, path: str, body: bytes | None = None, *, timeout_s: float = TIMEOUT_S
) -> tuple[int, object]:
    """With its key, which no other program gets to see. Raises ServerUnreachable."""
    address = backend.address
    return await get_json(
        address, path, key=backend.key, uid=backend.uid, timeout_s=timeout_s, body=body
    )
