"""Decides where a server starts: asks for what the rules need to know, and keeps what was decided.

The rules are `gpus.placing` and `gpus.eviction`. What runs keeps its place: a decision is made for
a start, and its reservation counts until the server is observed. Decisions are made one after
another; of several that wait together, the largest model's first.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct, field
from msgspec.structs import replace

from magid.config.settings import Config
from magid.control.devices import DeviceList
from magid.control.engine_devices import EngineDevices
from magid.control.holders import Holders, MachineMemory, Reservation
from magid.control.overheads import Overheads
from magid.control.prediction_cache import Prediction
from magid.control.predictions import Predictions
from magid.control.refusals import not_allocated, refusal, refuse_undrafted, unplaced
from magid.control.returning import ReturningMemory
from magid.control.verdicts import destination
from magid.control.wishes import (
    FileFacts,
    as_placement,
    renamed,
    surely,
    wish_of,
    with_devices,
)
from magid.errors import MagidError
from magid.gpus import eviction, prompt_cache
from magid.gpus.capacity import Capacity, freed_by, ids_of
from magid.gpus.eviction import Evictable, Stopping, Waiting
from magid.gpus.memory_table import Estimate
from magid.gpus.placing import Answer, NoDevice, NoRoom, Question, UnknownRoom, Wish, decide
from magid.host.memory_limits import memory_within
from magid.llama.placement import Placement
from magid.llama.program import LlamaProgram, ProgramOf
from magid.llama.server_shape import cache_ram
from magid.llama.spec import ServerSpec
from magid.log.events import Event, about
from magid.servers.backend import ServerBackend

log = logging.getLogger(__name__)

NOT_PREDICTED: Final = "its memory was not predicted yet"
MAX_AGE_S: Final = 5.0  # of the list of GPUs when a start asks for its place
LONGEST_S: Final = 30.0  # ... and when that is decided, if others were decided before it


class _Waiting(Struct):
    spec: ServerSpec
    answer: "asyncio.Future[Placement | None]"
    failed: Placement | None
    since: float = field(default_factory=time.monotonic)

    @property
    def max_age_s(self) -> float:
        """Returns how old the list may be: one serves all starts that were asked for together."""
        return max(MAX_AGE_S, min(time.monotonic() - self.since, LONGEST_S))


class _Unpredictable(Exception):
    pass


class Decision(Struct, frozen=True):
    """Where a server would start now, or why it would not, and by which prediction."""

    answer: Placement | NoRoom | NoDevice | None  # None: llama-server chooses
    known: Mapping[Question, Prediction] = field(default_factory=dict)
    problem: str = ""


class Placing:
    """Makes one decision after another. `facts` are those of a model by its id."""

    def __init__(
        self,
        config: Config,
        launcher: ServerBackend,
        devices: EngineDevices,
        predictions: Predictions,
        program: ProgramOf,
        facts: Callable[[str], FileFacts],
        machine: Callable[[], Mapping[str, int]] = memory_within,
        overheads: Path | None = None,
    ) -> None:
        """`overheads` is the file that keeps what servers take beyond their predictions."""
        self._config, self._launcher = config, launcher
        self._devices, self._predictions = devices, predictions
        self._program, self._facts = program, facts
        self.holders = Holders(config, launcher, machine)
        self._overheads = Overheads(devices, program, overheads)
        self.holders.overheads = self._overheads.of
        self.holders.is_listed = devices.know
        self._waiting: list[_Waiting] = []
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False
        self._returning = ReturningMemory(devices)
        self.refused: dict[int, tuple[str, MagidError]] = {}  # by port: hash of the spec, and why

    @property
    def has_gpus(self) -> bool:
        """Returns whether llama-server has listed GPUs."""
        return bool(self._devices.present.gpus)

    @property
    def knows_gpus(self) -> bool:
        """Returns whether llama-server has listed the GPUs, or that there are none."""
        listed = self._devices.present
        return listed.listed_at is not None and not listed.is_unknown

    def open(self) -> None:
        """Begins to observe servers, whose memory comes back when they have stopped."""
        self._launcher.subscribe(self._returning.on_server)
        self._launcher.subscribe(self._overheads.on_server)
        self._overheads.open(self._launcher.observed())

    def on_list(self) -> None:
        """To be called after each list of the GPUs."""
        self._returning.on_list()

    async def close(self) -> None:
        """Ends the decision that is being made; those who wait for one get none. Idempotent."""
        self._is_closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for waiting in self._waiting:
            waiting.answer.cancel()
        await self._overheads.close()

    # -- starts ----------------------------------------------------------------------------

    async def place(self, spec: ServerSpec, failed: Placement | None = None) -> Placement | None:
        """Returns where this server starts, and reserves its memory there; see `release`.

        With `failed`, a place where it could not allocate its memory: elsewhere. None leaves it to
        llama-server: without a GPU, or without a prediction. Raises DoesNotFit, DeviceMissing,
        DraftMissing.
        """
        reserved = self.holders.reserved(spec)
        if reserved is not None and failed is None:
            return reserved.passed
        waiting = _Waiting(spec, asyncio.get_running_loop().create_future(), failed)
        # Before its turn: no start waits for the list of another one's engine.
        await self._devices.of(spec.engine).fresh(MAX_AGE_S)
        self._waiting.append(waiting)
        if self._is_closed:
            waiting.answer.cancel()
        elif self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())
        return await waiting.answer

    def release(self, port: int) -> None:
        """Drops the reservation: the server is observed, or will not start. Idempotent."""
        self.holders.release(port)

    def drop(self, model_id: str) -> None:
        """Drops the reservations of the model's servers. Idempotent."""
        self.holders.drop(model_id)

    async def _work(self) -> None:
        while self._waiting:
            if self._devices.present.gpus:
                self._waiting.sort(key=lambda one: self._order(one.spec))
            waiting = self._waiting.pop(0)
            if waiting.answer.done():
                continue  # cancelled
            try:
                found = await self._placed(waiting)
            except MagidError as error:
                self.refuse(waiting.spec, error)
                if not waiting.answer.done():
                    waiting.answer.set_exception(error)
            except Exception as error:  # any: the start must not wait for ever
                if not waiting.answer.done():
                    waiting.answer.set_exception(error)
            else:
                self.refused.pop(waiting.spec.port, None)
                if waiting.answer.done():  # called off meanwhile
                    self.release(waiting.spec.port)
                else:
                    waiting.answer.set_result(found)

    def refuse(self, spec: ServerSpec, error: MagidError) -> None:
        """Notes why this server has no place, until one is found."""
        self.refused[spec.port] = spec.hash, error

    def _order(self, spec: ServerSpec) -> tuple[bool, int]:
        """Those that must go to one device first, then the largest."""
        return spec.device is None, -self._facts(spec.model_id).size_bytes

    async def _placed(self, waiting: _Waiting) -> Placement | None:
        spec, failed = waiting.spec, waiting.failed
        refuse_undrafted(spec, self._facts(spec.model_id).missing_draft)
        await self._returning.wait(spec.engine)
        devices = self._devices.of(spec.engine)
        await self._overheads.check(spec.engine)
        if failed is not None:
            self.release(spec.port)
            await devices.refresh()
        decision = await self.decided(spec, failed, for_start=True, max_age_s=waiting.max_age_s)
        if isinstance(decision.answer, NoDevice):  # it may have come since the last list
            await devices.refresh()
        if isinstance(decision.answer, NoDevice | NoRoom):
            decision = await self.decided(spec, failed, for_start=True)
        match decision.answer:
            case NoRoom() if failed is not None:
                raise not_allocated(spec, failed)
            case NoRoom() | NoDevice() as refused:
                raise refusal(spec, refused, devices.present)
            case Placement() as placement:
                return self._reserve(spec, placement)
            case _:
                return unplaced(spec, devices.present, decision.problem)

    def _reserve(self, spec: ServerSpec, placement: Placement) -> Placement | None:
        """Returns what its start gets: without GPUs a context, if one was chosen, and a bound."""
        listed = self._devices.of(spec.engine).present
        if placement.extent == "own" and not placement.pins_devices:
            placement = with_devices(placement, unplaced(spec, listed, "as its arguments say"))
        is_chosen = bool(listed.gpus) or placement.ctx_size is not None
        if is_chosen:
            _log_decision(spec, placement)
        passed = placement if is_chosen else prompt_cache.bound_alone(placement)
        self.holders.reserve(Reservation(spec, placement, passed))
        self._overheads.begin(spec, placement)
        return passed

    # -- decisions -------------------------------------------------------------------------

    async def decided(
        self, spec: ServerSpec, failed: Placement | None = None, *,
        for_start: bool = False, max_age_s: float = MAX_AGE_S,
    ) -> Decision:  # fmt: skip
        """Returns where this server would start now. Reserves nothing. `failed`: see `place`.

        `max_age_s` is that of the list of GPUs. Raises Busy unless it is `for_start`; see
        `Predictions.of`.
        """
        known: dict[Question, Prediction] = {}
        try:
            while True:
                memory, listed = await self._memory_and_gpus(spec, max_age_s)
                if listed.is_unknown:
                    return Decision(None)
                gpus, limit = listed.gpus, self.holders.limit_of(spec)
                capacity = self.holders.capacity(gpus, memory, spec.port, limit, spec.engine)
                if failed is not None:
                    capacity = capacity.without({one.id for one in failed.devices})
                answer = self._answer(spec, capacity, known)
                if not isinstance(answer, Question):
                    return Decision(None if isinstance(answer, UnknownRoom) else answer, known)
                known[answer] = await self._predicted(spec, answer, for_start=for_start)
        except _Unpredictable as error:
            return Decision(None, known, str(error))

    async def _memory_and_gpus(
        self, spec: ServerSpec, max_age_s: float = MAX_AGE_S
    ) -> tuple[MachineMemory, DeviceList]:
        """Returns what is free now. What is decided by it holds until something else is awaited.

        The list may take long: memory comes after it. Both know all servers that are ready.
        """
        devices = self._devices.of(spec.engine)
        while True:
            await devices.fresh(max_age_s)
            memory = await self.holders.memory()
            if devices.is_current:
                return memory, devices.present

    def decided_by_now(
        self, spec: ServerSpec, program: LlamaProgram, memory: MachineMemory, port: int | None
    ) -> Decision:
        """As `decided`, by what was listed and predicted before: asks llama-server for nothing.

        Its `problem` says what is not known yet. The server on `port` counts as gone.
        """
        gpus, limit = self._devices.of(spec.engine).present.gpus, self.holders.limit_of(spec)
        known: dict[Question, Prediction] = {}
        capacity = self.holders.capacity(gpus, memory, port, limit, spec.engine)
        while isinstance(answer := self._answer(spec, capacity, known), Question):
            placement = as_placement(spec, answer, gpus)
            made = self._predictions.kept(spec, program, placement)
            if made is None or made.estimate is None:
                return Decision(None, known, NOT_PREDICTED if made is None else made.problem)
            known[answer] = renamed(made, placement)
        return Decision(None if isinstance(answer, UnknownRoom) else answer, known)

    def _answer(
        self, spec: ServerSpec, capacity: Capacity, known: Mapping[Question, Prediction]
    ) -> Answer:
        """Returns what the rules say. Without GPUs, what surely fits is not predicted."""
        capacity = prompt_cache.beside(capacity, cache_ram(spec) or 0)
        sure = surely(spec, self._facts(spec.model_id), capacity)
        answer: Answer = sure or decide(self._wish(spec), capacity, _estimates(known))
        if isinstance(answer, Placement):
            return prompt_cache.with_cache(answer, capacity, cache_ram(spec))
        return answer

    def _wish(self, spec: ServerSpec) -> Wish:
        return wish_of(spec, self._facts(spec.model_id), self._config.ctx_default_max)

    async def room_for(
        self, spec: ServerSpec, candidates: Sequence[Evictable]
    ) -> Stopping | Waiting | None:
        """Returns which of these models, in the order of their last use, have to stop for it.

        Where none has to, its place is reserved. None: llama-server chooses. Raises as `place`.
        """
        refuse_undrafted(spec, self._facts(spec.model_id).missing_draft)
        await self._returning.wait(spec.engine)
        await self._overheads.check(spec.engine)
        known: dict[Question, Prediction] = {}
        try:
            while True:
                memory, listed = await self._memory_and_gpus(spec)
                if listed.is_unknown:
                    return None
                found = self._verdict(spec, candidates, memory, listed, known)
                if not isinstance(found, Question):
                    break
                known[found] = await self._predicted(spec, found, for_start=True)
        except _Unpredictable:
            return None
        if isinstance(found, UnknownRoom):
            return None
        if isinstance(found, NoRoom | NoDevice):
            raise refusal(spec, found, listed)
        if isinstance(found, Stopping) and not found.model_ids:
            self._reserve(spec, found.placement)
        return found

    def _verdict(
        self,
        spec: ServerSpec,
        candidates: Sequence[Evictable],
        memory: MachineMemory,
        listed: DeviceList,
        known: Mapping[Question, Prediction],
    ) -> eviction.Verdict:
        gpus, limit = listed.gpus, self.holders.limit_of(spec)
        others = [one for one in self.holders.all(memory, spec.engine) if one.port != spec.port]

        def capacity(gone: frozenset[str]) -> Capacity:
            return self.holders.capacity_without(gone, gpus, memory, others, limit, spec.engine)

        def place(gone: frozenset[str]) -> Answer:
            return self._answer(spec, capacity(gone), known)

        wish, now = self._wish(spec), capacity(frozenset())
        may_help = eviction.could_fit(wish, now, _estimates(known), freed_by(others, gpus))
        return eviction.make_room(self._with_devices(candidates), place, may_help)

    def _with_devices(self, candidates: Sequence[Evictable]) -> list[Evictable]:
        found: dict[str, frozenset[str]] = {}
        ids = ids_of(self._devices.present.gpus)
        for one in self.holders.all():
            held = frozenset(ids.get(device.id, device.id) for device in one.placement.devices)
            found[one.model_id] = found.get(one.model_id, frozenset()) | held
        return [replace(one, devices=found.get(one.model_id, frozenset())) for one in candidates]

    async def _predicted(
        self, spec: ServerSpec, question: Question, *, for_start: bool
    ) -> Prediction:
        try:
            program = await self._program(spec.engine)
        except MagidError as error:
            raise _Unpredictable(error.message) from None
        gpus = self._devices.of(spec.engine).present.gpus
        placement = as_placement(spec, question, gpus)
        found = await self._predictions.of(spec, program, placement, for_start=for_start)
        if found.estimate is None:
            if gpus:
                log.warning(
                    "llama-server chooses where %s runs: %s", spec.model_id, found.problem,
                    extra=about(Event.SERVER_STARTING, model=spec.model_id),
                )  # fmt: skip
            raise _Unpredictable(found.problem)
        return renamed(found, placement)


def _estimates(known: Mapping[Question, Prediction]) -> dict[Question, Estimate]:
    return {q: made.estimate for q, made in known.items() if made.estimate is not None}


def _log_decision(spec: ServerSpec, placement: Placement) -> None:
    level = logging.WARNING if placement.extent in ("part", "none") else logging.INFO
    log.log(
        level, "%s goes to %s", spec.model_id, destination(placement),
        extra=about(Event.SERVER_PLACED, model=spec.model_id, port=spec.port),
    )  # fmt: skip
