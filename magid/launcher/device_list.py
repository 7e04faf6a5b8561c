"""Lists the devices that llama-server finds in the sandbox of servers."""

import asyncio
from typing import Final

from magid.config.settings import Config
from magid.launcher import short_units
from magid.launcher.model_files import Examiner
from magid.launcher.policy import Find, configured_program
from magid.launcher.sandbox import PYTHON, Property
from magid.launcher.short_runs import output_of
from magid.launcher.transient_units import Units
from magid.launcher.unit_request import CheckedFile
from magid.llama import device_list
from magid.standalone import SCRIPTS

UNIT: Final = "llama-server@devices.service"
_USER: Final = "llama-0"  # named as the users of servers, but used by no server
_GATE: Final = SCRIPTS / "exec_model.py"


async def output(units: Units, settings: Config, examine: Examiner, find: Find) -> bytes:
    """Returns what llama-server printed. Calls must not overlap.

    Raises LlamaServerMissing, ServerFailed, Busy, BusError.
    """
    properties = await asyncio.to_thread(_properties, settings, examine, find, units.version)
    return await output_of(units, UNIT, properties, device_list.RUN)


def _properties(settings: Config, examine: Examiner, find: Find, version: int) -> list[Property]:
    program = configured_program(settings, find)
    found = _GATE.stat()
    gate = CheckedFile(
        str(_GATE), found.st_dev, found.st_ino
    )  # exec_model.py needs a file to check
    order = short_units.request(settings, program, examine.roots(settings.model_paths), ())
    seconds = device_list.RUN.seconds
    return short_units.quiet(
        short_units.properties(
            order, version, _argv(str(program.path), gate), seconds, "Lists the GPUs for magid"
        ),
        _USER,
    )


def _argv(program: str, gate: CheckedFile) -> list[str]:
    return [PYTHON, "-I", "-S", gate.path, str(gate), "--", *device_list.argv(program)]
