"""Decides where a server starts: asks for what the rules need to know, and keeps what was decided.

The rules are `gpus.placing` and `gpus.eviction`. What runs keeps its place: a decision is made for
a start, and its reservation counts until the server is observed. Decisions are made one after
another; of several that wait together, the largest model's first.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Final

from msgspec import Struct, field
from msgspec.structs import replace

from magid.config.settings import Config
from magid.control.devices import Devices
from magid.control.prediction_cache import Prediction
from magid.control.predictions import Predictions
from magid.control.refusals import not_allocated, refusal
from magid.control.returning import ReturningMemory
from magid.control.wishes import FileFacts, as_placement, wish_of
from magid.errors import MagidError
from magid.gpus import eviction
from magid.gpus.capacity import Capacity, Holder, capacity_of, need_on
from magid.gpus.device import Gpu
from magid.gpus.eviction import Evictable, Stopping, Waiting
from magid.gpus.memory_table import Estimate
from magid.gpus.placing import (
    Answer,
    NoDevice,
    NoRoom,
    Question,
    UnknownRoom,
    Wish,
    decide,
)
from magid.host.usage import machine_memory
from magid.llama.placement import Placement
from magid.llama.program import LlamaProgram
from magid.llama.spec import ServerSpec
from magid.log.events import Event, about
from magid.servers.backend import ObservedServer, ServerBackend, ServerState
from magid.wording.sizes import size

log = logging.getLogger(__name__)

_NO_LIMIT: Final = 1 << 60
NOT_PREDICTED: Final = "its memory was not predicted yet"
MAX_AGE_S: Final = 5.0  # of the list of GPUs that a decision is made with


class _Waiting(Struct):
    spec: ServerSpec
    answer: "asyncio.Future[Placement | None]"
    failed: Placement | None


class _Unpredictable(Exception):
    pass


class Decision(Struct, frozen=True):
    """Where a server would start now, or why it would not, and by which prediction."""

    answer: Placement | NoRoom | NoDevice | None  # None: llama-server chooses
    known: Mapping[Question, Prediction] = field(default_factory=dict)
    problem: str = ""


class Placing:
    """The one owner of reservations. `facts` are those of a model by its id."""

    def __init__(
        self,
        config: Config,
        launcher: ServerBackend,
        devices: Devices,
        predictions: Predictions,
        program: Callable[[], Awaitable[LlamaProgram]],
        facts: Callable[[str], FileFacts],
    ) -> None:
        self._config, self._launcher = config, launcher
        self._devices, self._predictions = devices, predictions
        self._program, self._facts = program, facts
        self._reserved: dict[int, tuple[ServerSpec, Placement]] = {}  # by port
        self._waiting: list[_Waiting] = []
        self._task: asyncio.Task[None] | None = None
        self._returning = ReturningMemory(devices)
        self.refused: dict[int, tuple[str, MagidError]] = {}  # by port: hash of the spec, and why

    @property
    def has_gpus(self) -> bool:
        """Returns whether llama-server has listed GPUs."""
        return bool(self._devices.present.gpus)

    def open(self) -> None:
        """Begins to observe servers, whose memory comes back when they have stopped."""
        self._launcher.subscribe(self._returning.on_server)

    async def close(self) -> None:
        """Ends the decision that is being made; those who wait for one get none. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for waiting in self._waiting:
            waiting.answer.cancel()

    # -- starts ----------------------------------------------------------------------------

    async def place(self, spec: ServerSpec, failed: Placement | None = None) -> Placement | None:
        """Returns where this server starts, and reserves its memory there; see `release`.

        With `failed`, a place where it could not allocate its memory: elsewhere. None leaves it to
        llama-server: without a GPU, or without a prediction. Raises DoesNotFit, DeviceMissing.
        """
        reserved = self._reserved.get(spec.port)
        if reserved is not None and reserved[0] == spec and failed is None:
            return reserved[1]
        waiting = _Waiting(spec, asyncio.get_running_loop().create_future(), failed)
        self._waiting.append(waiting)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())
        return await waiting.answer

    def release(self, port: int) -> None:
        """Drops the reservation: the server is observed, or will not start. Idempotent."""
        self._reserved.pop(port, None)

    def drop(self, model_id: str) -> None:
        """Drops the reservations of the model's servers. Idempotent."""
        for port, (spec, _) in list(self._reserved.items()):
            if spec.model_id == model_id:
                self.release(port)

    async def _work(self) -> None:
        while self._waiting:
            if (await self._devices.fresh(MAX_AGE_S)).gpus:
                self._waiting.sort(key=lambda one: self._order(one.spec))
            waiting = self._waiting.pop(0)
            if waiting.answer.done():
                continue  # cancelled
            try:
                found = await self._placed(waiting.spec, waiting.failed)
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

    async def _placed(self, spec: ServerSpec, failed: Placement | None) -> Placement | None:
        await self._returning.wait()
        if failed is not None:
            self.release(spec.port)
            await self._devices.refresh()
        decision = await self.decided(spec, failed, for_start=True)
        match decision.answer:
            case NoRoom() if failed is not None:
                raise not_allocated(spec, failed)
            case NoRoom() | NoDevice() as refused:
                raise refusal(spec, refused, self._devices.present)
            case Placement() as placement:
                self._reserved[spec.port] = spec, placement
                _log_decision(spec, placement)
                return placement
            case _:
                return None

    # -- decisions -------------------------------------------------------------------------

    async def decided(
        self, spec: ServerSpec, failed: Placement | None = None, *, for_start: bool = False
    ) -> Decision:
        """Returns where this server would start now. Reserves nothing. `failed`: see `place`.

        Raises Busy unless it is `for_start`; see `Predictions.of`.
        """
        listed = await self._devices.fresh(MAX_AGE_S)
        if not listed.gpus:
            return Decision(None)
        known: dict[Question, Prediction] = {}
        wish = self._wish(spec)
        capacity = self.capacity(listed.gpus, spec.port, await self._host_limit(spec))
        if failed is not None:
            capacity = capacity.without({one.id for one in failed.devices})
        try:
            while isinstance(answer := decide(wish, capacity, _estimates(known)), Question):
                known[answer] = await self._predicted(spec, answer, for_start=for_start)
        except _Unpredictable as error:
            return Decision(None, known, str(error))
        return Decision(None if isinstance(answer, UnknownRoom) else answer, known)

    def decided_by_now(
        self, spec: ServerSpec, program: LlamaProgram, available: int, port: int | None
    ) -> Decision:
        """As `decided`, by what was listed and predicted before: asks llama-server for nothing.

        Its `problem` says what is not known yet. `available` is the machine's memory, and `port`
        that of a server which counts as gone.
        """
        gpus = self._devices.present.gpus
        known: dict[Question, Prediction] = {}
        wish = self._wish(spec)
        capacity = self.capacity(gpus, port, self._limited(spec, available))
        while isinstance(answer := decide(wish, capacity, _estimates(known)), Question):
            made = self._predictions.kept(spec, program, as_placement(spec, answer))
            if made is None or made.estimate is None:
                return Decision(None, known, NOT_PREDICTED if made is None else made.problem)
            known[answer] = made
        return Decision(None if isinstance(answer, UnknownRoom) else answer, known)

    async def room_for(
        self, spec: ServerSpec, candidates: Sequence[Evictable]
    ) -> Stopping | Waiting | None:
        """Returns which of these models, in the order of their last use, have to stop for it.

        Where none has to, its place is reserved. None: llama-server chooses. Raises as `place`.
        """
        await self._returning.wait()
        listed = await self._devices.fresh(MAX_AGE_S)
        if not listed.gpus:
            return None
        known: dict[Question, Prediction] = {}
        wish = self._wish(spec)
        candidates = self._with_devices(candidates)
        host = await self._host_limit(spec)

        def place(gone: frozenset[str]) -> Answer:
            capacity = self._capacity_without(listed.gpus, spec.port, gone, host)
            return decide(wish, capacity, _estimates(known))

        try:
            while isinstance(found := eviction.make_room(candidates, place), Question):
                known[found] = await self._predicted(spec, found, for_start=True)
        except _Unpredictable:
            return None
        if isinstance(found, UnknownRoom):
            return None
        if isinstance(found, NoRoom | NoDevice):
            raise refusal(spec, found, self._devices.present)
        if isinstance(found, Stopping) and not found.model_ids:
            self._reserved[spec.port] = spec, found.placement
            _log_decision(spec, found.placement)
        return found

    def _with_devices(self, candidates: Sequence[Evictable]) -> list[Evictable]:
        found: dict[str, frozenset[str]] = {}
        for one in self.holders():
            names = frozenset(device.name for device in one.placement.devices)
            found[one.model_id] = found.get(one.model_id, frozenset()) | names
        return [replace(one, devices=found.get(one.model_id, frozenset())) for one in candidates]

    def _wish(self, spec: ServerSpec) -> Wish:
        return wish_of(spec, self._facts(spec.model_id), self._config.ctx_default_max)

    async def _predicted(
        self, spec: ServerSpec, question: Question, *, for_start: bool
    ) -> Prediction:
        try:
            program = await self._program()
        except MagidError as error:
            raise _Unpredictable(error.message) from None
        placement = as_placement(spec, question)
        found = await self._predictions.of(spec, program, placement, for_start=for_start)
        if found.estimate is None:
            log.warning(
                "llama-server chooses where %s runs: %s", spec.model_id, found.problem,
                extra=about(Event.SERVER_STARTING, model=spec.model_id),
            )  # fmt: skip
            raise _Unpredictable(found.problem)
        return found

    # -- what servers hold -----------------------------------------------------------------

    def holders(self) -> list[Holder]:
        """Returns what each placed server holds, and those that are about to start."""
        observed = self._launcher.observed()
        held = [
            Holder(server.model_id, port, server.placement, server.state is ServerState.READY)
            for port, server in observed.items()
            if server.placement is not None and holds_memory(server)
        ]
        ports = {one.port for one in held}
        return held + [
            Holder(spec.model_id, port, placement, is_settled=False)
            for port, (spec, placement) in self._reserved.items()
            if port not in ports
        ]

    def capacity(
        self, gpus: Sequence[Gpu], port: int | None = None, host: int = _NO_LIMIT
    ) -> Capacity:
        """Returns the room for one more server; the one on `port` counts as gone."""
        others = [one for one in self.holders() if one.port != port]
        return capacity_of(gpus, host, others, self._config.gpu_reserve)

    async def _host_limit(self, spec: ServerSpec) -> int:
        return self._limited(spec, (await asyncio.to_thread(machine_memory))["available"])

    def _limited(self, spec: ServerSpec, available: int) -> int:
        """Returns what of the machine's memory the server may have, the reserve still included."""
        if spec.memory_max is None or not self._launcher.has_model_users:
            return available
        return min(available, spec.memory_max + self._config.gpu_reserve)

    def _capacity_without(
        self, gpus: Sequence[Gpu], port: int, gone: frozenset[str], host: int
    ) -> Capacity:
        others = [one for one in self.holders() if one.port != port]
        going = [one for one in others if one.model_id in gone]
        left = [one for one in others if one.model_id not in gone]
        now = list(_freed(gpus, going))
        return capacity_of(now, host, left, self._config.gpu_reserve)


def holds_memory(server: ObservedServer) -> bool:
    """Returns whether it has a process, or will have one again without anybody's doing."""
    return server.state.is_running or server.state is ServerState.BACKOFF


def _freed(gpus: Sequence[Gpu], going: Sequence[Holder]) -> Iterator[Gpu]:
    """Returns the GPUs as they will be when these servers have ended."""
    for gpu in gpus:
        device = gpu.device
        back = sum(need_on(device, one.placement) for one in going if one.is_settled)
        if back and device.free is not None and device.total is not None:
            free = min(device.total, device.free + back)
            yield replace(gpu, device=replace(device, free=free))
        else:
            yield gpu


def _estimates(known: Mapping[Question, Prediction]) -> dict[Question, Estimate]:
    return {q: made.estimate for q, made in known.items() if made.estimate is not None}


def _log_decision(spec: ServerSpec, placement: Placement) -> None:
    where = ", ".join(f"{one.name} ({size(one.need)})" for one in placement.devices)
    level = logging.WARNING if placement.extent in ("part", "none") else logging.INFO
    log.log(
        level, "%s goes to %s", spec.model_id, _where(placement, where),
        extra=about(Event.SERVER_PLACED, model=spec.model_id, port=spec.port),
    )  # fmt: skip


def _where(placement: Placement, where: str) -> str:
    match placement.extent:
        case "none":
            return "the processor"
        case "part":
            return f"{where}, and in part to the processor"
        case _:
            return where or "the processor"
