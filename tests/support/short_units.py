"""A systemd of short units on a bus of a test's own: it makes them, and the test ends them."""

import asyncio
import os
from collections.abc import Callable
from typing import Any

from dbus_fast import BusType, Message, MessageType, Variant
from dbus_fast.aio import MessageBus

from magid.systemd.bus import MANAGER, MANAGER_PATH, SYSTEMD
from tests.support.deadlines import PATIENCE_S

_PROPERTIES = {
    "Version": Variant("s", "257"),
    "Transient": Variant("b", True),
    "ActiveState": Variant("s", "active"),
    "FragmentPath": Variant("s", ""),
    "LogExtraFields": Variant("aay", []),
    "TimeoutStopUSec": Variant("t", 10_000_000),
    "NRestarts": Variant("u", 0),
}
_PATH = "/org/freedesktop/systemd1/unit/short"


class ShortUnits:
    """org.freedesktop.systemd1, as far as the launcher needs it for units that end by themselves.

    `made` has the description and the user of each unit, `running` the output of those that run.
    """

    def __init__(self, address: str) -> None:
        self.made: list[tuple[str, str]] = []
        self.running: dict[str, int] = {}
        self._moved = asyncio.Event()
        self._bus = MessageBus(bus_address=address, bus_type=BusType.SYSTEM, negotiate_unix_fd=True)

    async def __aenter__(self) -> "ShortUnits":
        await self._bus.connect()
        self._bus.add_message_handler(self._handle)
        await self._bus.request_name(SYSTEMD)
        return self

    async def __aexit__(self, *_: object) -> None:
        for name in tuple(self.running):
            self.end(name)
        self._bus.disconnect()
        await self._bus.wait_for_disconnect()  # type: ignore[no-untyped-call]  # dbus-fast's

    def end(self, name: str, output: bytes = b"") -> None:
        """The unit prints this and ends."""
        descriptor = self.running.pop(name)
        os.write(descriptor, output)
        os.close(descriptor)
        self._bus.send(
            Message.new_signal(MANAGER_PATH, MANAGER, "UnitRemoved", "so", [name, _PATH])
        )
        self._wake()

    async def until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not is_so():
                await self._moved.wait()

    def _wake(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()

    def _handle(self, message: Message) -> Message | None:
        if message.message_type is not MessageType.METHOD_CALL:
            return None
        answer = getattr(self, f"_on_{message.member}", None)
        found: Message | None = answer(message, *message.body) if answer else None
        return found

    def _on_Subscribe(self, message: Message) -> Message:  # noqa: N802 - the word on the bus
        return Message.new_method_return(message)

    def _on_Get(self, message: Message, _: str, name: str) -> Message:  # noqa: N802 - as above
        return Message.new_method_return(message, "v", [_PROPERTIES[name]])

    def _on_ListUnitsByPatterns(  # noqa: N802 - the word on the bus
        self, message: Message, *_: list[str]
    ) -> Message:
        return Message.new_method_return(message, "a(ssssssouso)", [[]])

    def _on_StartTransientUnit(  # noqa: N802 - the word on the bus
        self, message: Message, name: str, _mode: str, properties: list[Any], _aux: list[Any]
    ) -> Message:
        (descriptor,) = message.unix_fds
        if name in self.running:
            os.close(descriptor)
            return Message.new_error(message, f"{SYSTEMD}.UnitExists", name)
        values = {key: variant.value for key, variant in properties}
        self.running[name] = descriptor
        self.made.append((values["Description"], values["User"]))
        self._wake()
        return Message.new_method_return(message, "o", [_PATH])

    def _on_StopUnit(  # noqa: N802 - the word on the bus
        self, message: Message, name: str, _mode: str
    ) -> Message:
        if name not in self.running:
            return Message.new_error(message, f"{SYSTEMD}.NoSuchUnit", name)
        self.end(name)
        return Message.new_method_return(message, "o", [_PATH])

    def _on_GetUnit(self, message: Message, name: str) -> Message:  # noqa: N802 - as above
        if name not in self.running:
            return Message.new_error(message, f"{SYSTEMD}.NoSuchUnit", name)
        return Message.new_method_return(message, "o", [_PATH])
