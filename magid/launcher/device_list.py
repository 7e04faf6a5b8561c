"""Lists the devices that llama-server finds in the sandbox of servers."""

import asyncio
import os
from pathlib import Path
from typing import Final

from magid.config.settings import Config
from magid.launcher import short_units
from magid.launcher.model_files import Examiner
from magid.launcher.policy import PROGRAM_PLACES
from magid.launcher.sandbox import PYTHON, Property
from magid.launcher.transient_units import Units
from magid.launcher.unit_request import CheckedFile
from magid.llama import device_list
from magid.llama.program import find_program
from magid.standalone import SCRIPTS

UNIT: Final = "llama-server@devices.service"
_USER: Final = "llama-0"  # a name as the servers' users have it, but no server's
_GPU_UNIT: Final = "magi-gpu.service"
_NOTICE: Final = 5  # systemd does not log each start and end of the unit
_GATE: Final = SCRIPTS / "exec_model.py"


async def output(units: Units, settings: Config, examine: Examiner) -> bytes:
    """Returns what llama-server printed. Calls must not overlap.

    Raises LlamaServerMissing, ServerFailed, Busy, BusError.
    """
    properties = await asyncio.to_thread(_properties, settings, examine, units.version)
    reading, writing = os.pipe()
    try:
        await units.run_short(UNIT, properties, writing)
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    try:
        async with asyncio.timeout(device_list.LIST_S):
            return await _read(reading)
    except TimeoutError:
        raise device_list.late() from None
    finally:
        await units.end_short(UNIT)


def _properties(settings: Config, examine: Examiner, version: int) -> list[Property]:
    configured = settings.llama_server_path
    program = find_program(str(configured) if configured else None, PROGRAM_PLACES)
    found = _GATE.stat()
    gate = CheckedFile(str(_GATE), found.st_dev, found.st_ino)  # it wants a file to check
    order = short_units.request(settings, program, examine.roots(settings.model_paths), ())
    made = short_units.properties(
        order, version, _argv(program, gate), device_list.LIST_S, "Lists the GPUs for magid"
    )
    return [
        *(p for p in made if p.name != "User"),
        Property("User", "s", _USER),
        Property("LogLevelMax", "i", _NOTICE),
        Property("Wants", "as", [_GPU_UNIT]),
        Property("After", "as", [_GPU_UNIT]),
    ]


def _argv(program: Path, gate: CheckedFile) -> list[str]:
    return [PYTHON, "-I", "-S", gate.path, str(gate), "--", *device_list.argv(str(program))]


async def _read(descriptor: int) -> bytes:
    """Returns what comes until the pipe is closed. Raises ServerFailed if it is too much."""
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", buffering=0)
    )
    try:
        found = b""
        while len(found) <= device_list.MAX_BYTES:
            piece = await reader.read(device_list.MAX_BYTES)
            if not piece:
                return found
            found += piece
        raise device_list.too_long()
    finally:
        transport.close()
