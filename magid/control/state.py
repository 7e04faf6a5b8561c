"""Owns the current snapshot, and the only way to change it.

A change runs under one lock: it computes the next registry from the current snapshot, saves it
durably, swaps the snapshot, then notifies the listeners. Readers take the frozen snapshot and never
wait. Runs on the event loop; disk access runs in threads.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from magid.catalog import registry
from magid.catalog.profile_store import ProfileDir
from magid.catalog.registry import Registry, document_of
from magid.config.settings import Config
from magid.control import snapshot
from magid.control.snapshot import ActiveProfile, Disk, Snapshot
from magid.control.transitions import Transition
from magid.control.undrafted import gone_drafts
from magid.errors import CannotWrite, Conflict, MagidError, PortTaken
from magid.files.document import Store
from magid.log.events import Event, about
from magid.servers.listeners import Listeners

log = logging.getLogger(__name__)

T = TypeVar("T")


class Change(Struct, frozen=True):
    """A change that listeners should react to. `port` is set for kind `server` only."""

    kind: str  # registry | profile | server | phase | gpus | memory
    port: int | None = None


class Writes(Struct):
    """Counts of registry writes since the start."""

    done: int = 0
    failed: int = 0
    last_at: float | None = None  # end of the last successful write; seconds since the epoch


class StateStore:
    """Owns the store, the active profile and the current snapshot."""

    def __init__(self, config: Config, store: Store, profiles: ProfileDir) -> None:
        self._config = config
        self._store = store
        self._profiles = profiles
        self._lock = asyncio.Lock()
        self._work: set[asyncio.Task[Any]] = set()
        self._closed = False
        self._durable: Registry | None = None  # content of the store
        self._store_problems: tuple[str, ...] = ()
        self._write_problem = ""  # of the last write, if it failed
        self.absent_engines: frozenset[str] = frozenset()  # that models have been given
        self.writes = Writes()
        self._listeners: Listeners[Change] = Listeners()
        self._present = snapshot.build(0, Registry(), Disk(), ActiveProfile(), config, ())

    async def load(self) -> None:
        """Loads the stored decisions. Raises CannotWrite where the store must not be touched."""
        loaded = await asyncio.to_thread(self._store.load, registry.parse)
        self._store_problems = tuple(loaded.problems)
        for problem in loaded.problems:
            log.error("%s", problem, extra=about(Event.STATE_PROBLEM))
        self._durable = loaded.value
        stored = loaded.value or Registry()
        if stored.active_profile is None:
            stored = replace(stored, active_profile=self._config.profile)
        self._swap(stored, active=self._as_it_is(stored.active_profile))

    async def close(self) -> None:
        """Refuses new changes and waits for those in progress. Idempotent."""
        self._closed = True
        await asyncio.gather(*self._work, return_exceptions=True)

    # -- reading -------------------------------------------------------------------------

    @property
    def snapshot(self) -> Snapshot:
        """Returns the current snapshot."""
        return self._present

    def refresh_profile(self) -> None:
        """Reloads the active profile if its file has changed. Costs one `stat`. Idempotent."""
        active = self._present.active
        if active.name is None or self._profiles.revision(active.name) == active.revision:
            return
        log.info(
            "the file of the active profile %r changed", active.name,
            extra=about(Event.PROFILE_EDITED, profile=active.name),
        )  # fmt: skip
        self._swap(self._present.registry, active=self._as_it_is(active.name))
        self.notify(Change("profile"))
        if not self._closed:
            self._spawn(self._keep_ports())

    async def _keep_ports(self) -> None:
        """Saves the ports that models of an edited profile may have got, for the next start."""
        try:
            async with self._lock:
                await self._change(lambda now: Transition(now.registry))
        except CannotWrite as error:
            log.error("%s", error.message, extra=about(Event.STATE_PROBLEM, error=error.code))

    def profile(self, name: str) -> ActiveProfile:
        """Returns this profile as it is on disk. Raises ProfileNotFound, InvalidProfile."""
        revision = self._profiles.revision(name)  # first: a later edit shows as new
        return ActiveProfile(name, self._profiles.get(name), revision)

    def _as_it_is(self, name: str | None) -> ActiveProfile:
        """Returns the active profile as on disk; if the file is broken, the last good content."""
        if name is None:
            return ActiveProfile()
        revision = self._profiles.revision(name)
        try:
            return ActiveProfile(name, self._profiles.get(name), revision)
        except MagidError as error:
            log.error(
                "%s", error.message,
                extra=about(Event.PROFILE_PROBLEM, profile=name, error=error.code),
            )  # fmt: skip
            last = self._present.active
            good = last.profile if last.name == name else None
            return ActiveProfile(name, good, revision, error.message)

    # -- changing ------------------------------------------------------------------------

    async def change(self, decide: Callable[[Snapshot], Transition]) -> tuple[Snapshot, Snapshot]:
        """Applies the change that `decide` computes; returns the snapshots before and after it.

        An error, including one that `decide` raises, changes nothing. Raises CannotWrite, and
        PortTaken for `ports_for`. Runs to its end even if the caller is cancelled.
        """
        return await self.exclusive(lambda: self._change(decide))

    def preview(self, wish: Transition) -> Snapshot:
        """Returns the snapshot that a change would lead to. Changes nothing."""
        return self._build(wish.registry, wish.disk, wish.active)

    async def exclusive(self, work: Callable[[], Awaitable[T]]) -> T:
        """Runs `work` under the lock. Runs to its end even if the caller is cancelled.

        Otherwise a cancelled caller would release the lock while its thread still writes.
        """
        if self._closed:
            raise Conflict("cannot change anything: magid is shutting down; try again in a moment")

        async def locked() -> T:
            async with self._lock:
                return await work()

        return await asyncio.shield(self._spawn(locked()))

    def note_disk(self, disk: Disk) -> None:
        """Stores the state of the disk when there is nothing to save."""
        self._swap(self._present.registry, disk=disk)

    def note_absent_engines(self, names: frozenset[str]) -> None:
        """Stores which of the engines that models have been given are not installed."""
        self.absent_engines = names
        self._swap(self._present.registry)

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)
        return task

    async def _change(self, decide: Callable[[Snapshot], Transition]) -> tuple[Snapshot, Snapshot]:
        """Applies a change. The lock must be held."""
        self.refresh_profile()
        before = self._present
        wish = decide(before)
        draft = self._build(wish.registry, wish.disk, wish.active)
        without_port = {one.model_id for one in draft.wanted.blocked if not one.engine}
        if wish.ports_for and wish.ports_for in without_port:
            raise self._no_port(wish.ports_for or "")
        if self._is_worth_writing(draft.registry):
            try:
                await self._save(draft.registry)
            except CannotWrite as error:
                log.error("%s", error.message, extra=about(Event.STATE_PROBLEM, error=error.code))
                self._write_problem = error.message
                self.writes.failed += 1
                if wish.even_unwritten:
                    self._swap(draft.registry, wish.disk, wish.active)
                else:
                    self._swap(self._present.registry)
                raise
        # Disk and profile may have been reloaded during the write: the latest ones count.
        self._swap(draft.registry, wish.disk, wish.active)
        return before, self._present

    def _is_worth_writing(self, new: Registry) -> bool:
        """Returns whether the registry must be written.

        A scan that changed nothing is not written: it would push out a good generation of the
        store.
        """
        if self._durable is None:
            return True
        return replace(new, last_scan=self._durable.last_scan) != self._durable

    async def _save(self, new: Registry) -> None:
        document = document_of(new)
        await asyncio.to_thread(self._store.save, document)
        self._durable, self._write_problem = new, ""
        self.writes.done += 1
        self.writes.last_at = time.time()

    def _no_port(self, model_id: str) -> PortTaken:
        low, high = self._config.port_range
        return PortTaken(
            f"cannot give {model_id!r} the ports it needs: too few of {low}-{high} are free; "
            "disable another model, or widen port_range in magid.yaml",
            modelId=model_id,
        )

    def _build(self, new: Registry, disk: Disk | None, active: ActiveProfile | None) -> Snapshot:
        present = self._present
        problems = self._store_problems
        if self._write_problem:
            problems = (self._write_problem, *problems)
        made = snapshot.build(
            present.revision + 1,
            new,
            present.disk if disk is None else disk,
            present.active if active is None else active,
            self._config,
            problems,
            self.absent_engines,
        )
        gone = gone_drafts(present.models, present.gone_drafts, made.models)
        return replace(made, gone_drafts=gone) if gone else made

    def _swap(
        self, new: Registry, disk: Disk | None = None, active: ActiveProfile | None = None
    ) -> None:
        self._present = self._build(new, disk, active)
        self.notify(Change("registry"))

    # -- listeners ------------------------------------------------------------------------

    def subscribe(self, listener: Callable[[Change], None]) -> Callable[[], None]:
        """Calls `listener` for each change from now on; it must not block.

        The result unsubscribes; it is idempotent.
        """
        return self._listeners.subscribe(listener)

    def notify(self, change: Change) -> None:
        """Calls all listeners; see `Listeners.notify`."""
        self._listeners.notify(change)
