"""What memory a server would need: asked of llama-server once, and kept.

A prediction holds for the files, the llama-server and the arguments that it was made with, so these
are its key. One is made at a time.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from dataclasses import replace
from typing import Final

from msgspec import Struct

from magid.errors import Busy, MagidError
from magid.gpus.memory_report import problem_in, report_in
from magid.gpus.memory_table import Estimate
from magid.llama.arguments import prediction_argv
from magid.llama.program import LlamaProgram
from magid.llama.spec import ServerSpec
from magid.servers.backend import ServerBackend
from magid.wording.counts import counted

log = logging.getLogger(__name__)

MAX_KEPT: Final = 1000
MAX_WAITING: Final = 8  # a caller may ask for any context, and each costs a process

_Key = tuple[object, ...]


class Prediction(Struct, frozen=True):
    """An estimate, or why there is none."""

    at: float  # seconds since the epoch
    estimate: Estimate | None = None
    problem: str = ""


class Predictions:
    """Makes and keeps predictions. The one owner of them."""

    def __init__(self, launcher: ServerBackend) -> None:
        self._launcher = launcher
        self._kept: OrderedDict[_Key, Prediction] = OrderedDict()
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def of(self, spec: ServerSpec, program: LlamaProgram) -> Prediction:
        """Returns the prediction for this server; starts nothing that stays. Seconds at most.

        Raises Busy if too many wait. What else fails is the prediction's problem, and not kept.
        """
        try:
            key = _key(spec, program)
        except MagidError as error:
            return Prediction(time.time(), problem=error.message)
        if found := self._found(key):
            return found
        if self._waiting >= MAX_WAITING:
            raise Busy(
                f"cannot predict the memory of {spec.model_id} now: "
                f"{counted(self._waiting, 'other prediction waits', 'other predictions wait')}; "
                "try again"
            )
        self._waiting += 1
        try:
            async with self._turn:
                return self._found(key) or await self._made(key, spec)
        finally:
            self._waiting -= 1

    def _found(self, key: _Key) -> Prediction | None:
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    async def _made(self, key: _Key, spec: ServerSpec) -> Prediction:
        made = await self._asked(spec)
        if made.estimate is not None:
            self._kept[key] = made
            if len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
        return made

    async def _asked(self, spec: ServerSpec) -> Prediction:
        try:
            output = await self._launcher.predict_memory(spec)
        except MagidError as error:
            return Prediction(time.time(), problem=error.message)
        report = report_in(output)
        if report is None:
            return Prediction(time.time(), problem=problem_in(output))
        estimate = report.estimate
        if estimate is None:
            log.info("no prediction for %s: %s", spec.model_id, report.problem)
            return Prediction(time.time(), problem=report.problem)
        return Prediction(time.time(), estimate)


def _key(spec: ServerSpec, program: LlamaProgram) -> _Key:
    """Raises InvalidInput if the program lacks what the spec needs."""
    nameless = replace(spec, model_id="model")  # equal files need equal memory
    argv = prediction_argv(nameless, str(program.path), program.flags)
    return (program.version, program.changed_at, spec.stamp, *argv)
