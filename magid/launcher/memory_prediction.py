"""Predicts the memory of a server by a llama-server in the sandbox of that server.

One prediction at a time. One that a start waits for is kept waiting by no other that nothing waits
for: neither by those that are made early, nor by those whose client has left.
"""

import asyncio
from collections.abc import Callable
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


class PredictionUnits:
    """The units of predictions. Calls wait for their turn."""

    def __init__(
        self, units: Units, settings: Callable[[], Config], examine: Examiner, find: Find
    ) -> None:
        self._units, self._settings = units, settings
        self._examine, self._find = examine, find
        self._turn = asyncio.Lock()
        self._starts = 0  # predictions for a start that wait or are made
        # Of the prediction whose unit runs: whether nothing waits for it that may not be put off.
        self._gives_way: Callable[[], bool] | None = None
        self._is_ended = False  # its unit, before it was done

    async def output(self, request: PredictRequest, is_awaited: Callable[[], bool]) -> bytes | None:
        """Returns what `predict_memory.py` printed; None if the prediction gave way to a start.

        `is_awaited` tells whether the client is still there: without it nothing is predicted.
        Raises MagidError as `authorize` does, ServerFailed, Busy, BusError.
        """

        def gives_way() -> bool:
            return not is_awaited() or (self._starts > 0 and not request.for_start)

        self._starts += request.for_start
        try:
            if request.for_start:
                await self._end_other()
            async with self._turn:
                return await self._predicted(request, gives_way)
        finally:
            self._starts -= request.for_start

    async def _end_other(self) -> None:
        if self._gives_way is not None and self._gives_way():
            self._is_ended = True
            await self._units.stop_short(UNIT)

    async def _predicted(
        self, request: PredictRequest, gives_way: Callable[[], bool]
    ) -> bytes | None:
        if gives_way():
            return None
        properties = await asyncio.to_thread(
            _properties, request, self._settings(), self._examine, self._find, self._units.version
        )
        if gives_way():  # a start came meanwhile, when there was no unit to end
            return None
        self._gives_way, self._is_ended = gives_way, False
        try:
            output = await output_of(self._units, UNIT, properties, memory_prediction.RUN)
        finally:
            self._gives_way = None
        return None if self._is_ended else output


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
    gate = [*_ALONE, f"{order.scripts}/exec_model.py", *order.short_words]
    gate += [*map(str, order.files), "--"]
    seconds = memory_prediction.RUN.seconds
    made = short_units.properties(
        order, version, [*gate, *argv], seconds, f"Predicts the memory of {spec.model_id} for magid"
    )
    return [*short_units.quiet(made, _USER), Property("MemoryMax", "t", _MEMORY_MAX)]
