"""Predicts the memory of wanted servers in advance, so that a start does not wait for it.

One at a time and at the lowest priority; without GPUs only what may lack memory. What was predicted
is kept on disk, so after a restart nothing is to be done.
"""

import logging
from collections.abc import Iterable

from magid.control.after_changes import AfterChanges
from magid.control.placing import Placing
from magid.control.state import StateStore
from magid.errors import Busy, MagidError
from magid.llama.spec import ServerSpec

log = logging.getLogger(__name__)

_KINDS = frozenset({"registry", "profile", "gpus"})
_MOST_KNOWN = 10_000


class EarlyPredictions:
    """Looks at what is wanted after each change of it, and of the list of GPUs."""

    def __init__(self, placing: Placing, store: StateStore) -> None:
        self._placing, self._store = placing, store
        self._known: set[str] = set()  # hashes of specs
        self._failed: set[str] = set()  # of those, the ones that had no prediction
        self._following = AfterChanges(store, _KINDS, self._predict_all)

    def open(self) -> None:
        """Begins, with what is wanted now."""
        self._following.open()

    async def close(self) -> None:
        """Ends the prediction in progress. Idempotent."""
        await self._following.close()

    def extend(self, specs: Iterable[ServerSpec]) -> None:
        """Predicts more of these servers: a change of what is free has led to other questions.

        Where the last prediction failed, the start will try again. Idempotent.
        """
        again = {spec.hash for spec in specs} & self._known - self._failed
        if again:
            self._known -= again
            self._following.again()

    async def _predict_all(self) -> None:
        put_off: set[str] = set()
        while (spec := self._next()) is not None:
            try:
                await self._predict(spec)
            except Busy as error:  # a start comes first, and changes what is free
                log.debug("no early prediction for %s yet: %s", spec.model_id, error.message)
                put_off.add(spec.hash)
        self._known -= put_off

    def _next(self) -> ServerSpec | None:
        """Returns a wanted server whose memory was not predicted yet."""
        if not self._placing.knows_gpus:
            return None
        wanted = self._store.snapshot.wanted.specs
        return next((spec for spec in wanted if spec.hash not in self._known), None)

    async def _predict(self, spec: ServerSpec) -> None:
        """Raises Busy if it is to be tried again after the next change."""
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
            self._failed.clear()
        self._known.add(spec.hash)
        try:
            if (await self._placing.decided(spec)).problem:
                self._failed.add(spec.hash)
        except Busy:
            raise
        except MagidError as error:  # the start will have it predicted
            log.debug("no early prediction for %s: %s", spec.model_id, error.message)
        except Exception:
            log.exception("an early prediction failed with an internal error")
