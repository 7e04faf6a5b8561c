"""Creates, starts and stops the transient units of models, by messages to systemd.

The caller decides what a unit contains. The order of the steps here rests on these facts about
systemd: an existing unit cannot be created again, a stopped transient unit exists for as long as a
client holds a reference, and it goes away some time after the last reference is dropped.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Final

from magid.errors import Busy, Conflict, TimedOut
from magid.launcher.sandbox import ORDER_FIELD, Property, field_of
from magid.launcher.unit_facts import FACTS, UNIT, UnitFacts, seen_in
from magid.systemd.bus import (
    MANAGER,
    MANAGER_PATH,
    PROPERTIES,
    SYSTEMD,
    Bus,
    BusError,
    Signal,
    major,
    variant,
)
from magid.systemd.unit_names import UNITS, port_in, unit_name, unit_path

log = logging.getLogger("magi-launcher")
_SIGNALS: Final = ("JobRemoved", "UnitRemoved")
_EXISTS: Final = "org.freedesktop.systemd1.UnitExists"
_GONE: Final = frozenset(
    {
        "org.freedesktop.systemd1.NoSuchUnit",
        "org.freedesktop.systemd1.NotReferenced",
        "org.freedesktop.DBus.Error.UnknownObject",
    }
)
_REMOVAL_S: Final = 10.0  # systemd forgets a unit milliseconds later, in another turn of its loop
_PROVEN_S: Final = 1.0  # a unit that stays active for this long has started successfully
_JOB_S: Final = 1.0  # a stop that takes longer is looked at before its job has ended
_STOP_MARGIN_S: Final = 30.0


class Units:
    """The units of all servers. Calls for one port must not overlap."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._news: dict[str, asyncio.Event] = {}  # by unit: set, and removed, at each signal
        self._hear_gone: Callable[[int], None] = lambda port: None
        self.version = 0
        self.held: set[int] = set()  # ports of the units that we hold a reference to
        self._made: dict[int, str] = {}  # by port: of what those of them that we made are made
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Takes a reference to every unit that an earlier launcher made. Raises BusError."""
        self._bus.listen(self._hear)
        for member in _SIGNALS:
            await self._bus.match(
                f"type='signal',sender='{SYSTEMD}',path='{MANAGER_PATH}',"
                f"interface='{MANAGER}',member='{member}'"
            )
        await self._manager("Subscribe")
        (version,) = await self._bus.call(MANAGER_PATH, PROPERTIES, "Get", "ss", MANAGER, "Version")
        self.version = major(version)
        (listed,) = await self._manager("ListUnitsByPatterns", "asas", [], [UNITS])
        for name, *_ in listed:
            await self._adopt(name)

    async def close(self) -> None:
        """Cancels all background calls to systemd. Idempotent."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def when_gone(self, hear: Callable[[int], None]) -> None:
        """Registers `hear`: called with the port of each unit that systemd has forgotten."""
        self._hear_gone = hear

    async def start(self, port: int, properties: Sequence[Property]) -> None:
        """Starts the unit that these properties describe; returns once its job is queued.

        A unit with the same properties is restarted; a different one is stopped and removed first.
        Raises BusError, TimedOut, and Conflict if magid did not make the existing unit.
        """
        name, order = unit_name(port), _order_in(properties)
        is_made = port in self.held and bool(order) and order == self._made.get(port)
        if is_made and await self._restart(name):
            return
        seen = await self._ours(name)
        if seen and seen.order == order and port in self.held and await self._restart(name):
            return
        if seen:
            await self._end(port)
        await self._make(port, properties)

    async def stop(self, port: int) -> None:
        """Stops the unit; returns when no process is left. The unit can be started again."""
        name = unit_name(port)
        if port in self.held or await self._ours(name):
            await self._stop(name)

    async def forget(self, port: int) -> None:
        """Stops and releases the unit; returns when systemd has forgotten it."""
        if await self._ours(unit_name(port)):
            await self._end(port)

    async def run_short(self, name: str, properties: Sequence[Property], output: int) -> None:
        """Starts a unit that ends by itself, its output going to this descriptor.

        Raises Busy if the last one of that name has not ended.
        """
        streams = [Property(f"Standard{of}FileDescriptor", "h", 0) for of in ("Output", "Error")]
        body = [[p.name, variant(p.signature, p.value)] for p in (*properties, *streams)]
        signature = "ssa(sv)a(sa(sv))"
        try:
            await self._bus.call(
                MANAGER_PATH, MANAGER, "StartTransientUnit", signature, name, "replace", body, [],
                descriptors=[output],
            )  # fmt: skip
        except BusError as error:
            if error.name != _EXISTS:
                raise
            raise Busy(
                f"cannot start {name}: the last one has not ended; see `systemctl status {name}`",
                unit=name,
            ) from None

    async def stop_short(self, name: str) -> None:
        """Begins to stop a unit of `run_short`, whose output ends with it. Idempotent."""
        await self._tolerant("StopUnit", name, "replace")

    async def end_short(self, name: str) -> None:
        """Stops a unit of `run_short`; returns when systemd has forgotten it. Idempotent."""
        await self.stop_short(name)
        await self._until(name, lambda seen: not seen.transient, _REMOVAL_S)

    async def run_lasting(self, name: str, properties: Sequence[Property]) -> None:
        """Starts a unit that ends by itself, some time; does nothing while it runs.

        Raises BusError, and Conflict if magid did not make the existing unit.
        """
        seen = await self._look(name)
        if seen and seen.fragment and not seen.transient:
            raise _not_ours(name, seen.fragment)
        if seen and seen.transient and not seen.is_down:
            return
        await self.end_lasting(name, _REMOVAL_S)
        body = [[p.name, variant(p.signature, p.value)] for p in properties]
        await self._manager("StartTransientUnit", "ssa(sv)a(sa(sv))", name, "replace", body, [])

    async def end_lasting(self, name: str, patience_s: float) -> None:
        """Stops a unit of `run_lasting`; returns when systemd has forgotten it. Idempotent."""
        await self._tolerant("StopUnit", name, "replace")
        await self._until(name, lambda seen: seen.is_down, patience_s)
        await self._tolerant("ResetFailedUnit", name)
        await self._until(name, lambda seen: not seen.transient, _REMOVAL_S)

    # -- steps -------------------------------------------------------------------------------

    async def _adopt(self, name: str) -> None:
        port = port_in(name)
        seen = await self._look(name)
        if port is not None and seen and seen.is_ours:
            await self._manager("RefUnit", "s", name)
            self.held.add(port)

    async def _make(self, port: int, properties: Sequence[Property]) -> None:
        body = [[p.name, variant(p.signature, p.value)] for p in properties]
        signature = "ssa(sv)a(sa(sv))"
        name = unit_name(port)
        # Held before the call: UnitRemoved of an earlier unit may still be on its way.
        self.held.add(port)
        self._made.pop(port, None)
        try:
            await self._manager("StartTransientUnit", signature, name, "replace", body, [])
            self._made[port] = _order_in(properties)
        except BusError as error:
            self.held.discard(port)
            if error.name == _EXISTS and (path := await self._fragment(name)):
                raise _not_ours(name, path) from None
            raise

    async def _restart(self, name: str) -> bool:
        """Returns False if there is no such unit."""
        return all(
            await asyncio.gather(  # at once: systemd answers a client in the order of its calls
                self._tolerant("ResetFailedUnit", name),
                self._tolerant("RestartUnit", name, "replace"),
            )
        )

    async def _fragment(self, name: str) -> str:
        """Returns the file on disk that systemd would load this unit from; "" without one."""
        (path,) = await self._manager("LoadUnit", "s", name)
        (fragment,) = await self._bus.call(path, PROPERTIES, "Get", "ss", UNIT, "FragmentPath")
        return str(fragment)

    async def _end(self, port: int) -> None:
        """Stops the unit, drops the reference, and waits until systemd has forgotten the unit."""
        name = unit_name(port)
        await self._stop(name)
        if port in self.held:
            self.held.discard(port)
            self._made.pop(port, None)
            await self._tolerant("UnrefUnit", name)
        await self._until(name, lambda seen: not seen.transient, _REMOVAL_S)

    async def _stop(self, name: str) -> None:
        """Returns when the unit is down, which is looked at when its job has ended."""
        news = self._next_news(name)  # before the call, so that no signal is missed
        if not await self._tolerant("StopUnit", name, "replace"):
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(_JOB_S):
                await news.wait()
        left = await self._look(name)
        if left is not None and not left.is_down:
            patience_s = left.stop_s + _STOP_MARGIN_S
            left = await self._until(name, lambda seen: seen.is_down, patience_s)
        if left is not None and (left.active == "failed" or left.restarts):
            await self._tolerant("ResetFailedUnit", name)
        else:  # its count of starts alone, which no caller waits for
            self._in_background(self._reset(name))

    async def _reset(self, name: str) -> None:
        with suppress(BusError):
            await self._tolerant("ResetFailedUnit", name)

    async def _until(
        self, name: str, over: Callable[[UnitFacts], bool], patience_s: float
    ) -> UnitFacts | None:
        """Waits until `over` is true or the unit is gone; checks at each signal. TimedOut.

        Returns what was seen last; None if the unit is gone.
        """
        try:
            async with asyncio.timeout(patience_s):
                while True:
                    news = self._next_news(name)  # before the look, so that no signal is missed
                    seen = await self._look(name)
                    if seen is None or over(seen):
                        return seen
                    await news.wait()
        except TimeoutError:
            raise TimedOut(
                f"cannot end {name} within {patience_s:g} s: it may have been started "
                f"again, or be held by another client; see `systemctl status {name}`",
                unit=name,
            ) from None

    async def _ours(self, name: str) -> UnitFacts | None:
        """Returns the unit if it is loaded. Raises Conflict if magid did not make it."""
        fragment = ""
        for _ in range(2):  # it may have gone away between two of its properties
            seen = await self._look(name)
            if seen is None or not (seen.transient or seen.fragment):
                return None
            if seen.is_ours:
                return seen
            fragment = seen.fragment
        raise _not_ours(name, fragment)

    async def _look(self, name: str) -> UnitFacts | None:
        """Returns the unit's facts; None if it is not loaded. Does not load the unit."""
        port = port_in(name)
        try:
            if port is not None and port in self.held:  # so it is loaded
                path = unit_path(port)
            else:
                (path,) = await self._manager("GetUnit", "s", name)
            calls = [self._bus.call(path, PROPERTIES, "Get", "ss", *fact) for fact in FACTS]
            found = await asyncio.gather(*calls)
        except BusError as error:
            if error.name in _GONE:
                return None
            raise
        names = [property_name for _, property_name in FACTS]
        return seen_in({one: value for one, (value,) in zip(names, found, strict=True)})

    # -- messages ----------------------------------------------------------------------------

    async def _manager(self, member: str, signature: str = "", *body: Any) -> list[Any]:
        return await self._bus.call(MANAGER_PATH, MANAGER, member, signature, *body)

    async def _tolerant(self, member: str, *body: str) -> bool:
        """Calls the manager. Returns False for a unit that is already gone, which is no error."""
        try:
            await self._manager(member, "s" * len(body), *body)
        except BusError as error:
            if error.name not in _GONE:
                raise
            return False
        return True

    def _hear(self, signal: Signal) -> None:
        if signal.interface != MANAGER or signal.member not in _SIGNALS:
            return
        match signal.member, signal.body:
            case "UnitRemoved", [str(name), *_]:
                self._wake(name)
                port = port_in(name)
                if port is not None and port not in self.held:
                    self._hear_gone(port)
            case "JobRemoved", [_, _, str(name), result]:
                self._wake(name)
                if result == "done" and port_in(name) in self.held:
                    self._in_background(self._forgive(name))
            case _:
                pass

    def _next_news(self, name: str) -> asyncio.Event:
        """Returns what is set at the next signal of the unit. Those who wait share it."""
        return self._news.setdefault(name, asyncio.Event())

    def _wake(self, name: str) -> None:
        if (news := self._news.pop(name, None)) is not None:
            news.set()

    def _in_background(self, call: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(call)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _forgive(self, name: str) -> None:
        """Removes a successful manual start from systemd's count towards its start limit.

        The limit spans the time of several failures, many minutes. A user who restarts a model that
        often, to try its settings, would find it down. Automatic restarts still count.

        Waits a moment first: the reset also clears the failure reason of a unit that has failed
        meanwhile.
        """
        await asyncio.sleep(_PROVEN_S)
        with suppress(BusError):
            seen = await self._look(name)
            if seen and seen.is_ours and seen.active == "active" and not seen.restarts:
                await self._tolerant("ResetFailedUnit", name)
                log.info("%s started well: the start does not count towards its limit", name)


# -- reading ---------------------------------------------------------------------------------


def _not_ours(name: str, fragment: str) -> Conflict:
    where = fragment or "made elsewhere"
    return Conflict(
        f"cannot use {name}: a unit of that name exists that magid did not make ({where}); "
        "remove it, or give the model another port",
        unit=name,
    )


def _order_in(properties: Sequence[Property]) -> str:
    fields = next((p.value for p in properties if p.name == "LogExtraFields"), ())
    return field_of(fields, ORDER_FIELD)
