"""Starts models with their first request and stops them when they are idle.

A model that answers or loads is never stopped, for room or for idleness; one that starts at boot
(`start: always`) never for room. Room is made for one model after another, by the number of models
(`max_loaded`) and by the memory of GPUs; then each loads when its devices allow, which
`PlanExecutor` decides. A failed start or stop is retried only after a pause
that grows with each failure.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from magid.control import transitions
from magid.control.daemon import Daemon
from magid.errors import Busy, DoesNotFit, MagidError, NotReady, ServerFailed
from magid.gateway.proxy import health
from magid.gateway.proxy.failures import Failure, Failures
from magid.gateway.proxy.server import UpstreamServer
from magid.gateway.proxy.upstream import INTERNAL_ERROR
from magid.gateway.routing.fleet import Fleet, StartPause
from magid.gpus.eviction import Evictable, Use, Waiting
from magid.log.events import Event, about
from magid.servers.backend import ServerState
from magid.servers.read_ahead import LEAST_BYTES, read_ahead
from magid.wording.counts import counted

log = logging.getLogger(__name__)

MARGIN_S = 30.0  # beside the time that a start may take: others may be loading before it
MAX_LOOK_S = 8.0  # between two tries to stop what is not to be stopped; the first ones come sooner


class OnDemand:
    """Starts and stops on-demand models. `servers` returns the ready servers of a model.

    `on_failed` is called when a start fails, with the seconds until a retry: 0 if it was not tried
    for lack of room.
    """

    def __init__(
        self,
        daemon: Daemon,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        servers: Callable[[str], Iterable[UpstreamServer]],
        on_failed: Callable[[str, MagidError, float], None],
    ) -> None:
        self._daemon, self._spawn = daemon, spawn
        self._servers, self._on_failed = servers, on_failed
        self._coming: set[str] = set()
        self._begun: set[str] = set()  # of those, the ones that have got their room
        self._stopping: set[str] = set()
        self._reading: dict[str, asyncio.Task[None]] = {}  # by the model that is to start
        self._ending: set[asyncio.Task[None]] = set()
        self._starts, self._stops = Failures(), Failures()
        self._one_by_one = asyncio.Lock()

    @property
    def timeout_s(self) -> float:
        """How long a request waits for its model."""
        config = self._daemon.config
        return config.max_startup_time + config.gateway.queue_timeout + MARGIN_S

    def is_coming(self, model_id: str) -> bool:
        return model_id in self._coming

    def resting(self) -> dict[str, StartPause]:
        """Why models are not started at present, by model: their last starts failed."""
        now = time.monotonic()
        found = {i: self._failure(i, now) for i in self._starts.models}
        return {i: _explained(failure) for i, failure in found.items() if failure is not None}

    def _failure(self, model_id: str, now: float) -> Failure | None:
        return self._starts.of(model_id, now, self._specs(model_id))

    def _specs(self, model_id: str) -> frozenset[str]:
        """Returns what would be started: a changed file or setting allows another attempt."""
        specs = self._daemon.snapshot.wanted.specs
        return frozenset(spec.hash for spec in specs if spec.model_id == model_id)

    def want(self, model_id: str) -> None:
        """Begin to start it, unless that is under way. Raises what ended the last start."""
        if model_id in self._coming:
            return
        failure = self._failure(model_id, time.monotonic())
        if failure is not None:
            raise failure.error
        self._coming.add(model_id)
        self._spawn(self._bring_up(model_id))

    async def _bring_up(self, model_id: str) -> None:
        deadline = time.monotonic() + self._daemon.config.gateway.queue_timeout
        try:
            transitions.startable(self._daemon.snapshot, model_id)  # before others stop for it
            async with self._one_by_one:
                try:
                    await self._make_room(model_id, deadline)
                    await self._make_memory(model_id, deadline)
                except NotReady as error:  # no fault of this model
                    self._coming.discard(model_id)
                    self._on_failed(model_id, error, 0.0)
                    return
                work = await self._begin(model_id)
                self._begun.add(model_id)
            timeout_s = self._daemon.config.max_startup_time + MARGIN_S
            await self._daemon.finished(model_id, work, timeout_s)
            self._starts.succeeded(model_id)
        except MagidError as error:
            self._give_up(model_id, error)
        except Exception:  # any: the waiting requests must get an answer
            log.exception("cannot start %s", model_id)
            self._give_up(model_id, ServerFailed(f"cannot start {model_id!r}: {INTERNAL_ERROR}"))
        finally:
            self._end_reading(model_id)
            self._coming.discard(model_id)
            self._begun.discard(model_id)
            self._daemon.gpus.placing.drop(model_id)

    def _give_up(self, model_id: str, error: MagidError) -> None:
        specs = self._specs(model_id)
        pause_s = self._starts.failed(model_id, error, time.monotonic(), specs)
        log.warning(
            "%s is not started again for %.0f s: %s", model_id, pause_s, error.message,
            extra=about(Event.CHANGE_FAILED, model=model_id, error=error.code),
        )  # fmt: skip
        self._coming.discard(model_id)
        self._on_failed(model_id, error, pause_s)

    async def _begin(self, model_id: str) -> asyncio.Task[None]:
        log.info(
            "a request asks for %s", model_id, extra=about(Event.SERVER_STARTING, model=model_id)
        )
        try:
            return self._daemon.start(model_id)
        except Busy:  # it is being stopped
            await self._daemon.wait_idle()
            return self._daemon.start(model_id)

    # -- room --------------------------------------------------------------------------------

    def _read_ahead(self, model_id: str) -> None:
        """Begins to have the model's files read, if they are large enough for that to pay."""
        model = self._daemon.snapshot.models.get(model_id)
        if model is None or model_id in self._reading or model.found.size_bytes < LEAST_BYTES:
            return
        task = asyncio.create_task(read_ahead(model.found.files))
        self._reading[model_id] = task
        self._ending.add(task)  # until it has ended
        task.add_done_callback(self._ending.discard)

    def _end_reading(self, model_id: str) -> None:
        """Leaves the rest to the server: two that read one file take longer than one of them."""
        if (reading := self._reading.pop(model_id, None)) is not None:
            reading.cancel()

    async def _make_room(self, model_id: str, deadline: float) -> None:
        """Stop the on-demand models that were idle longest. Raises NotReady if there is none."""
        limit, pause_s, why = self._daemon.config.gateway.max_loaded, health.LOOK_S, ""
        while limit is not None:
            loaded = self._loaded() - {model_id}
            if len(loaded) < limit:
                return
            if time.monotonic() > deadline:
                raise NotReady(
                    f"cannot start {model_id!r}: "
                    f"{counted(len(loaded), 'on-demand model runs', 'on-demand models run')} and "
                    f"{why or 'none of them is idle'} (gateway.max_loaded in magid.yaml); "
                    "try again later"
                )
            victim = await self._idlest(loaded)
            if victim is None:
                await asyncio.sleep(health.LOOK_S)
                continue
            self._read_ahead(model_id)
            why = await self._stop(victim, f"room is needed for {model_id}")
            self._end_reading(model_id)
            if victim in self._loaded():
                await asyncio.sleep(pause_s)
                pause_s = min(MAX_LOOK_S, 2 * pause_s)

    async def _make_memory(self, model_id: str, deadline: float) -> None:
        """Stop idle on-demand models until the GPUs have room, if that helps.

        Raises DoesNotFit where it never does, NotReady where those that hold the memory stay busy.
        """
        pause_s = health.LOOK_S
        while True:
            order = sorted(self._loaded() - {model_id}, key=self._last_used)
            found = await self._daemon.gpus.room_for(
                model_id, [Evictable(i, await self._use(i)) for i in order]
            )
            if found is None:
                return
            if isinstance(found, Waiting):
                why = f"it {found.reason}; it waits for {', '.join(found.model_ids)}"
            elif found.model_ids:
                why = await self._stop_idle(found.model_ids, model_id)
            else:
                return
            if why and time.monotonic() > deadline:
                raise NotReady(f"cannot start {model_id!r}: {why}; try again later")
            if why:
                await asyncio.sleep(pause_s)
                pause_s = min(MAX_LOOK_S, 2 * pause_s)

    async def _use(self, model_id: str) -> Use:
        return "idle" if await self._is_idle(model_id) else "busy"

    async def _stop_idle(self, model_ids: Iterable[str], for_model: str) -> str:
        """Why one of them was not stopped; empty: all were. They may have got work meanwhile."""
        for model_id in model_ids:
            if not await self._is_idle(model_id):
                return f"{model_id} has got a request meanwhile"
            self._read_ahead(for_model)
            why = await self._stop(model_id, f"room is needed for {for_model}")
            self._end_reading(for_model)
            if why:
                return why
        return ""

    def _loaded(self) -> set[str]:
        models = self._daemon.snapshot.models
        running = {
            s.model_id
            for s in self._daemon.observed().values()
            if s.state.is_running or s.state is ServerState.BACKOFF
        }
        running |= self._begun  # also those that wait for their turn to load
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
        """Returns whether all its servers are ready and idle, including for direct clients."""
        states = [s.state for s in self._daemon.observed().values() if s.model_id == model_id]
        if not states or any(s in (ServerState.STARTING, ServerState.LOADING) for s in states):
            return False
        for server in list(self._servers(model_id)):
            if server.active or not await health.is_idle(server.backend):
                return False
        return not any(server.active for server in self._servers(model_id))

    async def _stop(self, model_id: str, why: str) -> str:
        """Returns why the model could not be stopped; empty after a success."""
        log.info(
            "stopping %s: %s", model_id, why, extra=about(Event.SERVER_STOPPING, model=model_id)
        )
        try:
            await self._daemon.finished(model_id, self._daemon.stop(model_id), MARGIN_S)
        except MagidError as error:
            self._stops.failed(model_id, error, time.monotonic())
            log.warning("%s", error.message, extra=about(Event.CHANGE_FAILED, model=model_id))
            return f"{model_id} could not be stopped: {error.message}"
        self._stops.succeeded(model_id)
        return ""

    # -- idleness ----------------------------------------------------------------------------

    def look(self, fleet: Fleet, now: float) -> None:
        """Begins to stop the models that have been idle too long."""
        failed = self._starts.models
        for model_id, offer in fleet.offers.items():
            if offer.backends and model_id in failed:
                self._starts.succeeded(model_id)  # a person has started it
            limit = offer.model.settings.idle_stop_seconds
            if limit is None or not offer.model.is_on_demand or not offer.backends:
                continue
            if model_id in self._coming | self._stopping or self._stops.of(model_id, now):
                continue
            if now - self._last_used(model_id) >= limit:
                self._stopping.add(model_id)
                self._spawn(self._stop_if_idle(model_id, limit))

    async def _stop_if_idle(self, model_id: str, limit: float) -> None:
        try:
            if await self._is_idle(model_id):
                await self._stop(model_id, f"no request in {limit:g} s")
        finally:
            self._stopping.discard(model_id)


def _explained(failure: Failure) -> StartPause:
    """Returns the reason for a person, to follow the model's name."""
    reason = failure.error.message.removesuffix(".")
    if isinstance(failure.error, DoesNotFit):
        return StartPause(f"could not be started ({reason})", lacks_memory=True)
    return StartPause(
        f"could not be started ({reason}); not tried again for {failure.pause_s:.0f} s after "
        f"{counted(failure.count, 'failed start')}"
    )
