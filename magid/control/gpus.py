"""What magid knows of GPUs and of the memory of servers, and what it decides from that."""

from collections.abc import Callable, Sequence
from functools import partial

from magid.config.settings import Config
from magid.control import overhead_cache, planner, prediction_cache
from magid.control.early_predictions import EarlyPredictions
from magid.control.engine_devices import EngineDevices
from magid.control.engines import AbsentEngines
from magid.control.fits import ModelFits
from magid.control.held_memory import HeldMemory
from magid.control.placing import Placing
from magid.control.predictions import Predictions
from magid.control.resources import MachineResources
from magid.control.state import Change, StateStore
from magid.control.wishes import facts_of
from magid.errors import DeviceMissing
from magid.gpus.eviction import Evictable, Stopping, Waiting
from magid.host.memory_limits import SLICE, memory_within
from magid.llama.program import ProgramOf
from magid.servers.backend import ServerBackend


class GpuState:
    """The list of GPUs, the predictions and the decisions; one of each."""

    def __init__(
        self,
        config: Config,
        launcher: ServerBackend,
        program: ProgramOf,
        store: StateStore,
        on_engine: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_engine` is called when an engine is back that models have been given."""
        self._on_engine = on_engine
        self._launcher, self._store = launcher, store
        self.devices = EngineDevices(launcher, self._on_list, config.rpc_servers)
        self.predictions = Predictions(
            launcher, config.state_dir / prediction_cache.NAME, lambda: self.fits.look_again()
        )
        self.engines = AbsentEngines(config.engines_dir, store, self._take_up)
        machine = partial(memory_within, SLICE if launcher.has_model_users else None)
        self.machine = MachineResources(
            lambda: store.snapshot, lambda: self.devices.present, machine
        )
        self.placing = Placing(
            config, launcher, self.devices, self.predictions, program,
            lambda model_id: facts_of(store.snapshot.models.get(model_id)), machine,
            overheads=config.state_dir / overhead_cache.NAME,
        )  # fmt: skip
        self.held = HeldMemory(config, launcher, store, self.devices, self.predictions, program)
        self._early = EarlyPredictions(self.placing, store)
        self.fits = ModelFits(
            config, launcher, store, self.devices, self.predictions, self.placing, program,
            self._early.extend,
        )  # fmt: skip

    async def room_for(
        self, model_id: str, candidates: Sequence[Evictable]
    ) -> Stopping | Waiting | None:
        """Returns which models have to stop before the model may start; see `Placing.room_for`."""
        wanted = self._store.snapshot.wanted
        starts = planner.only(model_id, wanted, self._launcher.observed()).start
        return await self.placing.room_for(starts[0].spec, candidates) if starts else None

    def lacks_device(self, model_id: str) -> bool:
        """Returns whether the model was refused for want of a GPU that is not listed now either."""
        for spec in self._store.snapshot.wanted.specs:
            _, error = self.placing.refused.get(spec.port, ("", None))
            if spec.model_id == model_id and isinstance(error, DeviceMissing):
                gpus = self.devices.of(spec.engine).present.gpus
                there = {name.lower() for gpu in gpus for name in gpu.all_names}
                return any(name.lower() not in there for name in (spec.device or "").split(","))
        return False

    async def open(self) -> None:
        """Begins to list the GPUs; does not wait for the list. Engines are known afterwards."""
        await self.engines.open()
        self.placing.open()
        self.devices.open()
        self._store.subscribe(self._follow_engines)
        self.devices.keep(self._store.snapshot.engines)
        self._early.open()
        self.fits.open()
        self.held.open()

    async def refresh(self) -> None:
        """Returns when the engines were looked for, and the GPUs listed, after this call."""
        await self.engines.look()
        await self.devices.refresh()

    def _on_list(self) -> None:
        self.placing.on_list()
        self._store.notify(Change("gpus"))

    def _take_up(self, engines: frozenset[str]) -> None:
        for engine in engines:
            self.devices.of(engine).again()
        self._on_engine()

    def _follow_engines(self, change: Change) -> None:
        if change.kind == "registry":
            self.devices.keep(self._store.snapshot.engines)

    async def close(self) -> None:
        """Ends what is under way. Idempotent."""
        await self.engines.close()
        await self.held.close()
        await self.fits.close()
        await self._early.close()
        await self.placing.close()
        await self.devices.close()
