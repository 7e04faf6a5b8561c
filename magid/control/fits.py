"""Whether each model would fit now, from what is listed and predicted already.

Nothing is started or predicted for it: what is not known is said to be unknown. The one owner of
these answers, which are made again after each change that they depend on.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Literal

from msgspec import Struct

from magid.catalog.effective import Model, server_specs
from magid.config.settings import Config
from magid.control.devices import Devices
from magid.control.placing import NOT_PREDICTED, Decision, Placing
from magid.control.prediction_cache import Prediction
from magid.control.predictions import Predictions
from magid.control.state import Change, StateStore
from magid.control.verdicts import deciding, verdict_of, verdict_placed, verdict_running
from magid.errors import MagidError
from magid.gpus.fitting import Fits, Room, Verdict
from magid.host.usage import machine_memory
from magid.llama.program import LlamaProgram
from magid.llama.spec import ServerSpec
from magid.servers.backend import ObservedServer, ServerBackend, ServerState

log = logging.getLogger(__name__)

SETTLE_S: Final = 0.25  # changes that come together lead to one look
_KINDS: Final = frozenset({"registry", "profile", "gpus", "server"})


class ModelFit(Struct, frozen=True):
    """Whether one server of a model would start now. Memory in bytes; None: not known."""

    fits: Fits
    why: str
    device_bytes: int | None = None  # on all GPUs together
    host_bytes: int | None = None
    source: Literal["predicted"] | None = None


UNKNOWN: Final = ModelFit(Fits.UNKNOWN, NOT_PREDICTED)


class ModelFits:
    """Keeps an answer for each model. `notify` is called when some have changed."""

    def __init__(
        self,
        config: Config,
        launcher: ServerBackend,
        store: StateStore,
        devices: Devices,
        predictions: Predictions,
        placing: Placing,
        program: Callable[[], Awaitable[LlamaProgram]],
        on_unpredicted: Callable[[Iterable[ServerSpec]], None],
    ) -> None:
        """`on_unpredicted` gets the wanted servers for which predictions are missing."""
        self._config, self._launcher, self._store = config, launcher, store
        self._devices, self._predictions, self._placing = devices, predictions, placing
        self._program, self._on_unpredicted = program, on_unpredicted
        self._known: dict[str, ModelFit] = {}
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._unsubscribe: Callable[[], None] | None = None
        self.revision = 0  # of all answers

    def of(self, model_id: str) -> ModelFit:
        """Returns the last answer for this model."""
        return self._known.get(model_id, UNKNOWN)

    async def now(self, model: Model) -> ModelFit:
        """Returns an answer by what is free at this moment."""
        await self._predictions.load()
        try:
            program = await self._program()
        except MagidError as error:
            return ModelFit(Fits.UNKNOWN, error.message)
        return self._fit(model, program, machine_memory()["available"])

    def look_again(self) -> None:
        """Has all answers made again, soon."""
        self._changed.set()

    def open(self) -> None:
        """Begins to keep the answers."""
        self._unsubscribe = self._store.subscribe(self._on_change)
        self._changed.set()
        self._task = asyncio.create_task(self._work())

    async def close(self) -> None:
        """Idempotent."""
        if self._unsubscribe is not None:
            self._unsubscribe()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _on_change(self, change: Change) -> None:
        if change.kind in _KINDS:
            self._changed.set()

    async def _work(self) -> None:
        await self._predictions.load()
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self._look()
            except Exception:
                log.exception("looking whether models fit failed with an internal error")
            await asyncio.sleep(SETTLE_S)

    async def _look(self) -> None:
        """Makes all answers, and lets others run after each: there may be thousands."""
        models, found = self._store.snapshot.models, dict[str, ModelFit]()
        try:
            program = await self._program()
        except MagidError as error:
            found = dict.fromkeys(models, ModelFit(Fits.UNKNOWN, error.message))
        else:
            available = machine_memory()["available"]
            for model_id, model in models.items():
                found[model_id] = self._fit(model, program, available)
                await asyncio.sleep(0)
            wanted = self._store.snapshot.wanted.specs
            self._on_unpredicted([s for s in wanted if found.get(s.model_id) == UNKNOWN])
        if found != self._known:
            self._known = found
            self.revision += 1
            self._store.notify(Change("memory"))

    def _fit(self, model: Model, program: LlamaProgram, available: int) -> ModelFit:
        specs = server_specs(model, self._config.llama_server_host, model.entry.ports or (0,))
        spec, port = specs[0], model.port
        if self._devices.present.listed_at is None:
            return ModelFit(Fits.UNKNOWN, "the GPUs are not listed yet")
        decision = Decision(None)
        if self._devices.present.gpus:
            decision = self._placing.decided_by_now(spec, program, available, port)
        if decision.answer is None:
            made = self._kept(spec, program, decision.problem)
            verdict = verdict_of(made, self._room(spec, available))
        else:
            made = deciding(decision.answer, decision.known)
            verdict = verdict_placed(decision.answer)
        running = self._running(specs)
        if running is not None and made.estimate is not None:
            verdict = verdict_running(running, made.estimate)
        return _fit_of(verdict, made)

    def _kept(self, spec: ServerSpec, program: LlamaProgram, problem: str) -> Prediction:
        """Returns the prediction of the server as llama-server would place it."""
        made = self._predictions.kept(spec, program)
        return made or Prediction(0.0, problem=problem or NOT_PREDICTED)

    def _room(self, spec: ServerSpec, available: int) -> Room:
        limit = spec.memory_max if self._launcher.has_model_users else None
        return Room(self._devices.present.gpus, available, limit)

    def _running(self, specs: tuple[ServerSpec, ...]) -> ObservedServer | None:
        """Returns a server that runs with just these settings."""
        observed = self._launcher.observed()
        servers = ((spec, observed.get(spec.port)) for spec in specs)
        ready = ((a, b) for a, b in servers if b is not None and b.state is ServerState.READY)
        return next((server for spec, server in ready if server.spec_hash == spec.hash), None)


def _fit_of(verdict: Verdict, made: Prediction) -> ModelFit:
    estimate = made.estimate
    if estimate is None:
        return ModelFit(verdict.fits, verdict.why)
    on_devices = sum(one.need.total for one in estimate.devices)
    return ModelFit(verdict.fits, verdict.why, on_devices, estimate.host_total.total, "predicted")
