"""Models that start with their first request, and stop when nobody has asked for a while.

A model that answers or loads is never stopped, for room or for idleness; one that starts with magid
(`start: always`) never for room. Starts go one after another: each may first need the room of
another one.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from magid.daemon import Daemon
from magid.errors import Busy, MagidError, NotReady, ServerFailed
from magid.gateway import probes
from magid.gateway.fleet import Fleet
from magid.gateway.servers import Server
from magid.gateway.upstream import MISTAKE
from magid.messages import Event, about
from magid.units import ServerState

log = logging.getLogger(__name__)

# A model that has just failed to start is not tried again with every request.
REST_S = 5.0
MARGIN_S = 30.0  # beside the time that a start may take: others may be loading before it


class OnDemand:
    """`servers` gives those of a model that are ready; `on_failed` hears of a start that failed."""

    def __init__(
        self,
        daemon: Daemon,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        servers: Callable[[str], Iterable[Server]],
        on_failed: Callable[[str, MagidError], None],
    ) -> None:
        self._daemon, self._spawn = daemon, spawn
        self._servers, self._on_failed = servers, on_failed
        self._coming: set[str] = set()
        self._failed: dict[str, tuple[float, MagidError]] = {}
        self._one_by_one = asyncio.Lock()

    @property
    def patience_s(self) -> float:
        """How long a request waits for its model."""
        config = self._daemon.config
        return config.max_startup_time + config.gateway.queue_timeout + MARGIN_S

    def want(self, model_id: str) -> None:
        """Begin to start it, unless that is under way. Raises what ended the last start."""
        if model_id in self._coming:
            return
        at, error = self._failed.get(model_id, (0.0, None))
        if error is not None and time.monotonic() < at + REST_S:
            raise error
        self._coming.add(model_id)
        self._spawn(self._bring_up(model_id))

    async def _bring_up(self, model_id: str) -> None:
        try:
            async with self._one_by_one:
                await self._make_room(model_id)
                await self._start(model_id)
            self._failed.pop(model_id, None)
        except MagidError as error:
            self._give_up(model_id, error)
        except Exception:  # those who wait must hear of it, whatever it is
            log.exception("cannot start %s", model_id)
            self._give_up(model_id, ServerFailed(f"cannot start {model_id!r}: {MISTAKE}"))
        finally:
            self._coming.discard(model_id)

    def _give_up(self, model_id: str, error: MagidError) -> None:
        self._failed[model_id] = (time.monotonic(), error)
        self._coming.discard(model_id)
        self._on_failed(model_id, error)

    async def _start(self, model_id: str) -> None:
        log.info(
            "a request asks for %s", model_id, extra=about(Event.SERVER_STARTING, model=model_id)
        )
        try:
            work = self._daemon.start(model_id)
        except Busy:  # it is being stopped
            await self._daemon.quiet()
            work = self._daemon.start(model_id)
        config = self._daemon.config
        await self._daemon.finished(model_id, work, config.max_startup_time + MARGIN_S)

    # -- room --------------------------------------------------------------------------------

    async def _make_room(self, model_id: str) -> None:
        """Stop the on-demand models that were idle longest. Raises NotReady if none is idle."""
        limit = self._daemon.config.gateway.max_loaded
        deadline = time.monotonic() + self._daemon.config.gateway.queue_timeout
        while limit is not None:
            loaded = self._loaded() - {model_id}
            if len(loaded) < limit:
                return
            victim = await self._idlest(loaded)
            if victim is not None:
                await self._stop(victim, f"room is needed for {model_id}")
            elif time.monotonic() > deadline:
                raise NotReady(
                    f"cannot start {model_id!r}: {len(loaded)} on-demand models run and none of "
                    "them is idle (gateway.max_loaded in magid.yaml); try again later"
                )
            else:
                await asyncio.sleep(probes.LOOK_S)

    def _loaded(self) -> set[str]:
        models = self._daemon.snapshot.models
        running = {
            s.model_id
            for s in self._daemon.observed().values()
            if s.state.is_running or s.state is ServerState.BACKOFF
        }
        return {i for i in running if i in models and models[i].is_on_demand}

    async def _idlest(self, loaded: set[str]) -> str | None:
        """The one that was used longest ago, of those that do nothing now and load nothing."""
        order = sorted(loaded, key=self._last_used)
        for model_id in order:
            if await self._is_idle(model_id):
                return model_id
        return None

    def _last_used(self, model_id: str) -> float:
        return max((s.last_used for s in self._servers(model_id)), default=0.0)

    async def _is_idle(self, model_id: str) -> bool:
        """All its servers are ready and work for nobody, also not for clients of their own port."""
        states = [s.state for s in self._daemon.observed().values() if s.model_id == model_id]
        if any(s in (ServerState.STARTING, ServerState.LOADING) for s in states):
            return False
        for server in list(self._servers(model_id)):
            if server.exchanges or not await probes.is_idle(server.backend):
                return False
        return not any(server.exchanges for server in self._servers(model_id))

    async def _stop(self, model_id: str, why: str) -> None:
        log.info(
            "stopping %s: %s", model_id, why, extra=about(Event.SERVER_STOPPING, model=model_id)
        )
        try:
            await self._daemon.finished(model_id, self._daemon.stop(model_id), MARGIN_S)
        except MagidError as error:
            log.warning("%s", error.message, extra=about(Event.CHANGE_FAILED, model=model_id))

    # -- idleness ----------------------------------------------------------------------------

    def look(self, fleet: Fleet, now: float) -> None:
        """Begin to stop what nobody has asked for."""
        for model_id, offer in fleet.offers.items():
            limit = offer.model.settings.idle_stop_seconds
            if limit is None or not offer.model.is_on_demand or not offer.backends:
                continue
            if model_id not in self._coming and now - self._last_used(model_id) >= limit:
                self._spawn(self._stop_if_idle(model_id, limit))

    async def _stop_if_idle(self, model_id: str, limit: float) -> None:
        if await self._is_idle(model_id):
            await self._stop(model_id, f"nobody asked for it in {limit:g} s")
