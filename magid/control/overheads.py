"""What a server takes of a GPU beyond its prediction: the driver's context, libraries' workspaces.

Learned by what was free before a start and is free after it, per back end, and forgotten when magid
ends. A start beside which another server of magid's moved says nothing; other programs cannot be
told apart, so the median of the last starts counts.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine, Iterator
from statistics import median_low
from typing import Any, Final

from msgspec import Struct

from magid.control.devices import DeviceList
from magid.control.engine_devices import EngineDevices
from magid.llama.placement import Placement
from magid.llama.spec import ServerSpec
from magid.servers.backend import ObservedServer, ServerState

log = logging.getLogger(__name__)

MOST: Final = 2 << 30  # more is another program's doing
_KEPT: Final = 5  # starts of each back end
_OVER: Final = (ServerState.STOPPED, ServerState.FAILED, ServerState.BACKOFF, ServerState.STOPPING)


class _Begun(Struct, frozen=True):
    """A start that is measured. `free` and `need` are bytes by the id of the device."""

    free: dict[str, int]
    need: dict[str, int]  # without the overhead that was counted
    engine: str | None


class Overheads:
    """Measures one start at a time on each port. `of` is shared with those who decide."""

    def __init__(self, devices: EngineDevices) -> None:
        self._devices = devices
        self._begun: dict[int, _Begun] = {}  # by port
        self._states: dict[int, ServerState] = {}
        self._seen: dict[str, deque[int]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.of: dict[str, int] = {}  # by back end, in bytes

    def begin(self, spec: ServerSpec, placement: Placement) -> None:
        """Notes what is free before this start. Called when its place is decided."""
        self._begun.pop(spec.port, None)
        gpus = self._devices.of(spec.engine).present.gpus
        listed = {gpu.device.id: gpu.device for gpu in gpus}
        free, need = {}, {}
        for one in placement.devices:
            device = listed.get(one.id)
            if device is None or device.free is None or device.integrated:
                return
            free[one.id] = device.free
            need[one.id] = one.need - self.of.get(device.backend, 0)
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
        """Idempotent."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _measure(self, port: int) -> None:
        devices = self._devices.of(self._begun[port].engine)
        listed = await devices.fresh(0.0)  # the state has led to a new one
        begun = self._begun.pop(port, None)
        if begun is not None:
            for backend, taken in _taken(begun, listed):
                self._learn(backend, taken)

    def _learn(self, backend: str, taken: int) -> None:
        seen = self._seen.setdefault(backend, deque(maxlen=_KEPT))
        seen.append(taken)
        self.of[backend] = median_low(seen)
        log.debug("a server took %d MiB of %s beyond its prediction", taken >> 20, backend)


def _taken(begun: _Begun, listed: DeviceList) -> Iterator[tuple[str, int]]:
    """Yields back end and bytes of each device whose figures make sense."""
    for gpu in listed.gpus:
        device = gpu.device
        if device.id in begun.free and device.free is not None:
            taken = begun.free[device.id] - device.free - begun.need[device.id]
            if taken <= MOST:
                yield device.backend, max(0, taken)
