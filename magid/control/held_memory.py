"""Of which kinds the memory is that servers hold on GPUs: weights, context, what is computed with.

A placement has only their sum. The kinds are in the prediction that it was decided by, which is
found again among those that are kept, also after a restart of magid. Asks llama-server for nothing.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from magid.catalog.effective import server_specs
from magid.config.settings import Config
from magid.control.after_changes import AfterChanges
from magid.control.engine_devices import EngineDevices
from magid.control.predictions import Predictions
from magid.control.state import Change, StateStore
from magid.control.wishes import as_placement, renamed
from magid.errors import MagidError
from magid.gpus.device import Gpu
from magid.gpus.memory_table import Estimate, Need
from magid.gpus.placing import Question
from magid.llama.placement import Placement
from magid.llama.program import ProgramOf
from magid.llama.spec import ServerSpec
from magid.servers.backend import ObservedServer, ServerBackend

log = logging.getLogger(__name__)

_KINDS: Final = frozenset({"registry", "profile", "gpus", "server"})
Needs = Mapping[str, Need]  # by the id of the device


class HeldMemory:
    """Keeps what is known of each running server. The one owner of it."""

    def __init__(
        self,
        config: Config,
        launcher: ServerBackend,
        store: StateStore,
        devices: EngineDevices,
        predictions: Predictions,
        program: ProgramOf,
    ) -> None:
        self._config, self._launcher, self._store = config, launcher, store
        self._devices, self._predictions, self._program = devices, predictions, program
        self._known: dict[int, tuple[str, Placement, Needs]] = {}  # by port: hash of the spec
        self._following = AfterChanges(store, _KINDS, self._renew)

    def of(self, server: ObservedServer) -> Needs:
        """Returns what this server holds, by device; {} where the kinds are not known."""
        known = self._known.get(server.port)
        is_same = known and known[:2] == (server.spec_hash, server.placement)
        return known[2] if known and is_same else {}

    def open(self) -> None:
        """Begins to look."""
        self._following.open()

    async def close(self) -> None:
        """Idempotent."""
        await self._following.close()

    async def _renew(self) -> None:
        try:
            await self._predictions.load()
            await self._look()
        except Exception:  # the next change is another try
            log.exception("finding out what servers hold failed with an internal error")

    async def _look(self) -> None:
        before = dict(self._known)
        for server in self._launcher.observed().values():
            if server.placement is None or not server.placement.devices or self.of(server):
                continue
            if found := await self._needs_of(server, server.placement):
                self._known[server.port] = (server.spec_hash, server.placement, found)
        if self._known != before:
            self._store.notify(Change("gpus"))

    async def _needs_of(self, server: ObservedServer, placement: Placement) -> Needs:
        """Returns what was predicted; {} where its settings are no longer the model's."""
        spec = self._spec_of(server)
        if spec is None:
            return {}
        try:
            program = await self._program(spec.engine)
        except MagidError:  # there is no llama-server: what was known stays
            return {}
        gpus = self._devices.of(spec.engine).present.gpus
        for question in questions(placement, gpus):
            asked = as_placement(spec, question, gpus)
            made = self._predictions.kept(spec, program, asked)
            if made is not None and made.estimate is not None:
                return needs_in(renamed(made, asked).estimate or made.estimate, placement)
        return {}

    def _spec_of(self, server: ObservedServer) -> ServerSpec | None:
        model = self._store.snapshot.models.get(server.model_id)
        specs = () if model is None else server_specs(model, self._config.llama_server_host)
        return next((spec for spec in specs if spec.hash == server.spec_hash), None)


def questions(placement: Placement, gpus: Iterable[Gpu]) -> Iterator[Question]:
    """Yields what may have been predicted for this place. Pure.

    Of one device, a prediction holds for all of its kind and names any of them. What llama-server
    fits by itself (`part`) is not predicted.
    """
    if placement.extent == "part":
        return
    if not placement.pins_devices:
        yield Question(is_own=True)
        return
    names, ctx = tuple(one.name for one in placement.devices), placement.ctx_size
    yield Question(names, ctx, placement.shares)
    if len(names) == 1:
        for gpu in gpus:
            yield from (Question((name,), ctx) for name in gpu.names)
    if placement.extent == "own":  # the names of the GPUs that its settings mean by their ids
        yield Question(is_own=True)


def needs_in(estimate: Estimate, placement: Placement) -> Needs:
    """Returns the needs by the ids of the devices; {} if they are not those of the place. Pure."""
    if len(placement.devices) == 1:
        total = sum((one.need for one in estimate.devices), start=Need())
        needs = {placement.devices[0].id: total}
    else:
        by_name = {one.name: one.need for one in estimate.devices}
        needs = {one.id: by_name.get(one.name, Need()) for one in placement.devices}
    fits = all(needs[one.id].total <= one.need for one in placement.devices)
    return needs if fits else {}
