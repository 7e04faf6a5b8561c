"""Memory that comes back late: a driver frees it some time after the process has ended."""

import asyncio
import math
import time
from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from magid.control.engine_devices import EngineDevices
from magid.gpus.device import Gpu
from magid.servers.backend import ObservedServer, ServerState

PATIENCE_S: Final = 5.0
_TOLERANCE: Final = 64 << 20
_PAUSE_S: Final = 0.05  # between two lists


class _Expected(Struct, frozen=True):
    device: str  # its id
    free: int  # bytes
    since: float  # by time.monotonic

    @property
    def until(self) -> float:
        return self.since + PATIENCE_S


class ReturningMemory:
    """Knows which memory of stopped servers has not been seen free yet."""

    def __init__(self, devices: EngineDevices) -> None:
        self._devices = devices
        self._states: dict[int, ServerState] = {}
        self._expected: list[_Expected] = []

    def on_server(self, server: ObservedServer) -> None:
        """Notes the end of a server that was ready, so that its memory was in the last list."""
        before = self._states.get(server.port)
        self._states[server.port] = server.state
        was_ready = before in (ServerState.READY, ServerState.STOPPING)
        if was_ready and not server.state.is_running and server.placement is not None:
            since = time.monotonic()
            listed = {known: gpu.device for gpu in self._devices.present.gpus for known in gpu.ids}
            for one in server.placement.devices:
                device = listed.get(one.id)
                if device is not None and device.free is not None and device.total is not None:
                    free = min(device.total, device.free + one.need)  # the list may be older
                    self._expected.append(_Expected(one.id, free, since))

    def on_list(self) -> None:
        """Forgets what lists that were begun since then show as free: now others may take it."""
        listed = self._devices.present
        free = {known: gpu.device.free for gpu in listed.gpus for known in gpu.ids}
        self._expected = [
            one
            for one in self._expected
            if listed.begun < one.since
            or free.get(one.device) is None
            or _lacks(free[one.device], one.free)
        ]

    async def wait(self, engine: str | None) -> None:
        """Returns when the engine's list shows the memory as free, or it has had its time."""
        if not self._expected:
            return
        devices = self._devices.of(engine)
        began = time.monotonic()
        listed = await devices.fresh(math.inf)  # each stop leads to a list: begun after it
        while self._is_missing(listed.gpus, began):
            await asyncio.sleep(_PAUSE_S)
            began = time.monotonic()
            listed = await devices.refresh()

    def _is_missing(self, gpus: Iterable[Gpu], began: float) -> bool:
        """Forgets what has come back. What is not in this list says nothing.

        The last list is one that has begun after the patience: a list may take as long as that.
        """
        free = {known: gpu.device.free for gpu in gpus for known in gpu.ids}
        late = [one for one in self._expected if began < one.until]
        missing = [one for one in late if _lacks(free.get(one.device), one.free)]
        self._expected = missing + [one for one in late if free.get(one.device) is None]
        return bool(missing)


def _lacks(seen: int | None, expected: int) -> bool:
    return seen is not None and seen + _TOLERANCE < expected
