"""What the machine has for servers that load side by side."""

import asyncio
import os
from collections.abc import Callable, Mapping

from magid.control.devices import DeviceList
from magid.control.snapshot import Snapshot
from magid.control.turns import Processors
from magid.llama.spec import ServerSpec


class MachineResources:
    """Asks the kernel, the last list of GPUs, and the last scan. Runs no program."""

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        listed: Callable[[], DeviceList],
        machine: Callable[[], Mapping[str, int]],
    ) -> None:
        """`machine` returns the machine's memory, as `memory_within` does; it may block."""
        self._snapshot, self._listed, self._machine = snapshot, listed, machine

    async def processors(self) -> Processors:
        """Returns what is there now. Until llama-server has listed none, there may be GPUs."""
        listed = self._listed()
        is_without = listed.listed_at is not None and not listed.gpus and not listed.problem
        memory = await self.memory()
        cores = len(os.sched_getaffinity(0))
        return Processors(cores, memory["available"], has_devices=not is_without)

    async def memory(self) -> Mapping[str, int]:
        """Returns the `total` and `available` memory that servers may have, in bytes."""
        return await asyncio.to_thread(self._machine)

    def need_of(self, spec: ServerSpec) -> int | None:
        """Returns the size of the model's files; None if they are not known."""
        model = self._snapshot().models.get(spec.model_id)
        return None if model is None else model.found.size_bytes
