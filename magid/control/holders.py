"""What servers hold of GPUs and of the machine's memory, and what those that start will take."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Final

from msgspec import Struct, field
from msgspec.structs import replace

from magid.config.settings import Config
from magid.errors import MagidError
from magid.gpus.capacity import Capacity, Holder, capacity_of, host_reserve, need_on
from magid.gpus.device import Gpu
from magid.llama.placement import Placement
from magid.llama.spec import ServerSpec
from magid.servers.backend import ObservedServer, ServerBackend, ServerState

_UNKNOWN_MEMORY: Final = 1 << 60


class MachineMemory(Struct, frozen=True):
    """The machine's memory now, in bytes. `held` is what the servers' processes hold, by port."""

    available: int
    total: int
    held: Mapping[int, int] = field(default_factory=dict)

    @property
    def room(self) -> int:
        """Returns what one more server may take, if none loads."""
        return max(0, self.available - host_reserve(self.total))


class Reservation(Struct, frozen=True):
    """A place that was decided. `placement` counts; `passed` goes to the server's start."""

    spec: ServerSpec
    placement: Placement
    passed: Placement | None


class Holders:
    """The one owner of reservations: each counts until its server is observed."""

    def __init__(
        self, config: Config, launcher: ServerBackend, machine: Callable[[], Mapping[str, int]]
    ) -> None:
        """`machine` returns the machine's memory, as `memory_within` does; it may block."""
        self._config, self._launcher, self._machine = config, launcher, machine
        self._reserved: dict[int, Reservation] = {}  # by port
        self._begun: dict[int, Reservation] = {}  # the last of each port
        # What one server of an engine takes beyond its prediction, in bytes by back end.
        self.overheads: Callable[[str | None], Mapping[str, int]] = lambda engine: {}
        # Whether the engine's last list was begun when the ready server on this port was ready.
        self.is_listed: Callable[[str | None, int], bool] = lambda engine, port: True

    def reserved(self, spec: ServerSpec) -> Reservation | None:
        """Returns the place of this server, if it was decided and not used yet."""
        found = self._reserved.get(spec.port)
        return found if found is not None and found.spec == spec else None

    def reserve(self, made: Reservation) -> None:
        self._reserved[made.spec.port] = self._begun[made.spec.port] = made

    def release(self, port: int) -> None:
        """Drops the reservation: the server is observed, or will not start. Idempotent."""
        self._reserved.pop(port, None)

    def drop(self, model_id: str) -> None:
        """Drops the reservations of the model's servers. Idempotent."""
        for port, made in list(self._reserved.items()):
            if made.spec.model_id == model_id:
                self.release(port)

    async def memory(self) -> MachineMemory:
        """Returns the machine's memory; blocks nothing."""
        found = await asyncio.to_thread(self._machine)
        held: dict[int, int] = {}
        if any(holds_memory(server) for server in self._launcher.observed().values()):
            with suppress(MagidError):  # without the figures, a loading server counts whole
                held = await self._launcher.host_memory()
        return MachineMemory(found["available"], found["total"], held)

    def all(self, memory: MachineMemory | None = None, engine: str | None = None) -> list[Holder]:
        """Returns what each server with a known place holds, and those that are about to start.

        One is settled if the list of this engine knows it as ready.
        """
        held = {} if memory is None else memory.held
        found = []
        for port, server in self._launcher.observed().items():
            placement = self._placement(server)
            if placement is not None and holds_memory(server):
                is_settled = server.state is ServerState.READY and self.is_listed(engine, port)
                taken = held.get(port, 0)
                found.append(Holder(server.model_id, port, placement, is_settled, taken))
        ports = {one.port for one in found}
        return found + [
            Holder(made.spec.model_id, port, made.placement, is_settled=False)
            for port, made in self._reserved.items()
            if port not in ports
        ]

    def _placement(self, server: ObservedServer) -> Placement | None:
        """Returns where it runs; without GPUs there may be nothing to pass to its start."""
        if server.placement is not None:
            return server.placement
        begun = self._begun.get(server.port)
        return begun.placement if begun and begun.spec.hash == server.spec_hash else None

    def capacity(
        self,
        gpus: Sequence[Gpu],
        memory: MachineMemory | None = None,
        port: int | None = None,
        limit: int | None = None,
        engine: str | None = None,
    ) -> Capacity:
        """Returns the room for one more server of this engine; the one on `port` counts as gone.

        Without `memory` that of the machine is not looked at.
        """
        others = [one for one in self.all(memory, engine) if one.port != port]
        return self._capacity(gpus, memory, others, limit, engine)

    def capacity_without(
        self,
        gone: frozenset[str],
        gpus: Sequence[Gpu],
        memory: MachineMemory,
        others: Sequence[Holder],
        limit: int | None,
        engine: str | None,
    ) -> Capacity:
        """Returns the room as it will be when the servers of these models have ended.

        `others` are all holders but the server that is to get the room.
        """
        going = [one for one in others if one.model_id in gone]
        left = [one for one in others if one.model_id not in gone]
        back = sum(one.host_taken or one.placement.host for one in going if one.is_settled)
        then = replace(memory, available=min(memory.total, memory.available + back))
        return self._capacity(list(_freed(gpus, going)), then, left, limit, engine)

    def _capacity(
        self,
        gpus: Sequence[Gpu],
        memory: MachineMemory | None,
        others: Sequence[Holder],
        limit: int | None,
        engine: str | None,
    ) -> Capacity:
        reserve, overheads = self._config.gpu_reserve, self.overheads(engine)
        if memory is None:
            return capacity_of(gpus, _UNKNOWN_MEMORY, others, reserve, overheads=overheads)
        aside = host_reserve(memory.total)
        return capacity_of(gpus, memory.available, others, reserve, aside, limit, overheads)

    def limit_of(self, spec: ServerSpec) -> int | None:
        """Returns the server's own limit of the machine's memory, if this machine keeps it."""
        return spec.memory_max if self._launcher.has_model_users else None


def holds_memory(server: ObservedServer) -> bool:
    """Returns whether it has a process, or will have one again without anybody's doing."""
    return server.state.is_running or server.state is ServerState.BACKOFF


def _freed(gpus: Sequence[Gpu], going: Sequence[Holder]) -> Iterator[Gpu]:
    """Returns the GPUs as they will be when these servers have ended."""
    for gpu in gpus:
        device = gpu.device
        back = sum(need_on(gpu, one.placement) for one in going if one.is_settled)
        if back and device.free is not None and device.total is not None:
            free = min(device.total, device.free + back)
            yield replace(gpu, device=replace(device, free=free))
        else:
            yield gpu
