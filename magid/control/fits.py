"""Whether each model would fit now, from what is listed and predicted already.

Nothing is started or predicted for it: what is not known is said to be unknown. The one owner of
these answers, which are made again after each change that they depend on.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final, Literal

from msgspec import Struct
from msgspec.structs import replace

from magid.catalog.effective import Model, server_specs
from magid.config.settings import Config
from magid.control.after_changes import AfterChanges
from magid.control.engine_devices import EngineDevices
from magid.control.holders import MachineMemory
from magid.control.placing import NOT_PREDICTED, Decision, Placing
from magid.control.prediction_cache import Prediction
from magid.control.predictions import Predictions
from magid.control.state import Change, StateStore
from magid.control.verdicts import (
    deciding,
    is_on_processor,
    verdict_estimated,
    verdict_of,
    verdict_placed,
    verdict_running,
)
from magid.control.wishes import facts_of, header_estimate
from magid.errors import MagidError
from magid.gpus.capacity import Capacity
from magid.gpus.fitting import Fits, Room, Verdict
from magid.gpus.header_estimate import HeaderEstimate
from magid.gpus.memory_table import Estimate
from magid.llama.program import LlamaProgram, ProgramOf
from magid.llama.spec import ServerSpec
from magid.servers.backend import ObservedServer, ServerBackend, ServerState

log = logging.getLogger(__name__)

SETTLE_S: Final = 0.25  # changes that come together lead to one look
# While servers load, whose next change is near: each look takes processor time from the loads.
LOADING_S: Final = 1.0
_KINDS: Final = frozenset({"registry", "profile", "gpus", "server"})


class ModelFit(Struct, frozen=True):
    """Whether one server of a model would start now. Memory in bytes; None: not known."""

    fits: Fits
    why: str
    device_bytes: int | None = None  # on all GPUs together
    host_bytes: int | None = None
    source: Literal["predicted", "estimated"] | None = None


UNKNOWN: Final = ModelFit(Fits.UNKNOWN, NOT_PREDICTED)


class ModelFits:
    """Keeps an answer for each model. `notify` is called when some have changed."""

    def __init__(
        self,
        config: Config,
        launcher: ServerBackend,
        store: StateStore,
        devices: EngineDevices,
        predictions: Predictions,
        placing: Placing,
        program: ProgramOf,
        on_unpredicted: Callable[[Iterable[ServerSpec]], None],
    ) -> None:
        """`on_unpredicted` gets the wanted servers for which predictions are missing."""
        self._config, self._launcher, self._store = config, launcher, store
        self._devices, self._predictions, self._placing = devices, predictions, placing
        self._program, self._on_unpredicted = program, on_unpredicted
        self._known: dict[str, ModelFit] = {}
        self._following = AfterChanges(store, _KINDS, self._renew)
        self.revision = 0  # of all answers

    def of(self, model_id: str) -> ModelFit:
        """Returns the last answer for this model."""
        return self._known.get(model_id, UNKNOWN)

    async def now(self, model: Model) -> ModelFit:
        """Returns an answer by what is free at this moment."""
        await self._predictions.load()
        try:
            program = await self._program(model.settings.engine)
        except MagidError as error:
            return ModelFit(Fits.UNKNOWN, error.message)
        return self._fit(model, program, await self._placing.holders.memory())

    def look_again(self) -> None:
        """Has all answers made again, soon."""
        self._following.again()

    def open(self) -> None:
        """Begins to keep the answers."""
        self._following.open()

    async def close(self) -> None:
        """Idempotent."""
        await self._following.close()

    async def _renew(self) -> None:
        try:
            await self._predictions.load()
            await self._look()
        except Exception:  # the next change is another try
            log.exception("finding out whether models fit failed with an internal error")
        await asyncio.sleep(pause_s(self._launcher.observed().values()))

    async def _look(self) -> None:
        """Makes all answers, and lets others run after each: there may be thousands."""
        models, found = self._store.snapshot.models, dict[str, ModelFit]()
        programs = await self._programs(model.settings.engine for model in models.values())
        memory = await self._placing.holders.memory()
        for model_id, model in models.items():
            program = programs[model.settings.engine]
            if isinstance(program, MagidError):
                found[model_id] = ModelFit(Fits.UNKNOWN, program.message)
                continue
            found[model_id] = self._fit(model, program, memory)
            await asyncio.sleep(0)
        lacking = {
            i for i, model in models.items()
            if isinstance(programs[model.settings.engine], LlamaProgram)
            and self._lacks_prediction(found[i])
        }  # fmt: skip
        wanted = self._store.snapshot.wanted.specs
        self._on_unpredicted([spec for spec in wanted if spec.model_id in lacking])
        if found != self._known:
            self._known = found
            self.revision += 1
            self._store.notify(Change("memory"))

    async def _programs(
        self, engines: Iterable[str | None]
    ) -> dict[str | None, LlamaProgram | MagidError]:
        found: dict[str | None, LlamaProgram | MagidError] = {}
        for engine in set(engines):
            try:
                found[engine] = await self._program(engine)
            except MagidError as error:
                found[engine] = error
        return found

    def _lacks_prediction(self, fit: ModelFit) -> bool:
        """Returns whether a prediction would say more. Without GPUs, not of what surely fits."""
        is_sure = fit.fits is Fits.YES and not self._devices.present.gpus
        return fit.source != "predicted" and not is_sure

    def _fit(self, model: Model, program: LlamaProgram, memory: MachineMemory) -> ModelFit:
        specs = server_specs(model, self._config.llama_server_host, model.entry.ports or (0,))
        spec = specs[0]
        listed = self._devices.of(spec.engine).present
        if listed.listed_at is None:
            return ModelFit(Fits.UNKNOWN, listed.problem or "the GPUs are not listed yet")
        decision = self._placing.decided_by_now(spec, program, memory, model.port)
        answer = decision.answer
        running = self._running(specs)
        made = self._basis(decision, spec, program)
        if made is None or made.estimate is None:
            found = self.by_header(model, spec, memory, decision)
            return found if running is None else _running_fit(found, running, decision.problem)
        verdict = (
            verdict_of(made, self._room(spec, memory))
            if answer is None
            else verdict_placed(answer, made.estimate, memory.available)
        )
        if running is not None:
            verdict = verdict_running(running, made.estimate)
        return _fit_of(verdict, made.estimate)

    def by_header(
        self,
        model: Model,
        spec: ServerSpec,
        memory: MachineMemory,
        decision: Decision,
        failure: str = "",
    ) -> ModelFit:
        """Returns what the header of the model's file allows to say.

        `failure` is why llama-server predicted nothing when it was asked: it may not load the file.
        """
        estimated = header_estimate(spec, facts_of(model))
        gpus = self._devices.of(spec.engine).present.gpus
        capacity = self._placing.holders.capacity(gpus, memory, model.port, engine=spec.engine)
        problem = failure or decision.problem or NOT_PREDICTED
        verdict = verdict_estimated(estimated, spec, decision.answer, capacity, problem)
        if failure and verdict.fits is Fits.YES:
            verdict = Verdict(Fits.UNKNOWN, f"{failure}; {verdict.why}")
        return _fit_by_header(verdict, estimated, spec, capacity)

    def _basis(
        self, decision: Decision, spec: ServerSpec, program: LlamaProgram
    ) -> Prediction | None:
        """Returns the prediction that the answer rests on; None: on none."""
        if decision.answer is None:
            return self._predictions.kept(spec, program)
        return deciding(decision.answer, decision.known) if decision.known else None

    def _room(self, spec: ServerSpec, memory: MachineMemory) -> Room:
        limit = self._placing.holders.limit_of(spec)
        return Room(self._devices.of(spec.engine).present.gpus, memory.available, limit)

    def _running(self, specs: tuple[ServerSpec, ...]) -> ObservedServer | None:
        """Returns a server that runs with just these settings."""
        observed = self._launcher.observed()
        servers = ((spec, observed.get(spec.port)) for spec in specs)
        ready = ((a, b) for a, b in servers if b is not None and b.state is ServerState.READY)
        return next((server for spec, server in ready if server.spec_hash == spec.hash), None)


def pause_s(servers: Iterable[ObservedServer]) -> float:
    """Returns how long to wait after a look before the next one. Pure."""
    return LOADING_S if any(server.state.is_loading for server in servers) else SETTLE_S


def _running_fit(found: ModelFit, running: ObservedServer, problem: str) -> ModelFit:
    verdict = verdict_running(running, Estimate())
    is_unplaced = running.place is None and problem not in ("", NOT_PREDICTED)
    aside = f", where llama-server has put it: {problem}" if is_unplaced else ""
    return replace(found, fits=verdict.fits, why=verdict.why + aside)


def _fit_of(verdict: Verdict, estimate: Estimate) -> ModelFit:
    on_devices = sum(one.need.total for one in estimate.devices)
    return ModelFit(verdict.fits, verdict.why, on_devices, estimate.host_total.total, "predicted")


def _fit_by_header(
    verdict: Verdict, estimate: HeaderEstimate | None, spec: ServerSpec, capacity: Capacity
) -> ModelFit:
    if estimate is None:
        return ModelFit(verdict.fits, verdict.why)
    if is_on_processor(spec, capacity):
        return ModelFit(verdict.fits, verdict.why, 0, estimate.on_processor, "estimated")
    host = estimate.weights - estimate.device_weights
    return ModelFit(verdict.fits, verdict.why, estimate.on_devices, host, "estimated")
