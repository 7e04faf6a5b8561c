"""Launchers for tests of `control.placing`: a machine with two GPUs, and one without any."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from magid.config.settings import Config
from magid.control.engine_devices import EngineDevices
from magid.control.placing import Placing
from magid.control.predictions import Predictions
from magid.control.wishes import FileFacts
from magid.llama.placement import Placement
from magid.llama.program import LlamaProgram, ProgramOf
from magid.llama.spec import ServerSpec
from magid.servers.backend import ServerState
from tests.support.recording_backend import StillLauncher

MIB = 1 << 20
GIB = 1 << 30
FLAGS = frozenset(
    {"--fit", "-lv", "--device", "--ctx-size", "--n-gpu-layers", "--tensor-split"}
    | {"--no-mmap", "--mlock", "--load-mode", "--cache-ram", "-cram"}
)
PROGRAM = LlamaProgram(Path("/llama"), "1", FLAGS, 5.0)


class GpuLauncher(StillLauncher):
    """Two GPUs of 1000 MiB. A model needs as many MiB as its context has tokens, 50 more at most.

    What is free follows what runs, as a driver would say.
    """

    def __init__(self) -> None:
        super().__init__(prompt=True)
        self.late: dict[str, int] = {}  # MiB that the driver has not given back
        self.others: dict[str, int] = {}
        self.ids: dict[str, str] = {}  # UUIDs
        self.silent: str | None = "none"  # an engine that gives no list

    async def list_devices(self, engine: str | None = None) -> str:
        if engine == self.silent:
            await asyncio.Event().wait()
        self.listings += 1
        self._wake()
        lines = []
        told = "ggml_cuda_init: found 2 CUDA devices:\n" if self.ids else ""
        for name, known in self.ids.items():
            told += f"  Device {name[4:]}: card, compute capability 9.0, VMM: yes, ID: {known}\n"
        for name in ("CUDA0", "CUDA1"):
            used = self.late.get(name, 0) + self.others.get(name, 0)
            for server in self.observed().values():
                if server.placement is not None and server.state is ServerState.READY:
                    used += sum(d.need // MIB for d in server.placement.devices if d.name == name)
            lines.append(f"  {name}: card (1000 MiB, {max(0, 1000 - used)} MiB free)\n")
        return f"{told}Available devices:\n{''.join(lines)}"

    async def predict_memory(
        self, spec: ServerSpec, placement: Placement | None = None, *, for_start: bool = False
    ) -> str:
        self.predicted.append(spec)
        self.questions.append(placement)
        self._wake()
        await self._while_held("predict", 0)
        if isinstance(self.memory, Exception):
            raise self.memory
        need = spec.ctx_size or 0
        on = [device.name for device in placement.devices] if placement else ["CUDA0"]
        each = need // len(on) + 600 * (len(on) - 1)  # a split does not pay
        rows = [f"|   - {name} (card) | 9 = 9 + ({each} = {each} + 0 + 0) + 0 |" for name in on]
        lines = ["| memory breakdown [MiB] |", *rows, "|   - Host | 1 = 1 + 0 + 0 |"]
        return json.dumps({"why": "done", "status": -9, "lines": lines})


class PlainLauncher(StillLauncher):
    """No GPU. The prediction holds a KiB for each token of the context, and `repacked` GiB more.

    A server holds what its place was predicted to need.
    """

    has_model_users = True
    repacked = 0.0
    takes = GIB

    async def predict_memory(
        self, spec: ServerSpec, placement: Placement | None = None, *, for_start: bool = False
    ) -> str:
        self.predicted.append(spec)
        asked = placement.ctx_size if placement and placement.ctx_size else spec.ctx_size
        context = (asked or 2**24) // 1024
        rows = [f"|   - Host | {2048 + context} = 2048 + {context} + 0 |"]
        if self.repacked:
            held = int(self.repacked * 1024)
            rows.append(f"|   - CPU_REPACK | {held} = {held} + 0 + 0 |")
        lines = ["| memory breakdown [MiB] |", *rows]
        return json.dumps({"why": "done", "status": -9, "lines": lines})

    async def host_memory(self) -> dict[int, int]:
        return dict.fromkeys(self.observed(), self.takes)


def spec(name: str, need: int, port: int = 8080, **more: object) -> ServerSpec:
    made = ServerSpec(name, 0, port, "127.0.0.1", f"/{name}.gguf", ctx_size=need)
    return replace(made, **more)  # type: ignore[arg-type]  # a table of test values


async def started(launcher: StillLauncher, placing: Placing, wanted: ServerSpec) -> str:
    """Starts it as the executor does; returns the names of its devices."""
    placement = await placing.place(wanted)
    await launcher.start(wanted, placement)
    placing.release(wanted.port)
    return names(placement) if placement is not None else ""


def names(placement: Placement | None) -> str:
    assert placement is not None
    return ",".join(device.name for device in placement.devices)


def roomy() -> dict[str, int]:
    """The memory of a machine that bounds nothing: no place depends on what is free here."""
    return {"total": 1 << 40, "available": 1 << 40}


async def one_program(_engine: str | None = None, /) -> LlamaProgram:
    return PROGRAM


@asynccontextmanager
async def opened(
    launcher: StillLauncher,
    devices: EngineDevices,
    facts: Callable[[str], FileFacts],
    *,
    config: Config | None = None,
    program: ProgramOf = one_program,
    machine: Callable[[], dict[str, int]] = roomy,
    overheads: Path | None = None,
) -> AsyncIterator[Placing]:
    """A Placing and its lists of GPUs, open for the block. By itself nothing is kept free."""
    made = Placing(
        config or Config(gpu_reserve=0), launcher, devices, Predictions(launcher), program, facts,
        machine, overheads,
    )  # fmt: skip
    made.open()
    devices.open()
    yield made
    await made.close()
    await devices.close()
