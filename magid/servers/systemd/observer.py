"""Watches systemd: one connection to the bus, and one `UnitWatcher` for each unit of a model.

The connection is made again when it is lost, and the units are listed again whenever systemd may
have some that are not watched yet.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from magid.errors import MagidError
from magid.log.events import Event, about
from magid.servers.backend import ObservedServer
from magid.servers.systemd import references
from magid.servers.systemd.watcher import UnitReader, UnitWatcher
from magid.systemd.bus import MANAGER, MANAGER_PATH, PROPERTIES, SYSTEMD, Bus, BusError, Signal
from magid.systemd.journal import Journal
from magid.systemd.unit_names import UNITS, port_in, unit_path

log = logging.getLogger(__name__)

_FIRST_PAUSE_S: Final = 0.1  # before the bus is tried again
_LONGEST_PAUSE_S: Final = 5.0
BASIC: Final = "/org/freedesktop/systemd1/unit/basic_2etarget"
_UNIT: Final = "org.freedesktop.systemd1.Unit"
# magid's own units: without one of them, something cannot be started or reached.
OURS: Final = (
    *("magi-launcher.socket", "magi-launcher.service", "magi-key.socket", "magi-models.target"),
    *("magid.service", "magid.socket", "magid-local.socket", "magid-view.socket"),
)
_MEMBERS: Final = ("UnitNew", "UnitRemoved", "JobNew", "JobRemoved", "Reloading")


class UnitObserver:
    """`announce` gets each change of a server; `on_launcher` runs when the launcher may have ended.

    `address` is that of a bus other than the system bus. `problem` says why systemd cannot be
    watched at present; empty: it is watched. `masked` are those of magid's own units that an
    administrator has masked.
    """

    def __init__(
        self,
        address: str | None,
        journal: Journal,
        announce: Callable[[ObservedServer], None],
        on_launcher: Callable[[], None],
    ) -> None:
        self._address, self._journal = address, journal
        self._announce, self._on_launcher = announce, on_launcher
        self.bus = Bus(address)
        self.watched: dict[int, UnitWatcher] = {}
        self._stale = asyncio.Event()  # systemd may have units that are not watched yet
        self._keeper: asyncio.Task[None] | None = None
        self.problem = ""
        self.boot = ""
        self.masked: frozenset[str] = frozenset()

    async def open(self) -> None:
        """Reads all existing units. Raises BusError if systemd cannot be reached."""
        await self._connect()
        self.boot = await self._current_boot()
        self._keeper = asyncio.create_task(self._keep_up())

    async def close(self) -> None:
        """Stops watching. Idempotent."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        for watched in self.watched.values():
            await watched.end()
        await self.bus.close()

    async def _current_boot(self) -> str:
        """Returns the invocation of basic.target, which all services of a boot depend on.

        The kernel's boot id stays the same over a soft-reboot, and in most containers that boot
        again. This one also changes where rescue mode has ended all services, and is kept over a
        daemon-reexec.
        """
        (run,) = await self.bus.call(BASIC, PROPERTIES, "Get", "ss", _UNIT, "InvocationID")
        return bytes(run).hex()

    async def _connect(self) -> None:
        """Opens a new connection, subscribes to all signals, then reads the units."""
        await self.bus.close()
        self.bus = bus = Bus(self._address)
        await bus.open()
        bus.listen(self._on_signal)
        await bus.match(
            "type='signal',sender='org.freedesktop.DBus',path='/org/freedesktop/DBus',"
            f"interface='org.freedesktop.DBus',member='NameOwnerChanged',arg0='{SYSTEMD}'"
        )
        for member in _MEMBERS:
            await bus.match(
                f"type='signal',sender='{SYSTEMD}',path='{MANAGER_PATH}',"
                f"interface='{MANAGER}',member='{member}'"
            )
        for path in (references.PATH, *map(unit_path, self.watched)):
            await bus.match(_rule(path))
        await self._list()

    async def _list(self) -> None:
        """Reads every unit again; returns when that is done. Raises BusError."""
        self._stale.clear()
        try:
            await self.bus.call(MANAGER_PATH, MANAGER, "Subscribe")
        except BusError as error:
            if error.name != "org.freedesktop.systemd1.AlreadySubscribed":
                raise
        call = self.bus.call(MANAGER_PATH, MANAGER, "ListUnitsByPatterns", "asas", [], [UNITS])
        for name, _, load, *_ in (await call)[0]:
            port = port_in(name)
            if port is not None and load != "not-found":  # not-found: only queried by name
                await self.watch(port)
        self.masked = await self._find_masked()
        fresh = [watched.refresh() for watched in self.watched.values()]
        await _first(asyncio.gather(*fresh), self.bus.wait_closed())
        if not self.bus.is_open:
            raise BusError("org.freedesktop.DBus.Error.Disconnected", "the bus has gone away")
        self._on_launcher()

    async def _find_masked(self) -> frozenset[str]:
        """Returns magid's own units that are masked. `systemctl mask` causes a Reloading signal."""
        (rows,) = await self.bus.call(MANAGER_PATH, MANAGER, "ListUnitsByNames", "as", list(OURS))
        return frozenset(name for name, _, load, *_ in rows if load == "masked")

    async def _keep_up(self) -> None:
        """Reconnects when the bus is gone, lists the units when systemd is new. Never returns.

        Any other error is reported, and a new connection is made.
        """
        pause = _FIRST_PAUSE_S
        while True:
            try:
                if not self.problem and self.bus.is_open:
                    await _first(self._stale.wait(), self.bus.wait_closed())
                before = self.bus
                await (self._list() if self.bus.is_open and not self.problem else self._connect())
            except Exception as error:  # any: an end of the watch would go unnoticed
                self._note_loss(error, pause)
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE_S)
                continue
            pause = _FIRST_PAUSE_S
            self.problem = ""
            if self.bus is not before:
                log.info(
                    "systemd is watched again, over a new connection to the bus",
                    extra=about(Event.SYSTEMD_BACK),
                )

    def _note_loss(self, error: Exception, pause_s: float) -> None:
        code = type(error).__name__
        why = f"cannot watch systemd, because of an internal error: {error!r}"
        if isinstance(error, MagidError):
            code, why = error.code, error.message
        self.problem = why
        log.warning(
            "%s; trying again in %g s", why, pause_s,
            extra=about(Event.SYSTEMD_LOST, error=code),
            exc_info=None if isinstance(error, MagidError) else error,
        )  # fmt: skip

    def _on_signal(self, signal: Signal) -> None:
        match signal.member:
            case "PropertiesChanged" if signal.path == references.PATH:
                self._on_launcher()
            case "PropertiesChanged":
                for port, watched in self.watched.items():
                    if signal.path == unit_path(port):
                        watched.hear(_state_in(signal))
            case "NameOwnerChanged":
                self._stale.set()
            case "Reloading":
                if signal.body and not signal.body[0]:
                    self._stale.set()
            case _:
                is_job = signal.member in ("JobNew", "JobRemoved")
                self._on_unit(next(filter(None, map(port_in, _words(signal))), None), is_job)

    def _on_unit(self, port: int | None, is_job: bool) -> None:
        if port in self.watched:
            self.watched[port].invalidate(at_once=not is_job)
        elif port is not None:
            self._stale.set()  # a unit that is not watched yet

    async def watch(self, port: int) -> UnitWatcher:
        """Begins to watch the unit of this port. Idempotent."""
        if port not in self.watched:
            await self.bus.match(_rule(unit_path(port)))
        if port not in self.watched:
            reader = UnitReader(port, lambda: self.bus, self._journal)
            self.watched[port] = UnitWatcher(port, reader, self._announce)
        return self.watched[port]


def _rule(path: str) -> str:
    return (
        f"type='signal',sender='{SYSTEMD}',path='{path}',"
        f"interface='{PROPERTIES}',member='PropertiesChanged'"
    )


def _state_in(signal: Signal) -> object:
    """Returns the unit's state, if the signal tells it."""
    match signal.body:
        case [str(), {"ActiveState": active, "SubState": sub}, *_]:
            return active, sub
        case _:
            return None


def _words(signal: Signal) -> list[str]:
    return [word for word in signal.body if isinstance(word, str)]


async def _first(*events: Awaitable[object]) -> None:
    """Returns when the first event is over; cancels the others. Raises the first one's error."""
    tasks = [asyncio.ensure_future(event) for event in events]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
