"""Predicts the memory of a server by a llama-server in the sandbox of that server."""

import asyncio
from dataclasses import replace
from typing import Final

from magid.config.settings import Config
from magid.launcher import short_units
from magid.launcher.model_files import Examiner
from magid.launcher.policy import Find, authorize
from magid.launcher.protocol import PredictRequest, StartRequest
from magid.launcher.sandbox import PYTHON, Property
from magid.launcher.short_runs import output_of
from magid.launcher.transient_units import Units
from magid.llama import memory_prediction
from magid.standalone import SCRIPTS

UNIT: Final = "llama-server@memory.service"
_USER: Final = "llama-1"  # named as the users of servers, but used by no server
_MEMORY_MAX: Final = 4 << 30  # llama-server takes 110 MB, plus the driver's share
_ALONE: Final = (PYTHON, "-I", "-S")


async def output(
    request: PredictRequest, units: Units, settings: Config, examine: Examiner, find: Find
) -> bytes:
    """Returns what `predict_memory.py` printed. Calls must not overlap.

    Raises MagidError as `authorize` does, ServerFailed, Busy, BusError.
    """
    properties = await asyncio.to_thread(
        _properties, request, settings, examine, find, units.version
    )
    return await output_of(units, UNIT, properties, memory_prediction.RUN)


def _properties(
    request: PredictRequest, settings: Config, examine: Examiner, find: Find, version: int
) -> list[Property]:
    spec, flags = request.spec, request.flags
    start = StartRequest(spec, None, flags, request.placement)
    order = authorize(start, settings, examine, find)
    program = order.argv[0]
    script = (*_ALONE, str(SCRIPTS / memory_prediction.SCRIPT))
    argv = memory_prediction.command(
        script, spec, program, flags, request.placement, for_start=request.for_start
    )
    order = replace(order, argv=(), key_source="/dev/null")
    gate = [*_ALONE, f"{order.scripts}/exec_model.py", *order.connect_words]
    gate += [*map(str, order.files), "--"]
    seconds = memory_prediction.RUN.seconds
    made = short_units.properties(
        order, version, [*gate, *argv], seconds, f"Predicts the memory of {spec.model_id} for magid"
    )
    return [*short_units.quiet(made, _USER), Property("MemoryMax", "t", _MEMORY_MAX)]
