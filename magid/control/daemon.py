"""The daemon's core: one method for each operation of the API.

`StateStore` owns the snapshot (models, decisions, profile), `PlanExecutor` the starts and stops in
progress. The state of running servers is not kept here: the server backend is queried for it.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from msgspec.structs import replace

from magid.catalog import registry
from magid.catalog.effective import Model
from magid.catalog.profile_store import ProfileDir
from magid.catalog.registry import ModelEntry, with_settings
from magid.config.settings import Config
from magid.control import boot, conditions, planner, transitions
from magid.control.audit_log import StateLog, log_decision
from magid.control.boot import Boot
from magid.control.conditions import DaemonCondition, Situation
from magid.control.executor import PlanExecutor
from magid.control.gpus import GpuState
from magid.control.planner import Plan
from magid.control.profiles import Profiles
from magid.control.removal import Removals
from magid.control.scanning import Scanning, Scans
from magid.control.snapshot import Phase, Snapshot
from magid.control.state import Change, StateStore, Writes
from magid.control.transitions import Rescan, Transition
from magid.discovery.scanner import Scanner
from magid.discovery.tiers import Tier
from magid.files.document import Store
from magid.host.control_groups import controllers
from magid.llama.program import ProgramOf
from magid.log.events import Event, about
from magid.servers.backend import ObservedServer, ServerBackend

log = logging.getLogger(__name__)


class Daemon:
    """The daemon's core. Runs on the event loop; blocking work runs in threads."""

    def __init__(
        self,
        *,
        config: Config,
        store: Store,
        profiles: ProfileDir,
        scanner: Scanner,
        launcher: ServerBackend,
        program: ProgramOf,
    ) -> None:
        self.config = config
        self.launcher = launcher
        self.phase = Phase.SCANNING
        self.knows_models = False  # the first scan has ended, successfully or not
        self._scanner = scanner
        self._store = StateStore(config, store, profiles)
        self.profiles = Profiles(profiles, self._store)
        self.gpus = GpuState(config, launcher, program, self._store, lambda: self._boot.resume())
        self.removals = Removals(config, launcher, self._store, self.rescan)
        self._executor = PlanExecutor(launcher, self.gpus.machine, self.gpus.placing)
        self.why_stopped = self._executor.why_stopped
        self._scanning = Scanning(config, scanner, self._store)
        path = config.state_dir / boot.NAME
        self._boot = Boot(path, launcher, self._executor, self._scanning, self._store, self.gpus)
        self._task: asyncio.Task[None] | None = None

    # -- life ----------------------------------------------------------------------------

    async def open(self) -> None:
        """Loads the stored decisions and begins to observe servers.

        Quick: a task then scans the folders and does what is left of the boot. Raises CannotWrite
        where continuing would lose data.
        """
        await self._store.load()
        self.launcher.subscribe(StateLog().on_change)
        self.launcher.subscribe(lambda server: self._store.notify(Change("server", server.port)))
        await self.launcher.open()
        await self._boot.load()
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        """Scans, does what is left of the boot, then keeps watching the model folders."""
        await self._scanning.first()
        self.knows_models = True
        await self.gpus.open()  # not before: it runs a process, and nothing at a start waits for it
        await self._executor.wait_idle()  # a user may have begun a change first
        if self.phase is Phase.DRAINING:
            self._store.notify(Change("phase"))  # wakes listeners that wait for the models
            return
        self._set_phase(Phase.STARTING)
        await self._boot.proceed()
        if self.phase is Phase.STARTING:
            self._set_phase(Phase.SERVING)
        await self._scanning.keep_looking(self._after_scan)

    async def _after_scan(self) -> None:
        self._cancel_unwanted()
        self._boot.resume()

    def drain(self) -> None:
        """Announces the shutdown: /readyz answers 503 from now on, and boot starts nothing more."""
        self._boot.end()
        self._set_phase(Phase.DRAINING)

    async def close(self) -> None:
        """Ends all tasks, completes writes and closes the server backend. Idempotent."""
        self._scanner.stop()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.removals.close()
        self._scanning.close()
        await self._boot.close()
        await self._executor.close()
        await self.gpus.close()
        await self.launcher.close()
        await self._store.close()
        await asyncio.to_thread(self._scanner.close)

    # -- reading -------------------------------------------------------------------------

    @property
    def snapshot(self) -> Snapshot:
        """Returns the current snapshot."""
        return self._store.snapshot

    def refresh_profile(self) -> None:
        """Reloads the active profile if its file has changed. Costs one `stat`. Idempotent."""
        self._store.refresh_profile()

    def model(self, model_id: str) -> Model:
        """Returns the model.

        Raises ModelNotFound, ModelGone if its file does not exist, NotReady before the first scan.
        """
        return transitions.find(self.snapshot, model_id)

    def observed(self) -> dict[int, ObservedServer]:
        return self.launcher.observed()

    @property
    def writes(self) -> Writes:
        """Returns the counts of registry writes."""
        return self._store.writes

    @property
    def queued_ports(self) -> frozenset[int]:
        """Returns the ports of servers whose start is queued."""
        return frozenset(self._executor.queued)

    def make_plan(self) -> Plan:
        """Returns the plan that `apply` would carry out now."""
        return planner.plan(self.snapshot.wanted, self.observed())

    def restart_required(self, model_id: str) -> bool:
        """Returns whether this model's running servers differ from the wanted ones."""
        return not planner.only(model_id, self.snapshot.wanted, self.observed()).is_empty

    def conditions(self) -> list[DaemonCondition]:
        """Returns what is not as it should be, or not as wanted; errors first."""
        unknown = (self._scanning.problem, self.launcher.problem)
        return conditions.conditions(
            Situation(
                self.phase, self.snapshot, self.observed(), self.make_plan(), self.queued_ports,
                self.launcher.masked, controllers(), self.gpus.placing.refused,
                self._executor.left_out.by_port, unknown,
            )
        )  # fmt: skip

    def subscribe(self, listener: Callable[[Change], None]) -> Callable[[], None]:
        """Calls `listener` for each change from now on; it must not block.

        The result unsubscribes.
        """
        return self._store.subscribe(listener)

    # -- the disk ------------------------------------------------------------------------

    async def rescan(self) -> Rescan:
        """Reads the model folders again; see `Scanning.rescan`."""
        try:
            return await self._scanning.rescan()
        finally:
            self._cancel_unwanted()

    @property
    def scans(self) -> Scans:
        """Returns the counts of scans."""
        return self._scanning.scans

    # -- what the user decides -------------------------------------------------------------

    async def set_tier(self, model_id: str, tier: Tier | None) -> Model:
        _, model = await self._update(model_id, lambda e: replace(e, tier_override=tier))
        return model

    async def set_thinking(self, model_id: str, thinking: bool | None) -> tuple[Model, bool]:
        """Sets the thinking override; returns the model and whether its effective tier changed."""
        before, model = await self._update(
            model_id, lambda e: replace(e, thinking_override=thinking)
        )
        return model, model.tier is not before.tier

    async def set_enabled(self, model_id: str, enabled: bool | None) -> Model:
        """Enables or disables the model.

        Raises PortTaken, and changes nothing, if the model cannot get the ports it needs.
        """
        _, model = await self._update(
            model_id,
            lambda e: replace(e, enabled_override=enabled),
            asks_for_ports=True,
        )
        return model

    async def set_all_enabled(self, enabled: bool) -> int:
        """Enables or disables all models; returns how many were not so before."""
        before, after = await self._store.change(lambda now: transitions.all_enabled(now, enabled))
        changed = [i for i, model in before.models.items() if model.enabled is not enabled]
        for model_id in changed:
            log_decision(before.models[model_id].entry, transitions.find(after, model_id))
        self._cancel_unwanted()
        return len(changed)

    async def set_settings(self, model_id: str, given: Mapping[str, Any]) -> Model:
        """Changes these runtime settings of the model, by name; None clears one.

        Raises PortTaken, and changes nothing, if there are too few ports for its instances.
        """
        _, model = await self._update(model_id, lambda e: with_settings(e, given))
        return model

    async def set_port(self, model_id: str, port: int | None, *, exchange: bool = False) -> Model:
        """Pins the model's port. With `exchange` a model that has it, unpinned, takes this one's.

        Raises InvalidInput outside the range, PortTaken if the port belongs to another model.
        """
        in_range = self.config.port_range
        _, model = await self._decide(
            model_id,
            lambda now: transitions.pinned(now, model_id, port, in_range, exchange=exchange),
        )
        return model

    async def _update(
        self,
        model_id: str,
        change: Callable[[ModelEntry], ModelEntry],
        *,
        asks_for_ports: bool = False,
    ) -> tuple[Model, Model]:
        """Changes a model's registry entry; returns the model before and after the change."""
        found = await self._decide(
            model_id,
            lambda now: transitions.edited(now, model_id, change, asks_for_ports=asks_for_ports),
        )
        self._cancel_unwanted()
        return found

    async def _decide(
        self, model_id: str, decide: Callable[[Snapshot], Transition]
    ) -> tuple[Model, Model]:
        """Changes the registry and logs the decision; returns the model before and after it.

        `StateStore.change` calls `decide` under its lock, then saves and announces the result.
        """
        before, after = await self._store.change(decide)
        old, new = transitions.find(before, model_id), transitions.find(after, model_id)
        log_decision(old.entry, new)
        return old, new

    def _cancel_unwanted(self) -> None:
        """Cancels queued starts of models that are now disabled or gone."""
        wanted = {spec.model_id for spec in self.snapshot.wanted.specs}
        queued = self._executor.queued.items()
        self._executor.cancel_queued(port for port, spec in queued if spec.model_id not in wanted)

    # -- profiles --------------------------------------------------------------------------

    async def activate(self, name: str, *, apply: bool, dry_run: bool = False) -> Plan:
        """Makes `name` the active profile, durably; returns the plan.

        Begins the plan if `apply` is set. With `dry_run` nothing changes.
        """

        def choose(now: Snapshot) -> Transition:
            active = self._store.profile(name)
            return Transition(replace(now.registry, active_profile=name), active=active)

        if dry_run:
            draft = self._store.preview(choose(self.snapshot))
            return planner.plan(draft.wanted, self.observed())
        await self._store.change(choose)
        log.info("profile %r is active", name, extra=about(Event.PROFILE_ACTIVATED, profile=name))
        self._store.notify(Change("profile"))
        self._cancel_unwanted()
        if not apply:
            return self.make_plan()
        await self._executor.wait_idle()
        return self.apply()

    # -- servers ---------------------------------------------------------------------------

    def apply(self) -> Plan:
        """Begins to bring the running servers to the wanted state; returns the plan."""
        plan = self.make_plan()
        wanted = {line.spec.port for line in plan.start} | self.snapshot.wanted.on_demand
        self._executor.execute(plan, cancel=self._executor.queued.keys() - wanted)
        return plan

    def start(self, model_id: str) -> asyncio.Task[None]:
        """Begins to start the model's servers.

        Servers that already run as wanted are left alone.
        """
        known = transitions.startable(self.snapshot, model_id).model_id
        return self._executor.execute(planner.only(known, self.snapshot.wanted, self.observed()))

    def restart(self, model_id: str) -> asyncio.Task[None]:
        """Begins to stop the model's servers and to start the wanted ones."""
        known = transitions.startable(self.snapshot, model_id).model_id
        return self._executor.execute(planner.restart(self.snapshot.wanted, known, self.observed()))

    async def wait_idle(self) -> None:
        """Waits until no server is being started or stopped.

        A change begun right afterwards is not refused with Busy.
        """
        await self._executor.wait_idle()

    def restart_server(self, port: int) -> asyncio.Task[None]:
        """Begins to restart one server, if it is wanted. Raises Busy."""
        return self._executor.execute(
            planner.restart_one(self.snapshot.wanted, port, self.observed())
        )

    def stop(self, model_id: str) -> asyncio.Task[None]:
        """Begins to stop the model's servers, whether or not it is enabled or its file exists.

        Failed servers are reset to stopped.
        """
        known = self.resolve_id(model_id)
        self._boot.decline([known])
        plan = planner.stop_model(known, self.observed().values())
        queued = [p for p, spec in self._executor.queued.items() if spec.model_id == known]
        return self._executor.execute(plan, cancel=queued)

    def stop_all(self) -> Plan:
        """Begins to stop all servers and cancels all queued starts."""
        self._boot.decline()
        plan = planner.stop_all(self.observed().values(), "stop asked for")
        self._executor.execute(plan, cancel=self._executor.queued)
        return plan

    def start_all(self) -> Plan:
        """Begins to start every wanted server that does not run as wanted, or is being stopped."""
        executor = self._executor
        running = {p: s for p, s in self.observed().items() if p not in executor.stopping}
        plan = executor.behind_stops(planner.start_all(self.snapshot.wanted, running))
        executor.execute(plan, behind_stops=True)
        return plan

    async def finished(
        self,
        model_id: str,
        work: asyncio.Task[None],
        timeout_s: float,
        *,
        first_try: bool = False,
    ) -> None:
        """Waits until `work` is done and the model's servers have settled.

        Raises TimedOut (the work continues), ServerFailed with the reason of the first failure, and
        Conflict if a later request or the shutdown cancelled the work.
        """
        known = self.resolve_id(model_id)
        ports = {spec.port for spec in self.snapshot.wanted.specs if spec.model_id == known}
        await self._executor.finished(known, ports, work, timeout_s, first_try=first_try)

    def resolve_id(self, model_id: str) -> str:
        """Returns the full model id.

        The model's file may be missing; the model may also be one that is only known because its
        server still runs. Raises ModelNotFound.
        """
        running = {server.model_id for server in self.observed().values()}
        return registry.resolve_id(model_id, running | self.snapshot.registry.models.keys())

    # -- inside ----------------------------------------------------------------------------
    def _set_phase(self, phase: Phase) -> None:
        self.phase = phase
        log.info("magid is %s", phase, extra=about(Event.PHASE))
        self._store.notify(Change("phase"))
