"""What memory a server would need: asked of llama-server once, and kept.

A prediction holds for the files, the llama-server and the arguments that it was made with, so these
are its key. One is made at a time.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from msgspec import structs

from magid.control.prediction_cache import Prediction, PredictionCache, key_of
from magid.errors import Busy, MagidError
from magid.gpus.memory_report import problem_in, report_in
from magid.gpus.memory_table import with_adapters
from magid.llama.arguments import prediction_argv
from magid.llama.placement import Placement
from magid.llama.program import LlamaProgram
from magid.llama.server_shape import is_mapped
from magid.llama.spec import ServerSpec
from magid.servers.backend import ServerBackend
from magid.wording.counts import counted

log = logging.getLogger(__name__)

_MOST_FAILED: Final = 256
MAX_WAITING: Final = 8  # a caller may ask for any context, and each costs a process


class Predictions:
    """Makes and keeps predictions. The one owner of them; `path` is the file that keeps them."""

    def __init__(
        self,
        launcher: ServerBackend,
        path: Path | None = None,
        on_made: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_made` is called after each new prediction, and when one fails for a new reason."""
        self._launcher, self._on_made = launcher, on_made
        self._kept = PredictionCache(path)
        self._failed: dict[str, Prediction] = {}  # the last try of each, if it failed
        self._is_loaded = False
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._starts = 0  # that wait
        self._early: asyncio.Task[Prediction] | None = None  # being made, and no start waits for it

    async def of(
        self,
        spec: ServerSpec,
        program: LlamaProgram,
        placement: Placement | None = None,
        *,
        for_start: bool = False,
    ) -> Prediction:
        """Returns the prediction for this server; starts nothing that stays. Seconds at most.

        With a placement: of the server there, whatever that place holds. A start is never refused
        because others ask, so `for_start` is for the one decision at a time that starts wait for.
        It runs with the priority of the start, and one that does not is made after it.

        Raises Busy if too many wait, or if it gave way to a start. What else fails is the
        prediction's problem, and tried again when it is asked for again.
        """
        try:
            key = _key(spec, program, placement)
        except MagidError as error:
            return Prediction(time.time(), problem=error.message)
        if found := self._kept.get(key):
            return found
        if self._waiting >= MAX_WAITING and not for_start:
            raise Busy(
                f"cannot predict the memory of {spec.model_id} now: "
                f"{counted(self._waiting, 'other prediction waits', 'other predictions wait')}; "
                "try again"
            )
        if for_start and self._early is not None:
            self._early.cancel()
        self._starts += for_start
        self._waiting += 1
        try:
            while True:
                async with self._turn:
                    await self._load()
                    if found := self._kept.get(key):
                        return found
                    if for_start:
                        return await self._made(key, spec, placement, for_start=True)
                    if not self._starts and (made := await self._made_early(key, spec, placement)):
                        return made
                # A start that was called off has yet to leave, and a free lock does not suspend.
                await asyncio.sleep(0)
        finally:
            self._starts -= for_start
            self._waiting -= 1

    async def _made_early(
        self, key: str, spec: ServerSpec, placement: Placement | None
    ) -> Prediction | None:
        """Returns the prediction; None if a start does not wait for its end."""
        made = self._made(key, spec, placement, for_start=False)
        self._early = task = asyncio.create_task(made)
        try:
            await asyncio.wait([task])
        finally:
            self._early = None
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return None if task.cancelled() else task.result()

    def kept(
        self, spec: ServerSpec, program: LlamaProgram, placement: Placement | None = None
    ) -> Prediction | None:
        """Returns the prediction that was made before, or how the last try failed; see `load`.

        None if there was no try.
        """
        try:
            key = _key(spec, program, placement)
            return self._kept.get(key) or self._failed.get(key)
        except MagidError as error:
            return Prediction(time.time(), problem=error.message)

    async def load(self) -> None:
        """Reads the file that keeps them. Idempotent."""
        async with self._turn:
            await self._load()

    async def _load(self) -> None:
        if not self._is_loaded:
            await asyncio.to_thread(self._kept.load)
            self._is_loaded = True

    async def _made(
        self, key: str, spec: ServerSpec, placement: Placement | None, *, for_start: bool
    ) -> Prediction:
        made = await self._asked(spec, placement, for_start=for_start)
        if made.estimate is None:
            self._note_failure(key, made)
        else:
            self._failed.pop(key, None)
            self._kept.put(key, made)
            self._on_made()
            await asyncio.to_thread(self._kept.write, self._kept.document())
        return made

    def _note_failure(self, key: str, made: Prediction) -> None:
        before = self._failed.pop(key, None)
        self._failed[key] = made
        if len(self._failed) > _MOST_FAILED:
            del self._failed[next(iter(self._failed))]
        if before is None or before.problem != made.problem:
            self._on_made()  # not each time: who is told of it may ask again

    async def _asked(
        self, spec: ServerSpec, placement: Placement | None, *, for_start: bool
    ) -> Prediction:
        try:
            output = await self._launcher.predict_memory(spec, placement, for_start=for_start)
        except MagidError as error:
            if isinstance(error, Busy) and not for_start:
                raise  # later it can be made: that is no failure of this prediction
            return Prediction(time.time(), problem=error.message)
        report = report_in(output)
        if report is None:
            return Prediction(time.time(), problem=problem_in(output))
        estimate = report.estimate
        if estimate is None:
            log.info("no prediction for %s: %s", spec.model_id, report.problem)
            return Prediction(time.time(), problem=report.problem)
        estimate = structs.replace(estimate, is_mapped=is_mapped(spec))
        return Prediction(time.time(), with_adapters(estimate, spec.lora_bytes))


def _key(spec: ServerSpec, program: LlamaProgram, placement: Placement | None) -> str:
    """Raises InvalidInput if the program lacks what the spec needs."""
    nameless = replace(spec, model_id="model")  # equal files need equal memory
    argv = prediction_argv(nameless, str(program.path), program.flags, placement)
    stamps = (spec.stamp, *filter(None, (spec.draft_stamp, spec.lora_stamp)))
    return key_of((program.version, program.changed_at, *stamps, *argv))
