"""Removes the files of a model: decides which, has the launcher do it, and reads the folders again.

Removals run one after another, so that two models that share a file are not both its last one.
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Sequence

from msgspec import Struct

from magid.config.settings import Config
from magid.control import transitions
from magid.control.state import StateStore
from magid.errors import CannotWrite, Conflict
from magid.library.removal import RemovalPlan, StayingFile, plan_removal
from magid.library.turns import Turns
from magid.llama.file_removal import FileIdentity, RemovedFile
from magid.log.events import Event, about
from magid.servers.backend import ServerBackend, ServerState
from magid.wording.counts import counted
from magid.wording.sizes import size

log = logging.getLogger(__name__)


class RemovalResult(Struct, frozen=True):
    """What a removal has done, or would do (`is_plan`). Sizes in bytes."""

    model_id: str
    removed: tuple[str, ...]
    freed: int  # of a plan: what the files take
    stays: tuple[StayingFile, ...]
    is_forgotten: bool  # what users decided of the model is gone too
    is_plan: bool = False


class Removals:
    """Removes models. `rescan` reads the model folders again."""

    def __init__(
        self,
        config: Config,
        launcher: ServerBackend,
        store: StateStore,
        rescan: Callable[[], Awaitable[object]],
    ) -> None:
        self._config, self._launcher = config, launcher
        self._store, self._rescan = store, rescan
        self._turns = Turns()

    async def close(self) -> None:
        """Idempotent."""
        await self._turns.close()

    async def plan(self, model_id: str) -> RemovalResult:
        """Returns what `remove` would do now. Raises ModelNotFound, ModelGone, NotReady."""
        known, plan, _ = await self._planned(model_id)
        sizes = await asyncio.to_thread(_sizes, plan.goes)
        return RemovalResult(known, plan.goes, sizes, plan.stays, is_forgotten=False, is_plan=True)

    async def remove(self, model_id: str, *, forget: bool) -> RemovalResult:
        """Removes the files that no other model needs; with `forget` also the user's decisions.

        Goes on if the caller is cancelled: files that are gone are told and looked for again.
        Raises ModelNotFound, ModelGone, NotReady; Conflict if the model runs, or if no file of it
        can go; CannotWrite if none could be removed; what the launcher refuses.
        """
        return await self._turns.take(lambda: self._remove(model_id, forget=forget))

    async def _remove(self, model_id: str, *, forget: bool) -> RemovalResult:
        known, plan, root = await self._planned(model_id)
        self._check_stopped(known)
        if not plan.goes:
            raise Conflict(_why_nothing(known, plan.stays), modelId=known)
        files = await asyncio.to_thread(_identities, plan.goes)
        done = await self._launcher.remove_files(root, files) if files else []
        gone = tuple(one.path for one in done if not one.problem)
        freed = sum(one.freed for one in done)
        log.info(
            "removed %s of %s: %s freed", counted(len(gone), "file"), known, size(freed),
            extra=about(Event.MODEL_REMOVED, model=known),
        )  # fmt: skip
        await self._rescan()
        if done and not gone:
            raise CannotWrite(f"cannot remove {known}: {done[0].path}: {done[0].problem}")
        is_forgotten = forget and await self._forget(known)
        return RemovalResult(known, gone, freed, (*plan.stays, *_left(done)), is_forgotten)

    async def _planned(self, model_id: str) -> tuple[str, RemovalPlan, str]:
        """Returns the model's whole id, the plan, and the library's folder."""
        now = self._store.snapshot
        known = transitions.find(now, model_id).model_id
        library = self._config.library_root
        root = await asyncio.to_thread(os.path.realpath, library) if library else None
        models = {i: model.found for i, model in now.models.items()}
        return known, plan_removal(known, models, root), root or ""

    def _check_stopped(self, model_id: str) -> None:
        for server in self._launcher.observed().values():
            is_up = server.state.is_running or server.state is ServerState.BACKOFF
            if server.model_id == model_id and is_up:
                raise Conflict(
                    f"cannot remove {model_id}: it is running ({server.unit}); stop it first, or "
                    "send stop=true",
                    modelId=model_id,
                )

    async def _forget(self, model_id: str) -> bool:
        """Forgets what was decided of a model without files; False if it has some still."""
        _, now = await self._store.change(lambda now: transitions.forgotten(now, model_id))
        return model_id not in now.models


def _identities(paths: Sequence[str]) -> list[FileIdentity]:
    """Looks at the files as they are now. Leaves out those that are gone already. Blocks."""
    found = []
    for path in paths:
        try:
            status = os.lstat(path)
        except OSError:
            continue
        found.append(FileIdentity(path, status.st_dev, status.st_ino))
    return found


def _sizes(paths: Sequence[str]) -> int:
    """Returns what the files take together. Blocks."""
    total = 0
    for path in paths:
        try:
            status = os.lstat(path)
        except OSError:
            continue
        total += status.st_blocks * 512 if status.st_nlink == 1 else 0
    return total


def _left(done: Sequence[RemovedFile]) -> list[StayingFile]:
    left = [StayingFile(one.path, f"could not be removed: {one.problem}")
            for one in done if one.problem]  # fmt: skip
    return left + [
        StayingFile(
            one.path, f"has {counted(one.links, 'other name')} (hard links), which keep its bytes"
        )
        for one in done
        if one.links
    ]


def _why_nothing(model_id: str, stays: Sequence[StayingFile]) -> str:
    first = stays[0]
    return f"cannot remove {model_id}: {first.path} {first.reason}"
