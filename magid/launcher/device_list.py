"""Lists the devices that llama-server finds in the sandbox of servers."""

import asyncio
from typing import Final

from magid.config.settings import Config
from magid.launcher import short_units
from magid.launcher.model_files import Examiner
from magid.launcher.policy import Find, configured_program, may_reach
from magid.launcher.sandbox import PYTHON, Property
from magid.launcher.short_runs import output_of
from magid.launcher.transient_units import Units
from magid.launcher.unit_request import CheckedFile, UnitRequest
from magid.llama import device_list
from magid.standalone import SCRIPTS

UNIT: Final = "llama-server@devices.service"
_USER: Final = "llama-0"  # named as the users of servers, but used by no server
_GATE: Final = SCRIPTS / "exec_model.py"


async def output(units: Units, settings: Config, examine: Examiner, find: Find) -> bytes:
    """Returns what llama-server printed. Calls must not overlap.

    Raises LlamaServerMissing, ServerFailed, Busy, BusError.
    """

    async def run(remote: tuple[str, ...]) -> str:
        properties = await asyncio.to_thread(
            _properties, settings, examine, find, units.version, remote
        )
        output = await output_of(units, UNIT, properties, device_list.RUN)
        return output.decode(errors="replace")

    return (await device_list.listed(run, may_reach(settings.rpc_servers))).encode()


def _properties(
    settings: Config, examine: Examiner, find: Find, version: int, remote: tuple[str, ...]
) -> list[Property]:
    program = configured_program(settings, find)
    found = _GATE.stat()
    gate = CheckedFile(
        str(_GATE), found.st_dev, found.st_ino
    )  # exec_model.py needs a file to check
    order = short_units.request(settings, program, examine.roots(settings.model_paths), (), remote)
    seconds = device_list.RUN.seconds
    argv = _argv(str(program.path), gate, order)
    made = short_units.properties(order, version, argv, seconds, "Lists the GPUs for magid")
    return short_units.quiet(made, _USER)


def _argv(program: str, gate: CheckedFile, order: UnitRequest) -> list[str]:
    first = [PYTHON, "-I", "-S", gate.path, *order.connect_words, str(gate), "--"]
    return [*first, *device_list.argv(program, order.remote)]
