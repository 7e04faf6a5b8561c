"""What is known of the GPUs, and when llama-server is asked for them again.

The one owner of that state. llama-server is asked when magid has read its model folders, after
starts have settled and after a stop, and on request. While other servers load, a list that no
start waits for comes later: one serves a whole boot, and takes no processor time from the loads.
Where llama-server listed no GPU, starts and stops ask no more.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from magid.errors import LlamaServerMissing, MagidError
from magid.gpus.device import Gpu, gpus_of
from magid.gpus.listing import devices_in, last_line, silent_in
from magid.log.events import Event, about
from magid.servers.backend import ObservedServer, ServerBackend, ServerState

log = logging.getLogger(__name__)

# A server that has come into one of these states has changed what is free.
_SETTLED = frozenset(
    {ServerState.READY, ServerState.STOPPED, ServerState.FAILED, ServerState.BACKOFF}
)
SETTLE_S: Final = 0.05  # the next start of a queue follows milliseconds after the last one
LATEST_S: Final = 10.0  # a list takes 0.3 s of processor time or more from those that load


class DeviceList(Struct, frozen=True):
    """The GPUs as they were listed last, and why a later listing failed."""

    gpus: tuple[Gpu, ...] = ()
    listed_at: float | None = None  # seconds since the epoch; None: not yet
    problem: str = ""
    begun: float = 0.0  # when the last list was begun that did not fail; by time.monotonic

    @property
    def is_unknown(self) -> bool:
        """Whether the machine may have GPUs that could not be listed."""
        return not self.gpus and bool(self.problem)


class Devices:
    """Keeps the list of GPUs.

    `notify` is called after each list; without a GPU, only if that or the problem is new.
    """

    def __init__(
        self,
        launcher: ServerBackend,
        notify: Callable[[], None],
        remote: tuple[str, ...] = (),
        engine: str | None = None,
        unite: Callable[[DeviceList], DeviceList] = lambda listed: listed,
        latest_s: float = LATEST_S,
    ) -> None:
        """`remote` are the RPC servers of the configuration.

        `engine` is the one that is asked. `unite` adds what the lists of other engines say. A list
        that is due is begun after `latest_s`, though servers still load.
        """
        self._latest_s = latest_s
        self._launcher, self._engine, self._unite = launcher, engine, unite
        self._remote = remote
        self._notify = notify
        self._states: dict[int, ServerState] = {}
        # Numbers of lists: the last one asked for, the last that is to be made now, the last made.
        self._asked = self._wanted = self._answered = 0
        self._ready: dict[int, int] = {}  # by port: the first list that knows its server as ready
        self._soon: asyncio.TimerHandle | None = None
        self._late: asyncio.TimerHandle | None = None
        self._new = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False
        self._unsubscribe: Callable[[], None] = lambda: None
        self.listings = 0  # the number of those that did not fail
        self.failures = 0
        self.own = DeviceList()  # as the engine itself has listed them last

    @property
    def present(self) -> DeviceList:
        """Returns the last list."""
        return self._unite(self.own)

    @property
    def is_current(self) -> bool:
        """Returns whether no list is due; after `end` none comes."""
        return self._is_closed or self._answered >= self._asked

    def open(self) -> None:
        """Begins to list the GPUs; does not wait for the list."""
        self._unsubscribe = self._launcher.subscribe(self._on_server)
        self._states = {port: one.state for port, one in self._launcher.observed().items()}
        self._ask()

    def again(self) -> None:
        """Begins another list; does not wait for it."""
        self._ask()

    async def refresh(self) -> DeviceList:
        """Returns a list that was begun after this call."""
        return await self._list_of(self._ask())

    async def fresh(self, max_age_s: float) -> DeviceList:
        """Returns a list that no change of a server has made out of date, or a new one.

        Where the last list had no GPU, it is returned whatever its age.
        """
        if self._answered < self._asked:
            return await self._list_of(self._begin())
        present = self.present
        if present.listed_at is None and not present.problem:
            return await self.refresh()
        is_old = time.time() - (present.listed_at or 0.0) > max_age_s
        return await self.refresh() if present.gpus and is_old else present

    def knows(self, port: int) -> bool:
        """Returns whether the server on this port, if it is ready, was so at the last list."""
        return self._ready.get(port, 0) <= self._answered

    async def next_list(self) -> DeviceList:
        """Returns a list that no change of a server has made out of date, when there is one.

        Unlike `fresh` it hastens nothing.
        """
        return await self._list_of(self._asked)

    async def _list_of(self, number: int) -> DeviceList:
        while self._answered < number and not self._is_closed:
            await self._new.wait()
        return self.present

    def end(self) -> None:
        """Ends a listing in progress; those who wait for it get the list that is there.

        None is begun from now on, although servers that end with magid still change. Idempotent.
        """
        self._is_closed = True
        self._unsubscribe()
        self._drop_timers()
        if self._task is not None:
            self._task.cancel()
        self._answer(self._asked)

    async def close(self) -> None:
        """As `end`; returns when no task is left. Idempotent."""
        self.end()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    def _on_server(self, server: ObservedServer) -> None:
        before = self._states.get(server.port)
        self._states[server.port] = server.state
        is_news = before is not None and before is not server.state
        if is_news and server.state in _SETTLED and self._may_have_gpus:
            self._asked += 1
            if server.state is ServerState.READY:
                self._ready[server.port] = self._asked
        if self._asked > max(self._answered, self._wanted):
            self._begin_soon()

    @property
    def _may_have_gpus(self) -> bool:
        """Returns whether a list may show a GPU, as far as the last one tells."""
        return bool(self.own.gpus or self.own.problem) or self.own.listed_at is None

    def _begin_soon(self) -> None:
        """Has the list that is due begin when no server loads, or some time after it became due."""
        loop = asyncio.get_running_loop()
        if self._soon is not None:
            self._soon.cancel()
        self._soon = loop.call_later(SETTLE_S, self._begin_if_calm)
        if self._late is None:
            self._late = loop.call_later(self._latest_s, self._begin)

    def _begin_if_calm(self) -> None:
        if not any(state.is_loading for state in self._states.values()):
            self._begin()

    def _drop_timers(self) -> None:
        for timer in (self._soon, self._late):
            if timer is not None:
                timer.cancel()
        self._soon = self._late = None

    def _ask(self) -> int:
        """Requests a list; of several requests during a listing, one more listing comes."""
        self._asked += 1
        return self._begin()

    def _begin(self) -> int:
        """Begins what was asked for, now or after the listing in progress. Returns its number."""
        self._drop_timers()
        self._wanted = self._asked
        if not self._is_closed and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._list())
        return self._wanted

    async def _list(self) -> None:
        while self._answered < self._wanted:
            asked, before = self._asked, self.own
            self.own = await self._listed()
            self._answer(asked)
            if self.own.gpus or _without_time(before) != _without_time(self.own):
                self._notify()

    def _answer(self, number: int) -> None:
        self._answered = number
        self._new.set()
        self._new = asyncio.Event()

    async def _listed(self) -> DeviceList:
        begun = time.monotonic()
        try:
            output = await self._launcher.list_devices(self._engine)
        except LlamaServerMissing as error:  # a condition says so
            self.failures += 1
            return replace(self.own, problem=error.message)
        except MagidError as error:
            return self._failed(error.message)
        except Exception:  # those who wait for a list must not wait for ever
            log.exception("listing the GPUs failed with an internal error")
            return self._failed("cannot list the GPUs: an internal error; the log has its trace")
        devices = devices_in(output, self._remote)
        if devices is None:
            return self._failed(
                f"cannot list the GPUs: llama-server printed no list: {last_line(output)}; "
                "`magictl doctor` looks for the cause"
            )
        self.listings += 1
        problem = "; ".join(silent_in(output))
        if problem and problem != self.own.problem:
            log.warning("%s", problem, extra=about(Event.GPUS_UNKNOWN))
        return DeviceList(gpus_of(devices), time.time(), problem, begun)

    def _failed(self, problem: str) -> DeviceList:
        """Keeps what was known, and logs a problem that is new."""
        self.failures += 1
        if problem != self.own.problem:
            log.warning("%s", problem, extra=about(Event.GPUS_UNKNOWN))
        return replace(self.own, problem=problem)


def _without_time(listed: DeviceList) -> tuple[bool, tuple[Gpu, ...], str]:
    return listed.listed_at is not None, listed.gpus, listed.problem
