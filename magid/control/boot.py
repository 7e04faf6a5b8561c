"""Boot: the one time at which magid starts servers by itself.

The models that a boot has still to start are written down before the first of them starts. So a
boot that a crash of magid interrupts is finished by the next start, and any other start of magid
changes no server. The record lies in the state directory: it is the one folder that magid may write
to in every set-up, and the boot's id in it tells whether it still holds.
"""

import asyncio
import json
import logging
from collections.abc import Coroutine, Iterable
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from magid.control import planner
from magid.control.executor import PlanExecutor
from magid.control.gpus import GpuState
from magid.control.planner import BootRecord, Due
from magid.control.scanning import Scanning
from magid.control.snapshot import Snapshot
from magid.control.state import Change, StateStore
from magid.errors import CannotWrite
from magid.files.atomic import cannot_write, discard, write_temporary
from magid.log.events import Event, about
from magid.servers.backend import ServerBackend

log = logging.getLogger(__name__)

NAME: Final = "boot.json"


class Boot:
    """Owns what this boot has still to start. Runs on the event loop; disk access in threads."""

    def __init__(
        self,
        path: Path,
        launcher: ServerBackend,
        executor: PlanExecutor,
        scanning: Scanning,
        store: StateStore,
        gpus: GpuState,
    ) -> None:
        self._path = path
        self._launcher = launcher
        self._executor = executor
        self._scanning = scanning
        self._store = store
        self._gpus = gpus
        self._lacking: frozenset[str] = frozenset()  # due, tried, and without their device
        self._due: Due | None = None  # None: no scan has succeeded in this boot
        self._declined: frozenset[str] = frozenset()  # stopped by a user before that
        self._turn = asyncio.Lock()
        self._saving = asyncio.Lock()
        self._written: BootRecord | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_over = False

    async def load(self) -> None:
        """Reads the record. The backend must be open. An unreadable record counts as none."""
        self._written = await asyncio.to_thread(read, self._path)
        self._due = planner.still_due(self._written, self._launcher.boot)
        self._store.subscribe(self.on_change)

    async def proceed(self) -> None:
        """Starts the due models whose files are there; returns when all are ready or have failed.

        Models whose files or engines are missing or do not answer, or whose GPU is not there, stay
        due until a later call. Does nothing while the content of the folders is unknown.
        Idempotent.
        """
        async with self._turn:
            if self._scanning.problem:
                return
            if self._due is None:
                snapshot = self._store.snapshot
                away = (entry.model_id for found in snapshot.away.values() for entry in found)
                lacking = _without_engine(snapshot)
                self._due = planner.due_at_boot(
                    snapshot.wanted, (*away, *lacking), self._scanning.late
                )
                self.decline(self._declined)
                await self._save()
            await self._executor.wait_idle()
            if self._due.is_empty or self._is_over:
                return
            snapshot = self._store.snapshot
            before = self._due.model_ids
            waiting = frozenset(filter(self._gpus.lacks_device, self._lacking))
            answered = snapshot.answered(before, self._due.folders)
            held = answered & _without_engine(snapshot)
            now = answered - held - waiting
            plan = planner.at_boot(snapshot.wanted, self._launcher.observed(), now)
            left = self._due.folders & frozenset(self._scanning.late)
            await asyncio.wait([self._executor.execute(plan)])
            lacking = frozenset(filter(self._gpus.lacks_device, now & self._due.model_ids))
            self._lacking = waiting | lacking
            due = (self._due.model_ids - now) | lacking | (held - before)
            self._due = Due(due, left & self._due.folders)
            await self._save()

    def on_change(self, change: Change) -> None:
        """Begins `proceed` when a GPU that a due model has waited for is listed."""
        is_list = change.kind == "gpus" and bool(self._lacking)
        if is_list and not all(map(self._gpus.lacks_device, self._lacking)):
            self.resume()

    def resume(self) -> None:
        """Begins `proceed`; called after each scan, and when an engine is back."""
        if not (self._is_over or (self._due is not None and self._due.is_empty)):
            self._spawn(self.proceed())

    def decline(self, model_ids: Iterable[str] | None = None) -> None:
        """Takes these models off this boot's list: a user has stopped them. None: all."""
        before = self._due
        if model_ids is None:
            self._due = Due()
        elif before is None:
            self._declined |= frozenset(model_ids)
        else:
            self._due = replace(before, model_ids=before.model_ids - frozenset(model_ids))
        if self._due != before:
            self._spawn(self._save())

    def end(self) -> None:
        """Starts nothing more. Idempotent."""
        self._is_over = True

    async def close(self) -> None:
        """Ends what is in progress; what has not been started stays due. Idempotent."""
        self.end()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._save()

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._note_end)

    def _note_end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the boot was interrupted by an internal error", exc_info=error)

    async def _save(self) -> None:
        """Writes the record if it has changed. A failure is logged.

        What was not written is started once more if magid is restarted.
        """
        async with self._saving:
            if self._due is None:
                return
            record = BootRecord(self._launcher.boot, self._due)
            if record == self._written:
                return
            writing = asyncio.create_task(asyncio.to_thread(write, self._path, record))
            try:
                await _to_its_end(writing)
                self._written = record
            except CannotWrite as error:
                log.error("%s", error.message, extra=about(Event.STATE_PROBLEM, error=error.code))


def _without_engine(snapshot: Snapshot) -> frozenset[str]:
    """Returns the wanted models whose engine is not installed."""
    return frozenset(line.model_id for line in snapshot.wanted.blocked if line.engine)


async def _to_its_end(task: asyncio.Task[None]) -> None:
    """Waits for the task also when the caller is cancelled: two writes must not overlap."""
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def read(path: Path) -> BootRecord | None:
    """Returns the record; None if there is none or it cannot be used. Blocks."""
    try:
        content = json.loads(path.read_bytes())
        models, folders = (frozenset(map(str, content[key])) for key in ("due", "folders"))
        return BootRecord(str(content["boot"]), Due(models, folders))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write(path: Path, record: BootRecord) -> None:
    """Replaces the record. Blocks. Raises CannotWrite."""
    due = record.due
    content = {
        "boot": record.boot, "due": sorted(due.model_ids), "folders": sorted(due.folders),
    }  # fmt: skip
    try:
        temporary = write_temporary(path, json.dumps(content).encode() + b"\n", mode=0o640)
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        temporary.replace(path)
    except OSError as error:
        discard(temporary)
        raise cannot_write(path, error) from error
