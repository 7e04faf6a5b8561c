"""A launcher without processes: it does nothing until the test says so.

It keeps `ServerBackend`'s promises, so what is built on launchers cannot tell the difference.
"""

import asyncio
import json
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from magid.errors import MagidError, NotFound, NotReady
from magid.host.usage import ServerFigures
from magid.llama.file_removal import FileIdentity, RemovedFile, removed_in
from magid.llama.placement import Placement
from magid.llama.spec import ServerSpec
from magid.log.buffer import LogLine
from magid.servers.backend import ObservedServer, ServerState
from magid.servers.listeners import Listeners
from magid.standalone.remove_files import removed
from tests.support.deadlines import PATIENCE_S


class StillLauncher:
    """Each start and stop waits for the test, unless `prompt`: then all succeeds at once.

    `calls` has every call in order: ("start", port) and ("stop", port). `refuse` makes the next
    start or stop of a port raise.
    """

    has_model_users = False

    def __init__(self, *, prompt: bool = False) -> None:
        self.prompt = prompt
        self.calls: list[tuple[str, int]] = []
        self.specs: dict[int, ServerSpec] = {}
        self.refuse: dict[int, Exception] = {}
        self.is_open = False
        self.problem = ""
        self.masked: frozenset[str] = frozenset()
        self.boot = "first boot"
        self.held: set[tuple[str, int]] = set()  # calls that do not return yet
        self.devices: str | Exception = "Available devices:\n  (none)\n"
        self.listings = 0
        self.memory: str | Exception = '{"why": "ended", "status": 1, "lines": []}\n'
        self.predicted: list[ServerSpec] = []
        self.for_start: list[bool] = []  # whether a start waited for it
        self.questions: list[Placement | None] = []  # with which they were predicted
        self._servers: dict[int, ObservedServer] = {}
        self._listeners: Listeners[ObservedServer] = Listeners()
        self._moved = asyncio.Event()

    # -- what the test does ----------------------------------------------------------------

    def show(self, port: int, state: ServerState, reason: str = "", uid: int | None = None) -> None:
        """Let the server on this port come into this state."""
        self._put(replace(self._servers[port], state=state, reason=reason, uid=uid))

    def adopt(self, spec: ServerSpec, state: ServerState) -> None:
        """A server that ran before."""
        self.specs[spec.port] = spec
        self._put(_seen(spec, state))

    def reboot(self) -> None:
        """The machine boots again: no server is left."""
        self.boot = f"after {self.boot}"
        self._servers.clear()
        self.calls.clear()

    def hold(self, verb: str, port: int) -> None:
        """From now on this call does not return before `release`."""
        self.held.add((verb, port))

    def release(self, verb: str, port: int) -> None:
        self.held.discard((verb, port))
        self._wake()

    async def until(self, *calls: tuple[str, int]) -> None:
        """Wait until the calls so far are exactly these."""
        await self.wait_for(lambda: self.calls == list(calls))

    async def wait_for(self, is_so: Callable[[], bool]) -> None:
        """Wait until it is so; looked at after everything that happens here."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not is_so():
                    await self._moved.wait()
        except TimeoutError:
            raise AssertionError(f"it did not come to that; calls: {self.calls}") from None

    # -- ServerBackend ---------------------------------------------------------------------

    async def open(self) -> None:
        self.is_open = True

    async def close(self) -> None:
        self.is_open = False

    def subscribe(self, listener: Callable[[ObservedServer], None]) -> Callable[[], None]:
        return self._listeners.subscribe(listener)

    @property
    def listeners(self) -> int:
        return len(self._listeners)

    def observed(self) -> dict[int, ObservedServer]:
        return dict(self._servers)

    async def start(self, spec: ServerSpec, placement: Placement | None = None) -> None:
        self._called("start", spec.port)
        self.specs[spec.port] = spec
        self._put(replace(_seen(spec, ServerState.STARTING), placement=placement))
        await self._while_held("start", spec.port)
        if self.prompt:
            self.show(spec.port, ServerState.READY)

    async def stop(self, port: int) -> None:
        self._called("stop", port)
        if port in self._servers:
            self.show(port, ServerState.STOPPING)
        await self._while_held("stop", port)
        if port in self._servers:
            self.show(port, ServerState.STOPPED)

    async def settled(self, port: int) -> ObservedServer:
        if port not in self._servers:
            raise NotFound(f"cannot find a server on port {port}: none was started")
        while not self._servers[port].state.is_settled:
            await self._moved.wait()
        return self._servers[port]

    async def list_devices(self, engine: str | None = None) -> str:
        self.listings += 1
        self._wake()
        await self._while_held("devices", 0)
        if isinstance(self.devices, Exception):
            raise self.devices
        return self.devices

    async def remove_files(self, root: str, files: Sequence[FileIdentity]) -> list[RemovedFile]:
        self._called("remove", len(files))
        await self._while_held("remove", len(files))
        found = [removed(root, one.path, (one.device, one.inode)) for one in files]
        return removed_in(json.dumps(found))

    async def predict_memory(
        self, spec: ServerSpec, placement: Placement | None = None, *, for_start: bool = False
    ) -> str:
        self.predicted.append(spec)
        self.for_start.append(for_start)
        self.questions.append(placement)
        self._wake()
        await self._while_held("predict", 0)
        if isinstance(self.memory, Exception):
            raise self.memory
        return self.memory

    async def command(self, spec: ServerSpec, placement: Placement | None = None) -> list[str]:
        return ["llama-server", "--model", spec.model_path, "--port", str(spec.port)]

    def api_key(self, port: int) -> str | None:
        return None

    async def figures(self) -> dict[int, ServerFigures]:
        return {}

    async def host_memory(self) -> dict[int, int]:
        return {}

    async def logs(self, port: int, *, lines: int, after: str | None = None) -> list[LogLine]:
        return []

    async def wait_logs(self, port: int, after: str | None) -> None:
        await asyncio.Event().wait()

    # -- inside ----------------------------------------------------------------------------

    def _called(self, verb: str, port: int) -> None:
        self.calls.append((verb, port))
        self._wake()
        error = self.refuse.pop(port, None)
        if error is not None:
            raise error

    async def _while_held(self, verb: str, port: int) -> None:
        while (verb, port) in self.held:
            await self._moved.wait()

    def _put(self, server: ObservedServer) -> None:
        self._servers[server.port] = server
        self._listeners.notify(server)
        self._wake()

    def _wake(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()


class Nowhere:
    """Leaves each place to llama-server."""

    async def place(self, spec: ServerSpec, failed: Placement | None = None) -> Placement | None:
        return None

    def refuse(self, spec: ServerSpec, error: MagidError) -> None:
        pass

    def release(self, port: int) -> None:
        pass


def _seen(spec: ServerSpec, state: ServerState) -> ObservedServer:
    return ObservedServer(spec.port, spec.model_id, spec.instance, spec.hash, state)


def refusal() -> NotReady:
    """What a launcher that cannot even try raises."""
    return NotReady("cannot reach the launcher: it is not there")


async def all_quiet() -> None:
    """Let everything run that can run without anything happening from outside."""
    for _ in range(50):
        await asyncio.sleep(0)
