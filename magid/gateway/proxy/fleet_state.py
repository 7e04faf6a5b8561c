"""Which servers there are, what each can do, and which models a caller may ask for.

Lives on the event loop. `Fleet` is the frozen value that routing works with; it is built again on
the first use after a change.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any

from msgspec.structs import replace

from magid.catalog.effective import Model
from magid.control.daemon import Daemon
from magid.control.planner import Wanted
from magid.errors import NotReady
from magid.gateway.proxy import health
from magid.gateway.proxy.server import UpstreamServer
from magid.gateway.proxy.server_ends import EndOfServer
from magid.gateway.routing import fleet, model_list
from magid.gateway.routing.fleet import Backend, Fleet, ServerProperties, StartPause
from magid.gateway.routing.resolver import ModelRoute
from magid.http.json_text import to_json
from magid.servers.backend import ServerState

log = logging.getLogger(__name__)

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0  # before /props is asked again


class FleetState:
    """`resting` says which models may not be started now, and why; `on_rebuilt` runs after a build.

    `on_learned` runs when a server's facts have become known: more requests may fit.
    """

    def __init__(
        self,
        daemon: Daemon,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        resting: Callable[[], Mapping[str, StartPause]],
        on_rebuilt: Callable[[Fleet], None],
        on_learned: Callable[[], None],
    ) -> None:
        self._daemon, self._spawn = daemon, spawn
        self._resting, self._on_rebuilt, self._on_learned = resting, on_rebuilt, on_learned
        self._servers: dict[str, UpstreamServer] = {}  # by process
        # By process too: they get no new requests, but have some in progress.
        self._leaving: dict[str, UpstreamServer] = {}
        self._facts: dict[str, ServerProperties] = {}  # by process
        self._asking: set[str] = set()  # processes that are being asked for theirs
        # By hash of a spec: of servers that may be gone.
        self._seen: dict[str, ServerProperties] = {}
        self._differences: dict[str, str] = {}  # by model: what was logged of them
        self._fleet = Fleet()
        self._limited: dict[tuple[str, ...], Fleet] = {}  # what limited tokens may use of it
        self._listed: bytes | None = None
        self._is_stale = True

    def close(self) -> None:
        """Ends the idle connections to all servers."""
        for server in self.every_server():
            server.pool.close()

    def invalidate(self) -> None:
        """Has the fleet built again before its next use."""
        self._is_stale = True

    def rebuild_if_stale(self) -> None:
        if self._is_stale:
            self._rebuild()

    @property
    def fleet(self) -> Fleet:
        """The present fleet; builds it first if something has changed."""
        if self._is_stale:
            self._rebuild()
        return self._fleet

    def limited(self, only: tuple[str, ...] | None) -> Fleet:
        """Returns the fleet for a caller limited to the models `only`; None: no limit."""
        now = self.fleet
        if only is None:
            return now
        if only not in self._limited:
            self._limited[only] = fleet.limited(now, only)
        return self._limited[only]

    def models(self, only: tuple[str, ...] | None = None) -> list[dict[str, Any]]:
        """Returns the models available to a caller limited to `only`; None: no limit."""
        return model_list.entries(self.limited(only))

    def models_json(self, only: tuple[str, ...] | None) -> bytes:
        """Returns the list for GET /v1/models; rebuilt only when something has changed."""
        now = self.fleet
        if only is not None:
            return to_json({"object": "list", "data": self.models(only)})
        if self._listed is None:
            self._listed = to_json({"object": "list", "data": model_list.entries(now)})
        return self._listed

    def knows(self, name: str) -> bool:
        """Whether a model of this id was there when the fleet was built last."""
        return name in self._fleet.offers or name in self._fleet.disabled

    # -- servers ---------------------------------------------------------------------------

    def server(self, process: str) -> UpstreamServer | None:
        return self._servers.get(process)

    def servers(self) -> list[UpstreamServer]:
        """Returns the ready servers. A copy."""
        return list(self._servers.values())

    def every_server(self) -> list[UpstreamServer]:
        """Returns the ready servers, and those that finish their last requests. A copy."""
        return [*self._servers.values(), *self._leaving.values()]

    def servers_of(self, model_id: str) -> list[UpstreamServer]:
        return [s for s in self._servers.values() if s.backend.model_id == model_id]

    def no_healthy_server(self, route: ModelRoute) -> NotReady:
        """Returns the error of a request none of whose servers can be asked now."""
        servers = [self.server(backend.process) for backend in route.backends]
        reasons = {s.breaker.reason for s in servers if s is not None and s.breaker.reason}
        why = "; ".join(sorted(reasons)) or "none is left"
        return NotReady(
            f"cannot reach a healthy server for {route.pool}: {why}; it is being checked, try "
            "again in a moment"
        )

    def drop_if_done(self, server: UpstreamServer) -> None:
        """Drops a leaving server once its last request has ended. Idempotent."""
        process = server.backend.process
        if process in self._leaving and not server.active:
            del self._leaving[process]
            self._facts.pop(process, None)
            server.pool.close()

    # -- building --------------------------------------------------------------------------

    def _rebuild(self) -> None:
        snapshot = self._daemon.snapshot
        self._is_stale, self._listed = False, None
        self._limited.clear()
        observed = self._daemon.observed()
        ready = [s for s in observed.values() if s.state is ServerState.READY]
        keys = {s.port: self._daemon.launcher.api_key(s.port) for s in ready}
        self._fleet = fleet.build(
            snapshot,
            observed,
            keys,
            self._facts,
            resting=self._resting(),
            seen=self._seen_of(snapshot.wanted),
            is_scanning=not self._daemon.knows_models,
            library=str(self._daemon.config.library_root or "") or None,
        )
        present = {b.process: b for b in self._fleet.backends}
        for process in self._servers.keys() - present.keys():
            server = self._leaving[process] = self._servers.pop(process)
            self.drop_if_done(server)
        for process, backend in present.items():
            self._meet(process, backend)
        self._on_rebuilt(self._fleet)

    def _seen_of(self, wanted: Wanted) -> dict[str, ServerProperties]:
        """Returns known facts by model; forgets those of specs that are no longer wanted."""
        known = {spec.hash: spec.model_id for spec in wanted.specs if spec.hash in self._seen}
        self._seen = {spec_hash: self._seen[spec_hash] for spec_hash in known}
        return {model_id: self._seen[spec_hash] for spec_hash, model_id in known.items()}

    def _meet(self, process: str, backend: Backend) -> None:
        """Adds the server, or takes it back if it was removed for a moment only.

        A profile without its model removes a server.
        """
        known = self._servers.get(process)
        if known is None:
            known = self._leaving.pop(process, None) or self._made(backend)
            self._servers[process] = known
            if process not in self._facts and process not in self._asking:
                self._asking.add(process)
                self._spawn(self._learn_facts(known))
        known.backend = backend

    def _made(self, backend: Backend) -> UpstreamServer:
        return UpstreamServer(backend, partial(EndOfServer, self._daemon))

    async def _learn_facts(self, server: UpstreamServer) -> None:
        """Asks until the server tells, with growing pauses: one may be too busy to answer."""
        process, pause_s = server.backend.process, _FIRST_PAUSE_S
        try:
            while process in self._servers:
                facts = await self._facts_of(server.backend)
                if facts is not None:
                    self._learned(server, facts)
                    return
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        finally:
            self._asking.discard(process)

    async def _facts_of(self, backend: Backend) -> ServerProperties | None:
        facts = await health.facts(backend)
        model = self._daemon.snapshot.models.get(backend.model_id)
        if facts is None or model is None or not model.found.adapters:
            return facts
        adapters = await health.adapters(backend)
        return None if adapters is None else replace(facts, adapters=adapters)

    def _learned(self, server: UpstreamServer, facts: ServerProperties) -> None:
        backend = server.backend
        if backend.process not in self._servers:
            return
        self._facts[backend.process] = facts
        observed = self._daemon.observed().get(backend.port)
        if observed is not None and observed.process == backend.process:
            self._seen[observed.spec_hash] = facts
        model = self._daemon.snapshot.models.get(backend.model_id)
        if model is not None:
            self._log_difference(model, facts)
        self.invalidate()
        self._on_learned()

    def _log_difference(self, model: Model, facts: ServerProperties) -> None:
        """Once, where a server and its model's files disagree: the server counts."""
        said = _difference(model, facts)
        if said and self._differences.get(model.model_id) != said:
            log.warning(
                "the server of %s disagrees with the model's files: %s; using the server's answer",
                model.model_id, said,
            )  # fmt: skip
        self._differences[model.model_id] = said


def _difference(model: Model, facts: ServerProperties) -> str:
    able = model.abilities
    pairs = (
        ("tools", able.tools, facts.tools),
        ("images", able.images, facts.vision),
        ("audio", able.audio, facts.audio),
    )
    differences = [
        f"{'can' if server else 'cannot'} do {name}"
        for name, files, server in pairs
        if server is not None and files is not None and server is not files
    ]
    return ", ".join(differences)
