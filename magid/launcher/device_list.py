"""Lists the devices that llama-server finds in the sandbox of servers.

Each engine has a unit of its own, so a driver that hangs in one holds up no other engine's list.
"""

import asyncio
from collections.abc import Sequence
from typing import Final
from zlib import crc32

from magid.config.settings import Config
from magid.launcher import short_units
from magid.launcher.model_files import Examiner
from magid.launcher.policy import Find, configured_program, may_reach
from magid.launcher.sandbox import PYTHON, Property
from magid.launcher.short_runs import output_of
from magid.launcher.transient_units import Units
from magid.launcher.unit_request import CheckedFile
from magid.llama import device_list
from magid.llama.engines import DEFAULT
from magid.llama.program import FoundProgram
from magid.llama.short_runs import ShortRun
from magid.standalone import SCRIPTS
from magid.standalone.call_filters import can_bind_only

UNIT: Final = "llama-server@devices.service"  # of the engine of all models
_USER: Final = "llama-0"  # named as the users of servers, but used by no server
_BEYOND_PORTS: Final = range(65_536, 100_000)  # five digits, as those names have at most
_GATE: Final = SCRIPTS / "exec_model.py"
_ALONE: Final = (PYTHON, "-I", "-S")


async def output(
    engine: str | None, units: Units, settings: Config, examine: Examiner, find: Find
) -> bytes:
    """Returns what the llama-server of this engine printed. Calls for one must not overlap.

    Raises LlamaServerMissing, ServerFailed, NotAllowed, Busy, BusError.
    """
    program = await asyncio.to_thread(configured_program, settings, find, engine)
    roots = await asyncio.to_thread(examine.roots, settings.model_paths)

    async def ran(argv: Sequence[str], remote: tuple[str, ...], run: ShortRun) -> str:
        made = _properties(settings, program, roots, remote, argv, run.seconds, units.version)
        made = short_units.quiet(made, user_of(engine))
        return (await output_of(units, unit_of(engine), made, run)).decode(errors="replace")

    async def run(remote: tuple[str, ...]) -> str:
        argv = device_list.argv(str(program.path), remote)
        return await ran(argv, remote, device_list.RUN)

    async def reach(remote: tuple[str, ...]) -> str:
        script = (*_ALONE, str(SCRIPTS / device_list.REACH))
        return await ran(device_list.reach_argv(script, remote), remote, device_list.REACH_RUN)

    remote = may_reach(settings.rpc_servers)
    return (await device_list.listed(run, reach, remote)).encode()


def _properties(
    settings: Config,
    program: FoundProgram,
    roots: tuple[str, ...],
    remote: tuple[str, ...],
    argv: Sequence[str],
    seconds: float,
    version: int,
) -> list[Property]:
    found = _GATE.stat()
    gate = CheckedFile(
        str(_GATE), found.st_dev, found.st_ino
    )  # exec_model.py needs a file to check
    order = short_units.request(settings, program, roots, (), remote, filters_port=can_bind_only())
    command = [*_ALONE, gate.path, *order.short_words, str(gate), "--", *argv]
    return short_units.properties(order, version, command, seconds, "Lists the GPUs for magid")


def unit_of(engine: str | None) -> str:
    """Returns the unit that lists the devices of this engine, whose name the protocol checks."""
    return UNIT if engine is None or engine == DEFAULT else f"llama-server@devices-{engine}.service"


def user_of(engine: str | None) -> str:
    """Returns the user of that unit: lists that are made at the same time run as different ones.

    Its number is no port's. It is a checksum of the name: two engines seldom share it.
    """
    if engine is None or engine == DEFAULT:
        return _USER
    return f"llama-{_BEYOND_PORTS[crc32(engine.encode()) % len(_BEYOND_PORTS)]}"
