"""Watches one unit: reads it again whenever it may have changed, and announces changes."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from magid.errors import NotReady
from magid.servers.backend import BY_SYSTEMCTL, ObservedServer, ServerState
from magid.servers.systemd.unit_state import (
    FailureReason,
    complaint,
    failure_of,
    invocation_of,
    is_ours,
    observed_from,
    state_of,
)
from magid.systemd.bus import MANAGER, MANAGER_PATH, PROPERTIES, Bus, BusError
from magid.systemd.journal import Journal, matches_of_run
from magid.systemd.unit_names import unit_name, unit_path

log = logging.getLogger(__name__)

_AGAIN_S: Final = 1.0  # after a failed read
# A read takes 2 ms of this process, the bus, and PID 1, which is just starting a server then. So a
# signal leads to one at once where the unit has another state, and else to one for all that come.
_CALM_S: Final = 0.1
_QUOTED_LINES: Final = 2000  # of one start; llama-server logs 100 lines until it is ready
# A process may have ended before the journal has its last lines.
_LOOKS_S: Final = (0.0, 0.05, 0.1, 0.2)
_GONE: Final = frozenset(
    {
        "org.freedesktop.systemd1.NoSuchUnit",
        "org.freedesktop.systemd1.NoSuchJob",
        "org.freedesktop.DBus.Error.UnknownObject",
    }
)


class Seen(Struct, frozen=True):
    """A unit of ours as systemd reports it."""

    server: ObservedServer
    has_job: bool
    group: str = ""  # its control group, while it has one


Reads = Callable[[], Awaitable[Seen | None]]


class PendingState(Struct, eq=False):
    """The state shown for a server while it overrides what systemd reports.

    STARTING while a start is pending, and FAILED if it was refused: both hold until the unit has a
    process other than that of `before`. STOPPING holds until the requested stop is done, so a
    client that sees the server stopped may start it again at once.
    """

    server: ObservedServer
    before: str | None  # invocation id

    @property
    def is_of_stop(self) -> bool:
        return self.server.state is ServerState.STOPPING

    def holds(self, seen: Seen | None) -> bool:
        """Returns whether the pending state overrides this one."""
        return self.is_of_stop or seen is None or seen.server.invocation_id == self.before


class UnitWatcher:
    """Watches one unit. A single task reads it; `announce` is called for every change, in order."""

    def __init__(self, port: int, read: Reads, announce: Callable[[ObservedServer], None]) -> None:
        self.port = port
        self.shown: ObservedServer | None = None  # None: there is no server
        self.turn = asyncio.Lock()  # serialises requests to the launcher, first come first served
        self._read = read
        self._announce = announce
        self._seen: Seen | None = None
        self._pending: PendingState | None = None
        self._own_stop: str | None = None  # invocation id of the last process that magid stopped
        self._marked = asyncio.Event()
        self._requested = self._completed = 0  # numbers of the latest read requested and completed
        self._is_urgent = asyncio.Event()
        self._heard: object = None  # the last state of the unit that a signal has told
        self._is_reading = False
        self._read_done = asyncio.Event()
        self._task = asyncio.create_task(self._follow(), name=f"watch {unit_name(port)}")

    async def end(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    # -- reading -------------------------------------------------------------------------

    def hear(self, state: object) -> None:
        """Marks the unit after a signal that told its state, or none (None).

        It is only told when to read: what is known comes from the read.
        """
        is_other = state is not None and state != self._heard
        self._heard = self._heard if state is None else state
        self.invalidate(at_once=is_other)

    def invalidate(self, *, at_once: bool = True) -> None:
        """Marks the unit as possibly changed: it is read soon. Many marks cause one read."""
        self._marked.set()
        if at_once:
            self._is_urgent.set()

    async def refresh(self, *, at_once: bool = True) -> None:
        """Returns when a read that began after this call has been applied."""
        self._requested += 1
        number = self._requested
        self.invalidate(at_once=at_once)
        while self._completed < number:
            await self._read_done.wait()

    async def calm(self) -> None:
        """Returns when a read that is under way has been applied, or has failed."""
        if self._is_reading:
            await self._read_done.wait()

    async def _follow(self) -> None:
        while True:
            await self._marked.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(_CALM_S):
                    await self._is_urgent.wait()
            self._marked.clear()
            self._is_urgent.clear()
            number = self._requested
            self._is_reading = True
            try:
                self._seen = await self._read()
            except NotReady as error:
                # When the bus is back all units are marked; this covers other failures.
                log.debug("cannot look at %s: %s", unit_name(self.port), error.message)
                asyncio.get_running_loop().call_later(_AGAIN_S, self.invalidate)
                self._end_reading()
                continue
            except Exception:
                log.exception("cannot make out %s", unit_name(self.port))
            self._completed = number
            self._show()
            self._end_reading()

    def _end_reading(self) -> None:
        self._is_reading = False
        self._read_done.set()
        self._read_done = asyncio.Event()

    # -- what is known ---------------------------------------------------------------------

    @property
    def is_running(self) -> bool:
        """Returns whether systemd reports that it runs or will run again."""
        return self._seen is not None and _runs(self._seen.server)

    @property
    def is_stopped(self) -> bool:
        """Returns whether systemd reports that what `expect_stop` was called for is stopped."""
        if self._seen is None or self._seen.has_job or self._own_stop is None:
            return False
        server = self._seen.server
        return server.state is ServerState.STOPPED and server.invocation_id == self._own_stop

    @property
    def group(self) -> str:
        """Returns the unit's control group; "" if it has none, or none is known."""
        return self._seen.group if self._seen is not None else ""

    @property
    def may_exist(self) -> bool:
        """Returns whether the unit exists, or will once the pending start is done."""
        is_starting = (
            self._pending is not None and self._pending.server.state is ServerState.STARTING
        )
        return self._seen is not None or is_starting

    @property
    def is_at_rest(self) -> bool:
        """Returns whether the server is stopped and no change is pending."""
        quiet = self._pending is None and not (self._seen and self._seen.has_job)
        return quiet and (self.shown is None or self.shown.state is ServerState.STOPPED)

    def has_been_made(self, pending: PendingState) -> bool:
        """Returns whether the requested process exists or has ended, or was replaced."""
        if self._pending is not None or self._seen is None:
            return True
        server = self._seen.server
        if server.invocation_id == pending.before:
            return not self._seen.has_job
        return server.pid is not None or not server.state.is_running

    def has_new_process(self, pending: PendingState) -> bool:
        """Returns whether the unit is the requested one and has a new process."""
        if self._seen is None or self._seen.server.spec_hash != pending.server.spec_hash:
            return False
        return self._seen.server.invocation_id not in (None, pending.before)

    # -- showing -------------------------------------------------------------------------

    def expect_start(self, server: ObservedServer) -> PendingState:
        """Shows this state until it is dropped or systemd reports something newer."""
        return self._show_pending(server)

    def expect_stop(self) -> PendingState:
        """Shows the server as stopping, if it runs."""
        assert self.shown is not None, "it was never there"
        self._own_stop = self.shown.invocation_id
        return self._show_pending(replace(self.shown, state=ServerState.STOPPING, reason=""))

    def _show_pending(self, server: ObservedServer) -> PendingState:
        before = self._seen.server.invocation_id if self._seen else None
        self._pending = pending = PendingState(server, before)
        self._show()
        return pending

    def is_current(self, pending: PendingState) -> bool:
        """Returns whether no other change has taken over and systemd reports nothing newer."""
        return self._pending is pending

    def amend(self, pending: PendingState, state: ServerState, reason: str) -> None:
        """Changes the pending state; does nothing if it is over."""
        if self._pending is pending:
            pending.server = replace(pending.server, state=state, reason=reason)
            self._show()

    def drop(self, pending: PendingState) -> None:
        """Shows systemd's state again. Does nothing if another pending state has taken over."""
        if self._pending is pending:
            self._pending = None
            self._show()

    def _show(self) -> None:
        if self._pending is not None and self._pending.holds(self._seen):
            if not self._pending.is_of_stop or (self.shown and _runs(self.shown)):
                self._put(self._pending.server)
            return
        self._pending = None
        if self._seen is not None:
            self._put(self._explained(_onward(self.shown, self._seen.server)))
        elif self.shown is not None:
            self._put(_ended(self.shown))

    def _explained(self, server: ObservedServer) -> ObservedServer:
        """Returns `server`; without its reason if that is systemctl, and may have been magid.

        systemd does not tell them apart, and what is found stopped at the first look may have been
        stopped by an earlier magid.
        """
        if server.reason != BY_SYSTEMCTL:
            return server
        if self.shown is None:
            self._own_stop = server.invocation_id
        return replace(server, reason="") if server.invocation_id == self._own_stop else server

    def _put(self, server: ObservedServer) -> None:
        if server != self.shown:
            self.shown = server
            self._announce(server)


def _runs(server: ObservedServer) -> bool:
    return server.state.is_running or server.state is ServerState.BACKOFF


def _onward(shown: ObservedServer | None, server: ObservedServer) -> ObservedServer:
    """Returns `server`; a loading process, too busy to answer, stays loading."""
    if shown is None or shown.invocation_id != server.invocation_id:
        return server
    if (shown.state, server.state) == (ServerState.LOADING, ServerState.STARTING):
        return replace(server, state=ServerState.LOADING)
    return server


def _ended(server: ObservedServer) -> ObservedServer:
    """Returns the state of a server whose unit is gone."""
    return replace(
        server, state=ServerState.STOPPED, reason="", pid=None, started_at=None, ready_at=None
    )


# -- one read --------------------------------------------------------------------------------


class UnitReader:
    """Reads the unit of one port from the current bus, with error messages from the journal."""

    def __init__(self, port: int, bus: Callable[[], Bus], journal: Journal) -> None:
        self._name, self._path = unit_name(port), unit_path(port)
        self._bus = bus
        self._journal = journal
        self._quoted: tuple[object, str] = (None, "")  # key of the quoted failure, and the quote
        self._is_loaded = False  # by the last read

    async def __call__(self) -> Seen | None:
        """Returns the unit; None if it does not exist or is not ours. Raises BusError."""
        properties = await self._properties()
        self._is_loaded = properties is not None and is_ours(properties)
        if properties is None or not is_ours(properties):
            return None
        failure, run = failure_of(properties), invocation_of(properties)
        if failure is None:
            self._quoted = (None, "")
        elif self._quoted[0] != (run, failure.witness):
            # Once per failure: the log of a failed unit does not grow.
            words = await _quote(self._journal, run, failure)
            self._quoted = ((run, failure.witness), words)
        number, _ = properties.get("Job", (0, "/"))
        group = str(properties.get("ControlGroup", ""))
        return Seen(observed_from(properties, self._quoted[1]), bool(number), group)

    async def _properties(self) -> dict[str, Any] | None:
        """Returns the unit's properties and some of others; None if it is not loaded.

        To read the object of a unit that is not loaded would load it, and lead to signals of that.
        So systemd is asked first; one that went away since the last read ends with the signals.
        """
        bus = self._bus()
        try:
            if not self._is_loaded:
                await bus.call(MANAGER_PATH, MANAGER, "GetUnit", "s", self._name)
            (properties,) = await bus.call(self._path, PROPERTIES, "GetAll", "s", "")
        except BusError as error:
            if error.name in _GONE:
                return None
            raise
        if properties.get("LoadState") == "not-found":
            return None
        more = {
            "JobType": await _job_type(bus, properties),
            "TargetStopped": await _target_stopped(bus, properties),
        }
        return {**properties, **more}


async def _job_type(bus: Bus, properties: dict[str, Any]) -> str:
    """Returns the job's type; "" if there is no job. In the other states a job changes nothing."""
    number, path = properties.get("Job", (0, "/"))
    if not number or state_of(properties) not in _TELLING:
        return ""
    interface = "org.freedesktop.systemd1.Job"
    try:
        return str((await bus.call(path, PROPERTIES, "Get", "ss", interface, "JobType"))[0])
    except BusError as error:
        if error.name in _GONE:
            return ""
        raise


async def _target_stopped(bus: Bus, properties: dict[str, Any]) -> int:
    """Returns when magi-models.target was last stopped, in us; 0 if it was not, or is not asked."""
    if state_of(properties) is not ServerState.STOPPED:
        return 0
    name, interface = "InactiveEnterTimestampMonotonic", "org.freedesktop.systemd1.Unit"
    try:
        return int((await bus.call(TARGET, PROPERTIES, "Get", "ss", interface, name))[0])
    except BusError as error:
        if error.name in _GONE:
            return 0
        raise


TARGET: Final = f"{MANAGER_PATH}/unit/magi_2dmodels_2etarget"
_TELLING: Final = frozenset({ServerState.READY, ServerState.STOPPED, ServerState.FAILED})


async def _quote(journal: Journal, run: str | None, failure: FailureReason) -> str:
    """Returns the failed process's message, if it reaches the journal soon. Never raises."""
    if run is None or failure.witness is None:
        return ""
    for pause in _LOOKS_S:
        await asyncio.sleep(pause)
        try:
            entries = await journal.last(matches_of_run(run), _QUOTED_LINES)
        except NotReady as error:
            log.warning("%s", error.message)
            return ""
        if found := complaint([(entry.pid, entry.text) for entry in entries], failure):
            return found
    return ""
