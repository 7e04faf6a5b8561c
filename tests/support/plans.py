"""Plans for an executor, and the machine on which they are carried out."""

import asyncio
from dataclasses import replace

from magid.control.planner import Plan, Start, Stop
from magid.control.resources import MachineResources
from magid.control.turns import Processors
from magid.llama.spec import ServerSpec
from tests.support.deadlines import PATIENCE_S
from tests.support.values import spec

A, B, C = spec("a", 8080), spec("b", 8081), spec("c", 8082)


def on(device: str, of: ServerSpec) -> ServerSpec:
    return replace(of, device=device)


def starts(*specs: ServerSpec) -> Plan:
    return Plan(start=tuple(Start(each, "asked for") for each in specs))


def stops(*specs: ServerSpec) -> Plan:
    return Plan(stop=tuple(Stop(each.port, each.model_id, "asked for") for each in specs))


def restarts(of: ServerSpec) -> Plan:
    return Plan(stop=stops(of).stop, start=starts(of).start)


async def ended(task: asyncio.Task[None]) -> None:
    """Wait for the end of a plan; raises what it raises."""
    async with asyncio.timeout(PATIENCE_S):
        await task


class StillMachine(MachineResources):
    """Two cores, and GPUs unless a test says otherwise."""

    def __init__(self) -> None:
        self.has = Processors(cores=2, free_bytes=100, has_devices=True)

    async def processors(self) -> Processors:
        return self.has

    def need_of(self, spec: ServerSpec) -> int | None:
        return 10
