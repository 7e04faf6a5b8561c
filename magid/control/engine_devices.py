"""The GPUs as each engine lists them that models use. The one owner of these lists.

A model runs with the llama-server of its engine, so it goes by that one's list. One physical GPU is
one, whatever number of engines list it.
"""

import asyncio
from collections.abc import Callable, Iterable

from msgspec.structs import replace

from magid.control.devices import DeviceList, Devices
from magid.gpus import engines
from magid.llama.engines import DEFAULT
from magid.servers.backend import ServerBackend


class EngineDevices:
    """A list for each engine in use, and one of all GPUs. None is the engine of all models."""

    def __init__(
        self,
        launcher: ServerBackend,
        notify: Callable[[], None],
        remote: tuple[str, ...] = (),
    ) -> None:
        """`notify` and `remote` are as those of `Devices`."""
        self._launcher, self._notify, self._remote = launcher, notify, remote
        self._by_engine: dict[str | None, Devices] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._is_open = False
        self._default = self.of(None)

    def of(self, engine: str | None) -> Devices:
        """Returns the list of the engine in this setting; begins it if it is new."""
        name = None if engine == DEFAULT else engine
        if name not in self._by_engine:
            made = Devices(
                self._launcher, self._notify, self._remote, name,
                lambda listed: self._united(name, listed),
            )  # fmt: skip
            self._by_engine[name] = made
            if self._is_open:
                made.open()
        return self._by_engine[name]

    def keep(self, used: Iterable[str]) -> None:
        """Begins the lists of these engines, and drops those of engines in no use. Idempotent."""
        names = {None, *used}
        for name in names:
            self.of(name)
        for name in self._by_engine.keys() - names:
            task = asyncio.create_task(self._by_engine.pop(name).close())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    @property
    def present(self) -> DeviceList:
        """Returns all GPUs: as the engine of all models has listed them, and those of others.

        A problem is that of the engine of all models: another one's concerns its models alone.
        """
        own = self._default.own
        if len(self._by_engine) == 1:
            return own
        lists = [one.own for one in self._by_engine.values()]
        gpus = engines.together([one.gpus for one in lists])
        return replace(own, gpus=gpus, begun=min(one.begun for one in lists))

    @property
    def listings(self) -> int:
        """Returns the number of lists that did not fail."""
        return sum(one.listings for one in self._by_engine.values())

    @property
    def failures(self) -> int:
        return sum(one.failures for one in self._by_engine.values())

    def open(self) -> None:
        """Begins to list the GPUs; does not wait for the lists."""
        self._is_open = True
        for devices in self._by_engine.values():
            devices.open()

    async def refresh(self) -> DeviceList:
        """Returns all GPUs, of lists that were begun after this call."""
        await asyncio.gather(*(one.refresh() for one in list(self._by_engine.values())))
        return self.present

    def know(self, engine: str | None, port: int) -> bool:
        """Returns whether the server on this port, if it is ready, was so at the engine's list."""
        return self.of(engine).knows(port)

    async def close(self) -> None:
        """Ends all lists. Idempotent."""
        self._is_open = False
        for devices in self._by_engine.values():
            await devices.close()
        await asyncio.gather(*self._ending, return_exceptions=True)

    def _united(self, name: str | None, listed: DeviceList) -> DeviceList:
        """Returns the list of one engine with the ids that its GPUs have in all lists."""
        if len(self._by_engine) == 1 or name not in self._by_engine:
            return listed
        lists = {one: devices.own.gpus for one, devices in self._by_engine.items()}
        place = list(lists).index(name)
        return replace(listed, gpus=engines.united(list(lists.values()))[place])
