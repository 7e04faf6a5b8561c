"""What a server takes of a GPU beyond its prediction: the driver's context, libraries' workspaces.

Learned by what was free before a start and is free after it, per engine and back end. A start
beside which another server of magid's loads or moves says nothing; other programs cannot be told
apart, so the median of the last starts counts. It is kept in a file of the state directory, and
that of an engine is forgotten when its llama-server or a driver has changed.
"""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from statistics import median_low
from typing import Any, Final

from msgspec import Struct

from magid.control.devices import DeviceList
from magid.control.engine_devices import EngineDevices
from magid.control.overhead_cache import (
    MOST,
    KeptOverheads,
    OverheadVersions,
    read_overheads,
    write_overheads,
)
from magid.errors import MagidError
from magid.host import driver_versions
from magid.llama.engines import DEFAULT
from magid.llama.placement import Placement
from magid.llama.program import ProgramOf
from magid.llama.spec import ServerSpec
from magid.servers.backend import ObservedServer, ServerState

log = logging.getLogger(__name__)

_KEPT: Final = 5  # starts of each back end
_OVER: Final = (ServerState.STOPPED, ServerState.FAILED, ServerState.BACKOFF, ServerState.STOPPING)


class _Begun(Struct, frozen=True):
    """A start that is measured. `free` and `need` are bytes by the id of the device."""

    free: dict[str, int]
    need: dict[str, int]  # without the overhead that was counted
    engine: str | None


class _Learned(Struct, frozen=True):
    """What the servers of one engine took: the last sizes, and what counts, by back end."""

    versions: OverheadVersions
    seen: dict[str, deque[int]]
    of: dict[str, int]  # bytes

    @property
    def kept(self) -> KeptOverheads:
        seen = {backend: tuple(sizes) for backend, sizes in self.seen.items()}
        return KeptOverheads(self.versions, seen)


class Overheads:
    """Measures one start at a time on each port."""

    def __init__(
        self,
        devices: EngineDevices,
        program: ProgramOf,
        path: Path | None = None,
        drivers: Callable[[], str] = driver_versions.fingerprint,
    ) -> None:
        """`path` is the file that keeps them; `drivers` blocks."""
        self._devices, self._program, self._drivers = devices, program, drivers
        self._path = path
        self._begun: dict[int, _Begun] = {}  # by port
        self._states: dict[int, ServerState] = {}
        self._learned: dict[str, _Learned] = {}  # by the name of the engine
        self._kept: dict[str, KeptOverheads] | None = None  # what the file has; None: not read yet
        self._is_new = False  # since the file was written
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    def of(self, engine: str | None) -> Mapping[str, int]:
        """Returns what one server of this engine takes, in bytes by back end; see `check`."""
        learned = self._learned.get(engine or DEFAULT)
        return {} if learned is None else learned.of

    def open(self, observed: Mapping[int, ObservedServer]) -> None:
        """Reads what is kept as soon as the GPUs are listed; does not wait for it.

        `observed` are the servers of now, by port; `on_server` gets those that change.
        """
        self._states = {port: server.state for port, server in observed.items()}
        self._spawn(self._open())

    async def _open(self) -> None:
        await self._devices.of(None).fresh(math.inf)
        await self.check(None)
        for engine in list(self._kept or ()):
            await self.check(engine)

    async def check(self, engine: str | None) -> None:
        """Forgets what was learned with another llama-server of this engine, or other drivers.

        The first call reads the file. Does nothing where no GPU is listed. Idempotent.
        """
        if not self._devices.present.gpus:
            return
        async with self._turn:
            with suppress(MagidError):  # without a llama-server nothing starts either
                await self._check(engine)

    async def _check(self, engine: str | None) -> None:
        name = engine or DEFAULT
        program = await self._program(engine)
        drivers = await asyncio.to_thread(self._drivers)
        now = OverheadVersions(program.version, program.changed_at, drivers)
        if self._kept is None:
            self._kept = {} if self._path is None else await asyncio.to_thread(
                read_overheads, self._path
            )  # fmt: skip
        learned = self._learned.get(name)
        if learned is not None and learned.versions == now:
            return
        kept = self._kept.pop(name, None) if learned is None else None
        sizes = kept.seen if kept is not None and kept.versions == now else {}
        seen = {backend: deque(each, maxlen=_KEPT) for backend, each in sizes.items()}
        of = {backend: median_low(each) for backend, each in seen.items()}
        self._learned[name] = _Learned(now, seen, of)

    def begin(self, spec: ServerSpec, placement: Placement) -> None:
        """Notes what is free before this start. Called when its place is decided."""
        self._begun.pop(spec.port, None)
        if any(state.is_loading for port, state in self._states.items() if port != spec.port):
            return  # what it allocates from now on changes no state
        gpus = self._devices.of(spec.engine).present.gpus
        listed = {gpu.device.id: gpu.device for gpu in gpus}
        free, need = {}, {}
        for one in placement.devices:
            device = listed.get(one.id)
            if device is None or device.free is None or device.integrated:
                return
            free[one.id] = device.free
            need[one.id] = one.need - self.of(spec.engine).get(device.backend, 0)
        if free and placement.extent == "all":
            self._begun[spec.port] = _Begun(free, need, spec.engine)

    def on_server(self, server: ObservedServer) -> None:
        """Measures a server that has become ready; drops what another server has disturbed."""
        before, port = self._states.get(server.port), server.port
        self._states[port] = server.state
        if before is server.state:
            return
        for other in [one for one in self._begun if one != port]:
            del self._begun[other]
        if server.state in _OVER:
            self._begun.pop(port, None)
        elif server.state is ServerState.READY and port in self._begun:
            self._spawn(self._measure(port))

    async def close(self) -> None:
        """Writes what is not written yet. Idempotent."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._save()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _measure(self, port: int) -> None:
        begun = self._begun.get(port)
        if begun is None:  # another server has moved before this task ran
            return
        listed = await self._devices.of(begun.engine).next_list()  # the state has led to one
        if self._begun.pop(port, None) is None:
            return
        async with self._turn:
            for backend, taken in _taken(begun, listed):
                self._learn(begun.engine, backend, taken)
            await self._save()

    async def _save(self) -> None:
        if self._is_new and self._path is not None:
            learned = {name: one.kept for name, one in self._learned.items() if one.seen}
            await asyncio.to_thread(write_overheads, self._path, (self._kept or {}) | learned)
            self._is_new = False

    def _learn(self, engine: str | None, backend: str, taken: int) -> None:
        learned = self._learned.get(engine or DEFAULT)
        if learned is None:
            return
        seen = learned.seen.setdefault(backend, deque(maxlen=_KEPT))
        seen.append(taken)
        self._is_new = True
        learned.of[backend] = median_low(seen)
        log.debug("a server took %d MiB of %s beyond its prediction", taken >> 20, backend)


def _taken(begun: _Begun, listed: DeviceList) -> Iterator[tuple[str, int]]:
    """Yields back end and bytes of each device whose figures make sense."""
    for gpu in listed.gpus:
        device = gpu.device
        if device.id in begun.free and device.free is not None:
            taken = begun.free[device.id] - device.free - begun.need[device.id]
            if taken <= MOST:
                yield device.backend, max(0, taken)
