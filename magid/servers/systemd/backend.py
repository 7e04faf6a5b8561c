"""Runs servers as transient units: watched over D-Bus, created and stopped by the launcher.

systemd is the only source of state. Signals only mark a unit as changed, and its properties are
then read again: so no signal can be misread, and a forged one costs one read. The state shown
differs from systemd's only while a request of ours is pending or was refused (see `PendingState`).
A server is ready when its unit is: `standalone/wait_ready` tells systemd as soon as it answers.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace

from magid.errors import Conflict, MagidError, NotFound, ServerFailed
from magid.host.ports import HostPort, can_bind, owners_of
from magid.host.usage import (
    ServerFigures,
    group_figures,
    held_by_process,
    held_in_group,
    process_figures,
)
from magid.launcher import protocol
from magid.launcher.protocol import credential_path
from magid.llama import device_list, file_removal, memory_prediction
from magid.llama.arguments import server_argv
from magid.llama.file_removal import FileIdentity, RemovedFile
from magid.llama.placement import Placement
from magid.llama.program import ProgramOf
from magid.llama.spec import ServerSpec
from magid.log.buffer import LogLine
from magid.servers.backend import ObservedServer, ServerState, initial_state
from magid.servers.listeners import Listeners
from magid.servers.systemd.launcher_client import KEYS, LauncherClient
from magid.servers.systemd.observer import UnitObserver
from magid.servers.systemd.references import References
from magid.servers.systemd.unit_state import figure
from magid.servers.systemd.watcher import PendingState, UnitWatcher
from magid.systemd.bus import PROPERTIES, BusError
from magid.systemd.journal import RUN_FIELDS, Journal, check_cursor, matches_of, run_of
from magid.systemd.unit_names import unit_name, unit_path

log = logging.getLogger(__name__)

_QUEUE_S: Final = 120.0  # for a job in systemd's queue: magi-gpu.service may take a minute
_MARGIN_S: Final = 60.0  # what the launcher may take beyond llama-server's own time


class SystemdBackend:
    """A ServerBackend that uses systemd and the privileged launcher.

    `close` leaves servers running. `profile` returns the active profile's name, for the units'
    description. `stop_timeout_s` is how long servers may take to end. `address` is that of a bus
    other than the system bus.
    """

    def __init__(
        self,
        program: ProgramOf,
        *,
        profile: Callable[[], str | None] = lambda: None,
        launcher: LauncherClient | None = None,
        keys: Path = KEYS,
        journal: Journal | None = None,
        stop_timeout_s: float = 10.0,
        address: str | None = None,
    ) -> None:
        self._program = program
        self._profile = profile
        self._launcher = launcher or LauncherClient()
        self._keys = keys
        self._journal = journal or Journal()
        self._timeout_s = stop_timeout_s + _MARGIN_S
        self._units = UnitObserver(address, self._journal, self._announce, self._mark_launcher)
        self._listeners: Listeners[ObservedServer] = Listeners()
        self._changed = asyncio.Event()
        self._references: References | None = None
        self._requests: set[asyncio.Task[None]] = set()
        self._closed = False

    has_model_users = True

    @property
    def problem(self) -> str:
        """See ServerBackend."""
        return self._units.problem

    @property
    def masked(self) -> frozenset[str]:
        """See ServerBackend."""
        return self._units.masked

    @property
    def boot(self) -> str:
        """See ServerBackend."""
        return self._units.boot

    # -- life ----------------------------------------------------------------------------

    async def open(self) -> None:
        """Reads all existing units. Raises BusError if systemd cannot be reached."""
        await self._units.open()
        self._references = References(
            lambda: any(watched.may_exist for watched in self._units.watched.values()),
            lambda: self._units.bus,
            lambda: self._launcher.call(protocol.Ping(), self._timeout_s),
        )
        self._references.mark()

    async def close(self) -> None:
        """Stops watching. Requests already sent to the launcher are carried out. Idempotent."""
        self._closed = True
        requests = list(self._requests)
        for task in requests:
            task.cancel()
        await asyncio.gather(*requests, return_exceptions=True)
        if self._references is not None:
            await self._references.end()
        await self._units.close()
        self._journal.close()

    def _mark_launcher(self) -> None:
        if self._references is not None:
            self._references.mark()

    # -- listeners ------------------------------------------------------------------------

    def subscribe(self, listener: Callable[[ObservedServer], None]) -> Callable[[], None]:
        """See ServerBackend and `Listeners`."""
        return self._listeners.subscribe(listener)

    def observed(self) -> dict[int, ObservedServer]:
        """See ServerBackend. While the bus is away: the last known state."""
        shown = ((port, watched.shown) for port, watched in self._units.watched.items())
        return {port: server for port, server in shown if server is not None}

    def _announce(self, server: ObservedServer) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
        self._listeners.notify(server)

    async def settled(self, port: int) -> ObservedServer:
        """See ServerBackend. Raises NotFound if there is no server on the port."""
        while not (server := self._known(port)).state.is_settled:
            await self._changed.wait()
        return server

    def _known(self, port: int) -> ObservedServer:
        watched = self._units.watched.get(port)
        if watched is None or watched.shown is None:
            raise NotFound(
                f"cannot find a server on port {port}: none was started; start its model", port=port
            )
        return watched.shown

    # -- asking --------------------------------------------------------------------------

    async def start(self, spec: ServerSpec, placement: Placement | None = None) -> None:
        """See ServerBackend. Of overlapping calls the last one wins.

        Raises Conflict once the backend is closed, BusError while systemd cannot be watched, and
        the launcher's refusal if another server continues to run on the port.
        """
        if self._closed:
            raise Conflict(
                "cannot start a server: magid is shutting down; try again in a moment",
                port=spec.port,
            )
        watched = await self._units.watch(spec.port)
        await self._finish(self._start(spec, watched, placement))

    async def stop(self, port: int) -> None:
        """See ServerBackend. Raises the launcher's refusal; the server then runs on."""
        watched = self._units.watched.get(port)
        if watched is not None and not watched.is_at_rest:
            await self._finish(self._stop(port, watched))

    async def _finish(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs `work` to its end, even if the caller is cancelled."""
        task = asyncio.create_task(work)
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(task)

    async def _start(
        self, spec: ServerSpec, watched: UnitWatcher, placement: Placement | None
    ) -> None:
        pending = watched.expect_start(initial_state(spec, placement))
        try:
            async with watched.turn:
                await self._ask_to_start(spec, watched, pending, placement)
        except Exception as error:  # any: the server would be shown as starting for ever
            reason = _why_failed(error, spec)
            await watched.refresh()
            if watched.is_running:
                watched.drop(pending)
                raise
            watched.amend(pending, ServerState.FAILED, reason)
            return
        await watched.refresh(at_once=False)  # when there is a process, if that is soon
        watched.drop(pending)
        with suppress(TimeoutError):
            async with asyncio.timeout(_QUEUE_S):
                while not watched.has_been_made(pending):
                    await self._changed.wait()

    async def _ask_to_start(
        self,
        spec: ServerSpec,
        watched: UnitWatcher,
        pending: PendingState,
        placement: Placement | None,
    ) -> None:
        program = await self._program(spec.engine)
        if not watched.is_running:
            await asyncio.to_thread(_check_free, HostPort(spec.host, spec.port))
        if watched.is_current(pending):  # otherwise a later start or stop has taken over
            request = protocol.StartRequest(spec, self._profile(), program.flags, placement)
            await self._launcher.call(
                request, self._timeout_s, lambda: watched.has_new_process(pending)
            )

    async def _stop(self, port: int, watched: UnitWatcher) -> None:
        may_exist = watched.may_exist or not self._units.bus.is_open
        pending = watched.expect_stop()
        try:
            async with watched.turn:
                if may_exist:
                    await self._launcher.call(protocol.StopRequest(port), self._timeout_s)
            await watched.calm()
            if not watched.is_stopped:  # it may have been read while the launcher waited
                await watched.refresh()
        finally:
            watched.drop(pending)

    async def list_devices(self, engine: str | None = None) -> str:
        """See ServerBackend. Raises LlamaServerMissing, ServerFailed, the launcher's refusal."""
        device_list.check(await self._program(engine))
        request, limit_s = protocol.DevicesRequest(engine), device_list.LIMIT_S + _MARGIN_S
        return protocol.output_in(await self._launcher.call(request, limit_s))

    async def predict_memory(
        self, spec: ServerSpec, placement: Placement | None = None, *, for_start: bool = False
    ) -> str:
        """See ServerBackend. Raises LlamaServerMissing, ServerFailed, the launcher's refusal."""
        program = await self._program(spec.engine)
        memory_prediction.check(str(program.path), program.flags)
        request = protocol.PredictRequest(spec, program.flags, placement, for_start)
        limit_s = memory_prediction.RUN.seconds + _MARGIN_S
        return protocol.output_in(await self._launcher.call(request, limit_s))

    async def remove_files(self, root: str, files: Sequence[FileIdentity]) -> list[RemovedFile]:
        """See ServerBackend. The launcher goes by its own configuration, not by `root`."""
        found: list[RemovedFile] = []
        for first in range(0, len(files), protocol.MAX_REMOVED):
            request = protocol.RemoveRequest(tuple(files[first : first + protocol.MAX_REMOVED]))
            limit_s = file_removal.RUN.seconds + _MARGIN_S
            reply = await self._launcher.call(request, limit_s)
            found += file_removal.removed_in(protocol.output_in(reply))
        return found

    async def command(self, spec: ServerSpec, placement: Placement | None = None) -> list[str]:
        """See ServerBackend. Also raises InvalidInput if the program lacks what the spec needs."""
        program = await self._program(spec.engine)
        key = credential_path(spec.port)
        return server_argv(spec, str(program.path), key, program.flags, placement)

    def api_key(self, port: int) -> str | None:
        """Returns the key of the current process; None if there is none.

        Reads a tiny file in /run.
        """
        watched = self._units.watched.get(port)
        if watched is None or watched.shown is None or watched.shown.pid is None:
            return None
        try:
            return (self._keys / f"{int(port)}.key").read_text().strip() or None
        except OSError as error:
            log.warning("cannot read the key of port %d: %s", port, error.strerror)
            return None

    # -- figures and logs ------------------------------------------------------------------

    async def figures(self) -> dict[int, ServerFigures]:
        """Returns port -> resource usage of its unit, page cache for the model's file included."""
        running = {port: s.pid for port, s in self.observed().items() if s.pid is not None}
        found = await asyncio.to_thread(_figures_in, self._places()) if running else {}
        for port in running.keys() - found.keys():
            found[port] = await self._figures(port, running[port])
        return found

    async def _figures(self, port: int, pid: int) -> ServerFigures:
        """Asks systemd, which knows the control groups of version 1 too."""
        memory = await self._figure(port, "MemoryCurrent")
        cpu = await self._figure(port, "CPUUsageNSec")
        if memory is not None and cpu is not None:
            return ServerFigures(memory, cpu / 1e9)
        # Without the memory controller: fall back to what the process shows.
        seen = await asyncio.to_thread(process_figures, pid)
        return replace(seen, cpu_seconds=seen.cpu_seconds if cpu is None else cpu / 1e9)

    async def host_memory(self) -> dict[int, int]:
        """See ServerBackend. Asks the kernel alone: systemd has told the groups."""
        places = self._places()
        return await asyncio.to_thread(_held_in, places) if places else {}

    def _places(self) -> dict[int, tuple[str, int]]:
        """Returns port -> control group and process of each server that has one."""
        pids = {port: server.pid for port, server in self.observed().items() if server.pid}
        return {port: (self._units.watched[port].group, pid) for port, pid in pids.items()}

    async def _figure(self, port: int, name: str) -> int | None:
        return figure(await self._property(port, name))

    async def _property(self, port: int, name: str) -> object:
        interface = "org.freedesktop.systemd1.Service"
        with suppress(BusError):
            found = await self._units.bus.call(
                unit_path(port), PROPERTIES, "Get", "ss", interface, name
            )
            return found[0]
        return None

    async def logs(self, port: int, *, lines: int, after: str | None = None) -> list[LogLine]:
        """See ServerBackend.

        Raises NotFound, NotReady, and InvalidInput if `after` is no cursor.
        """
        self._known(port)
        matches = matches_of(unit_name(port))
        entries = await self._journal.last(matches, lines, after, RUN_FIELDS)
        return [LogLine(e.cursor, e.at, e.text, run=run_of(e)) for e in entries]

    async def wait_logs(self, port: int, after: str | None) -> None:
        """See ServerBackend. Raises as `logs` does."""
        self._known(port)
        check_cursor(after)
        await self._journal.wait(matches_of(unit_name(port)), after)


def _why_failed(error: Exception, spec: ServerSpec) -> str:
    if isinstance(error, MagidError):
        return error.message
    log.exception("cannot start %s", spec.unit)
    return f"cannot start it, because of an internal error: {error!r}"


def _check_free(endpoint: HostPort) -> None:
    """Raises ServerFailed if the port is taken. Blocks. llama-server's own error says less."""
    if not can_bind(endpoint):
        by = " and ".join(map(str, owners_of(endpoint))) or "a connection that is still open"
        raise ServerFailed(
            f"port {endpoint.port} is taken by {by}; end it or give the model another port"
        )


def _figures_in(places: Mapping[int, tuple[str, int]]) -> dict[int, ServerFigures]:
    found = ((port, group_figures(*place)) for port, place in places.items() if place[0])
    return {port: figures for port, figures in found if figures is not None}


def _held_in(places: Mapping[int, tuple[str, int]]) -> dict[int, int]:
    """Returns what is held in these groups; without the memory controller, by these processes."""
    found = {}
    for port, (group, pid) in places.items():
        held = held_in_group(group) if group else None
        found[port] = held_by_process(pid) if held is None else held
    return {port: held for port, held in found.items() if held is not None}
