"""Runs servers as child processes, for machines without systemd; reads their resource usage.

psutil is imported at first use, usually in a thread: the import takes a tenth of the start-up time.
"""

import asyncio
import logging
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from magid.errors import Conflict, NotFound
from magid.host.listening_sockets import is_held_by
from magid.host.ports import can_bind, owners_of
from magid.host.usage import ServerFigures, held_by_process, process_figures
from magid.llama import device_list, file_removal, memory_prediction
from magid.llama.file_removal import FileIdentity, RemovedFile
from magid.llama.placement import Placement
from magid.llama.program import ProgramOf
from magid.llama.spec import ServerSpec
from magid.log.buffer import LogLine, LogRing
from magid.servers.backend import ObservedServer
from magid.servers.listeners import Listeners
from magid.servers.processes.death_signal import setpriv_here
from magid.servers.processes.key_files import KeyFiles
from magid.servers.processes.short_runs import output_of
from magid.servers.processes.supervisor import (
    Dependencies,
    RestartPolicy,
    ServerProcess,
    Timing,
)
from magid.standalone import SCRIPTS

log = logging.getLogger(__name__)


class ProcessBackend:
    """A ServerBackend that uses child processes. `close` stops them all.

    `program` is called before every start of a process, so an upgraded llama-server is used at
    once. `keys_dir` is created if missing. Times are in seconds; see `Timing` and `RestartPolicy`.
    """

    def __init__(
        self,
        keys_dir: Path,
        program: ProgramOf,
        *,
        max_startup_s: float = 120.0,
        check_interval_s: float = 0.02,
        stop_timeout_s: float = 10.0,
        restart: RestartPolicy | None = None,
        remote: tuple[str, ...] = (),
    ) -> None:
        """`remote` are RPC servers, whose devices are listed too."""
        self._remote = remote
        self._around = Dependencies(
            keys=KeyFiles(keys_dir),
            program=program,
            owners_of=owners_of,
            is_held_by=is_held_by,
            can_bind=can_bind,
            timing=Timing(max_startup_s, check_interval_s, stop_timeout_s),
            restart=restart or RestartPolicy(),
            announce=self._announce,
        )
        self._servers: dict[int, ServerProcess] = {}
        self._rings: dict[int, LogRing] = {}
        self._listeners: Listeners[ObservedServer] = Listeners()
        self._changed = asyncio.Event()
        self._closed = False
        self.problem = ""  # changes are always observed: the servers are children
        self.masked: frozenset[str] = frozenset()
        self.boot = secrets.token_hex(16)

    has_model_users = False

    async def open(self) -> None:
        """Prepares the key folder. Raises CannotWrite.

        No server runs yet: children of an earlier magid died with it.
        """
        self._around.keys.prepare()
        await setpriv_here()  # the first start does not wait for it

    async def close(self) -> None:
        """Stops all servers in parallel; no server can be started afterwards. Idempotent."""
        self._closed = True
        await asyncio.gather(*(self.stop(port) for port in self._servers))

    def subscribe(self, listener: Callable[[ObservedServer], None]) -> Callable[[], None]:
        """See ServerBackend and `Listeners`."""
        return self._listeners.subscribe(listener)

    def observed(self) -> dict[int, ObservedServer]:
        """See ServerBackend."""
        return {port: server.observed for port, server in self._servers.items()}

    async def start(self, spec: ServerSpec, placement: Placement | None = None) -> None:
        """See ServerBackend. Of overlapping calls the last one wins.

        Cancelling the call does not stop the server. Raises Conflict once the backend is closed.
        """
        if self._closed:
            raise Conflict(
                "cannot start a server: magid is shutting down; try again in a moment",
                port=spec.port,
            )
        predecessor = self._servers.get(spec.port)
        ring = self._rings.setdefault(spec.port, LogRing())
        server = self._servers[spec.port] = ServerProcess(
            spec, ring, self._around, predecessor, placement
        )
        if predecessor:
            predecessor.ask_to_stop()
        server.begin()
        await server.made.wait()

    async def stop(self, port: int) -> None:
        """See ServerBackend. The state is `stopped` afterwards, even if the server had failed."""
        server = self._servers.get(port)
        if server is None:
            return
        server.ask_to_stop()
        await server.gone()
        server.forget_failure()

    async def settled(self, port: int) -> ObservedServer:
        """See ServerBackend. Raises NotFound if no server was ever started on the port."""
        while not (server := self._known(port).observed).state.is_settled:
            await self._changed.wait()
        return server

    async def list_devices(self, engine: str | None = None) -> str:
        """See ServerBackend. Raises LlamaServerMissing, ServerFailed."""
        program = await self._around.program(engine)
        device_list.check(program)

        async def run(remote: tuple[str, ...]) -> str:
            argv = device_list.argv(str(program.path), remote)
            return await output_of(argv, device_list.RUN)

        async def reach(remote: tuple[str, ...]) -> str:
            script = (sys.executable, "-I", "-S", str(SCRIPTS / device_list.REACH))
            return await output_of(device_list.reach_argv(script, remote), device_list.REACH_RUN)

        return await device_list.listed(run, reach, self._remote)

    async def predict_memory(
        self, spec: ServerSpec, placement: Placement | None = None, *, for_start: bool = False
    ) -> str:
        """See ServerBackend. Raises LlamaServerMissing, ServerFailed, InvalidInput."""
        program = await self._around.program(spec.engine)
        script = (sys.executable, "-I", "-S", str(SCRIPTS / memory_prediction.SCRIPT))
        argv = memory_prediction.command(
            script, spec, str(program.path), program.flags, placement, for_start=for_start
        )
        return await output_of(argv, memory_prediction.RUN)

    async def remove_files(self, root: str, files: Sequence[FileIdentity]) -> list[RemovedFile]:
        """See ServerBackend. Runs as magid's own user, which needs the right to remove them."""
        script = [sys.executable, "-I", "-S", str(SCRIPTS / file_removal.SCRIPT), root]
        output = await output_of([*script, *map(str, files)], file_removal.RUN)
        return file_removal.removed_in(output)

    async def command(self, spec: ServerSpec, placement: Placement | None = None) -> list[str]:
        """See ServerBackend. Also raises InvalidInput if the program lacks what the spec needs."""
        return await self._around.argv_of(spec, placement)

    def api_key(self, port: int) -> str | None:
        """Returns the key of the current process; None if there is none."""
        server = self._servers.get(port)
        return server.key if server else None

    async def figures(self) -> dict[int, ServerFigures]:
        """Returns port -> resource usage of the running processes; read in a thread."""
        seen = [(port, server.observed.pid) for port, server in self._servers.items()]
        pids = {port: pid for port, pid in seen if pid is not None}
        return await asyncio.to_thread(_figures_of, pids) if pids else {}

    async def host_memory(self) -> dict[int, int]:
        """See ServerBackend."""
        seen = [(port, server.observed.pid) for port, server in self._servers.items()]
        pids = {port: pid for port, pid in seen if pid is not None}
        return await asyncio.to_thread(_held_by, pids) if pids else {}

    async def logs(self, port: int, *, lines: int, after: str | None = None) -> list[LogLine]:
        """See ServerBackend. Raises NotFound, and InvalidInput if `after` is no cursor."""
        self._known(port)
        return self._rings[port].last(lines, after)

    async def wait_logs(self, port: int, after: str | None) -> None:
        """See ServerBackend. Raises as `logs` does."""
        self._known(port)
        await self._rings[port].wait(after)

    def _known(self, port: int) -> ServerProcess:
        if port not in self._servers:
            raise NotFound(
                f"cannot find a server on port {port}: none was started; start its model", port=port
            )
        return self._servers[port]

    def _announce(self, server: ServerProcess) -> None:
        """Notifies the listeners, unless the server has been replaced on its port."""
        if self._servers.get(server.spec.port) is not server:
            return
        self._changed.set()
        self._changed = asyncio.Event()
        self._listeners.notify(server.observed)


def _figures_of(pids: Mapping[int, int]) -> dict[int, ServerFigures]:
    return {port: process_figures(pid) for port, pid in pids.items()}


def _held_by(pids: Mapping[int, int]) -> dict[int, int]:
    found = ((port, held_by_process(pid)) for port, pid in pids.items())
    return {port: held for port, held in found if held is not None}
