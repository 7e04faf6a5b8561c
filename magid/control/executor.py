"""Carries out plans: the only caller of `ServerBackend.start` and `stop`.

Each start first gets its place. Starts on one device run one after another; others run in parallel,
as `turns` decides. A queued start can be cancelled. A model whose process is being created or ended
is changing: a second change of it is refused with Busy. Loading is a state and not a change, so a
model can be stopped while it loads.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Container, Coroutine, Iterable
from typing import Any, Protocol

from msgspec.structs import replace

from magid.control.loading import LeftOut, has_failed, lacked_memory, loaded, without_extras
from magid.control.planner import Plan, Start, Stop
from magid.control.refusals import not_allocated
from magid.control.resources import MachineResources
from magid.control.turns import Turn, turn_of, waits_for
from magid.errors import Busy, Conflict, MagidError, ServerFailed, TimedOut
from magid.llama.placement import Placement
from magid.llama.spec import ServerSpec
from magid.log.events import Event, about
from magid.servers.backend import ObservedServer, ServerBackend, ServerState

log = logging.getLogger(__name__)

_Task = asyncio.Task[None]


class Places(Protocol):
    """Decides where servers start; see `Placing`."""

    async def place(
        self, spec: ServerSpec, failed: Placement | None = None
    ) -> Placement | None: ...

    def release(self, port: int) -> None: ...

    def refuse(self, spec: ServerSpec, error: MagidError) -> None: ...


class PlanExecutor:
    """Executes plans. Not thread-safe: everything happens on the event loop."""

    def __init__(
        self, launcher: ServerBackend, machine: MachineResources, places: "Places"
    ) -> None:
        self._launcher = launcher
        self._machine = machine
        self._places = places
        self.left_out = LeftOut()
        self._changing: Counter[str] = Counter()  # model id -> its changing servers
        self._calm = asyncio.Event()
        self._calm.set()
        self._stops: dict[int, tuple[str, _Task]] = {}  # by port: model id, and the stop under way
        self._stopped: dict[int, tuple[str, str]] = {}  # by port: the last process, and why
        self._queued: dict[int, tuple[ServerSpec, _Task]] = {}  # by port
        self._line: dict[_Task, Turn] = {}  # unfinished starts that have a place, in that order
        self._tasks: set[_Task] = set()
        self._plans: set[_Task] = set()
        self._closed = False

    @property
    def queued(self) -> dict[int, ServerSpec]:
        """Returns port -> spec of the servers whose start is queued. A copy."""
        return {port: spec for port, (spec, _) in self._queued.items()}

    @property
    def stopping(self) -> frozenset[int]:
        """Returns the ports whose servers are being stopped."""
        return frozenset(self._stops)

    def why_stopped(self, port: int, process: str) -> str:
        """Returns why a process was stopped, or is being stopped, on this port.

        By magid, or by a person with systemctl; "" if neither is known.
        """
        known, reason = self._stopped.get(port, ("", ""))
        if known == process:
            return reason
        server = self._launcher.observed().get(port)
        return server.stopped_by if server is not None else ""

    def behind_stops(self, plan: Plan) -> Plan:
        """Returns the part of the plan that needs to wait for nothing but stops under way."""
        stopping = Counter(model_id for model_id, _ in self._stops.values())
        stops = {line.model_id for line in plan.stop}
        busy = {i for i, n in self._changing.items() if i in stops or n > stopping[i]}
        return replace(
            plan,
            stop=tuple(line for line in plan.stop if line.model_id not in busy),
            start=tuple(line for line in plan.start if line.spec.model_id not in busy),
        )

    def execute(
        self, plan: Plan, *, cancel: Iterable[int] = (), behind_stops: bool = False
    ) -> _Task:
        """Begins to carry out `plan`; the task ends when each server has stopped, loaded or failed.

        Queued starts on the ports `cancel` are dropped first. Raises Busy, before anything changes,
        if a model of the plan is changing; with `behind_stops`, starts wait for the stops of their
        models instead. A start that is already queued is not queued twice. The
        task raises the first error, and Conflict where a start was cancelled or ended by a stop.
        The task need not be awaited, and cancelling it does not undo the plan.
        """
        self._check(Plan() if behind_stops else plan)
        self.cancel_queued(cancel)
        self.cancel_queued(line.port for line in plan.stop)
        stops = [self._begin_stop(line) for line in plan.stop]
        starts = [self._enqueue(line, stops) for line in plan.start]
        task = asyncio.create_task(_all(stops + starts))
        self._plans.add(task)
        task.add_done_callback(self._plan_ended)
        return task

    async def finished(
        self,
        model_id: str,
        ports: Container[int],
        work: _Task,
        timeout_s: float,
        *,
        first_try: bool = False,
    ) -> None:
        """Waits until `work` is done and the model's servers have settled.

        With `first_try` a server that ended and will be restarted has failed: its cause is known.

        Raises what `work` raises, TimedOut (the work continues), or ServerFailed with the reason if
        a server on one of `ports` has failed. A failure on a port the model had before does not
        count.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(work)
                for server in self._servers_of(model_id):
                    first = await loaded(self._launcher, server.port) if first_try else None
                    if first is None or first.state is ServerState.READY:
                        await self._launcher.settled(server.port)
        except TimeoutError:
            raise TimedOut(
                f"cannot wait longer for {model_id!r}: it has not finished after {timeout_s:g} s; "
                "GET /api/models/servers shows its state",
                modelId=model_id,
            ) from None
        for server in self._servers_of(model_id):
            is_broken = server.state is ServerState.FAILED or (
                first_try and server.state is ServerState.BACKOFF
            )
            if is_broken and server.port in ports:
                raise ServerFailed(
                    f"cannot run {model_id!r}: {server.reason}; "
                    f"GET /api/models/servers/{model_id}/logs shows more",
                    modelId=model_id,
                    port=server.port,
                )

    def _servers_of(self, model_id: str) -> list[ObservedServer]:
        return [s for s in self._launcher.observed().values() if s.model_id == model_id]

    async def wait_idle(self) -> None:
        """Waits until no model is changing.

        A plan begun right afterwards is not refused with Busy.
        """
        while self._changing:
            await self._calm.wait()

    def cancel_queued(self, ports: Iterable[int]) -> None:
        """Cancels the queued starts on these ports. Idempotent."""
        for port in list(ports):
            if port in self._queued:
                self._queued.pop(port)[1].cancel()

    async def close(self) -> None:
        """Ends all work in progress; servers stay as they are. Idempotent."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        # Plans are not cancelled: they end with Conflict, which their waiters receive.
        await asyncio.gather(*self._tasks, *self._plans, return_exceptions=True)

    def _check(self, plan: Plan) -> None:
        if self._closed:
            raise Conflict("cannot change a server: magid is shutting down; try again in a moment")
        busy = sorted(plan.model_ids & self._changing.keys())
        if busy:
            raise Busy(
                f"cannot change {busy[0]!r}: another change of it is under way; try again when it "
                "is done",
                modelId=busy[0],
            )

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> _Task:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: _Task) -> None:
        self._tasks.discard(task)
        self._line.pop(task, None)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, MagidError):
            level = logging.WARNING if isinstance(error, Conflict) else logging.ERROR
            extra = about(
                Event.CHANGE_FAILED, error=error.code, model=error.details.get("modelId"),
                port=error.details.get("port"),
            )  # fmt: skip
            log.log(level, "%s", error.message, extra=extra)
        elif error is not None:
            log.error("a start or stop failed with an internal error", exc_info=error)

    def _plan_ended(self, task: _Task) -> None:
        self._plans.discard(task)
        if not task.cancelled():
            task.exception()  # logged where it was raised; this marks it as retrieved

    # -- stops ---------------------------------------------------------------------------

    def _begin_stop(self, line: Stop) -> _Task:
        # Mark the model as changing now, not when the task first runs: of two concurrent requests
        # only one may pass.
        self._enter(line.model_id)
        server = self._launcher.observed().get(line.port)
        if server is not None:
            self._stopped[line.port] = (server.process, line.reason)
        task = self._spawn(self._stop(line))
        self._stops[line.port] = (line.model_id, task)
        return task

    async def _stop(self, line: Stop) -> None:
        log.info(
            "stopping the server on port %d (%s): %s", line.port, line.model_id, line.reason,
            extra=about(Event.SERVER_STOPPING, model=line.model_id, port=line.port),
        )  # fmt: skip
        try:
            await self._launcher.stop(line.port)
        finally:
            self._stops.pop(line.port, None)
            self._leave(line.model_id)

    # -- starts --------------------------------------------------------------------------

    def _enqueue(self, line: Start, stops: list[_Task]) -> _Task:
        """Queues the start behind the stops, and behind those of its port and its model."""
        spec = line.spec
        queued = self._queued.get(spec.port)
        if queued and queued[0] == spec:
            return queued[1]
        self.cancel_queued([spec.port])
        ahead = [t for p, (i, t) in self._stops.items() if p == spec.port or i == spec.model_id]
        task = self._spawn(self._start(line, stops + ahead))
        self._queued[spec.port] = (spec, task)
        return task

    async def _start(self, line: Start, ahead: list[_Task]) -> None:
        spec = line.spec
        if ahead:
            await asyncio.wait(ahead)
        try:
            placement = await self._place(spec)
            self.left_out.forget(spec.port)
            # No longer queued but changing: from here on it cannot be cancelled.
            self._unqueue(spec.port)
            log.info(
                "starting %s on port %d: %s", spec.model_id, spec.port, line.reason,
                extra=about(Event.SERVER_STARTING, model=spec.model_id, port=spec.port),
            )  # fmt: skip
            await self._begin(spec, placement)
        finally:
            self._unqueue(spec.port)
            self._places.release(spec.port)
        server = await loaded(self._launcher, spec.port)
        chosen = placement if placement and placement.source == "predicted" else None
        if chosen is not None and server is not None and lacked_memory(server):
            server = await self._start_elsewhere(spec, chosen, server.reason)
        elif server is not None and has_failed(server):
            server = await self._start_plain(spec, placement, server)
        if server is not None and server.state is ServerState.STOPPED:
            raise Conflict(
                f"cannot finish the start of {spec.model_id!r}: it was stopped meanwhile; "
                "start it again",
                modelId=spec.model_id,
            )

    async def _place(self, spec: ServerSpec) -> Placement | None:
        """Returns where it starts, when its turn to load there has come.

        It waits for starts that got their place before it and for no other: none waits for ever.
        """
        placement = await self._places.place(spec)
        mine = turn_of(spec, self._machine.need_of(spec), placement)
        earlier = list(self._line)
        if (task := asyncio.current_task()) is not None:
            self._line[task] = mine
        while left := {task: self._line[task] for task in earlier if task in self._line}:
            ahead = waits_for(mine, left, await self._machine.processors())
            if not ahead:
                break
            await asyncio.wait(ahead, return_when=asyncio.FIRST_COMPLETED)
        return placement

    async def _start_elsewhere(
        self, spec: ServerSpec, failed: Placement, reason: str
    ) -> ObservedServer | None:
        """Starts a server once more whose memory a device has refused. No crash: none is counted.

        Raises DoesNotFit if there is no other place, or that refuses it too: it is stopped then.
        """
        log.warning(
            "%s has got no memory where it was to start: %s", spec.model_id, reason,
            extra=about(Event.SERVER_STARTING, model=spec.model_id, port=spec.port),
        )  # fmt: skip
        await self._end(spec)
        try:
            placement = await self._places.place(spec, failed)
            await self._begin(spec, placement)
        finally:
            self._places.release(spec.port)
        server = await loaded(self._launcher, spec.port)
        if placement and placement.decides_place and server is not None and lacked_memory(server):
            await self._end(spec)
            error = not_allocated(spec, placement)
            self._places.refuse(spec, error)
            raise error
        return server

    async def _start_plain(
        self, spec: ServerSpec, placement: Placement | None, failed: ObservedServer
    ) -> ObservedServer | None:
        """Starts a server once more without what was found beside its model, if there is any.

        A draft makes answers faster and changes none of them, and adapters have names of their own:
        no model may fail by them.
        """
        if (found := without_extras(spec)) is None:
            return failed
        plain, extras = found
        self.left_out.note(spec, extras, failed.reason)
        await self._end(spec)
        await self._begin(plain, placement)
        return await loaded(self._launcher, spec.port)

    async def _end(self, spec: ServerSpec) -> None:
        self._enter(spec.model_id)
        try:
            await self._launcher.stop(spec.port)
        finally:
            self._leave(spec.model_id)

    def _unqueue(self, port: int) -> None:
        """Takes this task's own start out of the queue; a later one of the port stays."""
        queued = self._queued.get(port)
        if queued is not None and queued[1] is asyncio.current_task():
            del self._queued[port]

    async def _begin(self, spec: ServerSpec, placement: Placement | None) -> None:
        self._enter(spec.model_id)
        try:
            await self._launcher.start(spec, placement)
        except MagidError as error:
            if (found := without_extras(spec)) is None or not (spec.draft_path or spec.lora_paths):
                raise
            plain, extras = found
            self.left_out.note(spec, extras, error.message)
            await self._launcher.start(plain, placement)
        finally:
            self._leave(spec.model_id)

    # -- what is changing ----------------------------------------------------------------

    def _enter(self, model_id: str) -> None:
        self._changing[model_id] += 1
        self._calm.clear()

    def _leave(self, model_id: str) -> None:
        self._changing[model_id] -= 1
        if not self._changing[model_id]:
            del self._changing[model_id]
        if not self._changing:
            self._calm.set()


async def _all(tasks: list[_Task]) -> None:
    if tasks:
        await asyncio.wait(tasks)
    for task in tasks:
        if task.cancelled():
            raise Conflict(
                "cannot finish the change: it was cancelled by a later one, or by the shutdown of "
                "magid; GET /api/models/servers shows the result"
            )
        if error := task.exception():
            raise error
