"""A D-Bus connection to systemd: calls and signals, without introspection."""

import asyncio
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from dbus_fast import BusType, Message, MessageFlag, MessageType, Variant
from dbus_fast.aio import MessageBus
from dbus_fast.errors import AuthError, DBusError, InvalidAddressError
from dbus_fast.unpack import unpack_variants
from msgspec import Struct

from magid.errors import NotReady

SYSTEMD: Final = "org.freedesktop.systemd1"
MANAGER_PATH: Final = "/org/freedesktop/systemd1"
MANAGER: Final = "org.freedesktop.systemd1.Manager"
PROPERTIES: Final = "org.freedesktop.DBus.Properties"


_DAEMON: Final = "org.freedesktop.DBus"
_ANSWER_S: Final = 90.0  # systemd answers at once, except during a daemon-reload
_GONE: Final = "org.freedesktop.DBus.Error.Disconnected"
_DAEMON_PATH: Final = "/org/freedesktop/DBus"


class BusError(NotReady):
    """A call failed, or the bus has gone away; `name` is the D-Bus name of the error."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"cannot use systemd: {text} ({name})", name=name)
        self.name = name
        self.text = text


class Signal(Struct, frozen=True):
    """One signal, with variants unwrapped."""

    path: str
    interface: str
    member: str
    body: list[Any]


def variant(signature: str, value: Any) -> Any:
    """Returns a value with its type, for `Bus.call`."""
    return Variant(signature, value)


class Bus:
    """One connection. Once it is closed, every call raises BusError."""

    def __init__(self, address: str | None = None, *, passes_descriptors: bool = False) -> None:
        """`address` is a D-Bus address; None: the system bus."""
        self._address = address
        self._passes_descriptors = passes_descriptors
        self._bus: MessageBus | None = None
        self._watch: asyncio.Task[None] | None = None
        self._closed = asyncio.Event()
        self._handlers: list[Callable[[Signal], None]] = []

    @property
    def is_open(self) -> bool:
        return self._bus is not None and bool(self._bus.connected)

    def fileno(self) -> int:
        """Returns the connection's descriptor. Raises BusError if it is closed."""
        if self._bus is None or self._bus._fd is None:
            raise BusError(_GONE, "the bus has gone away")
        return int(self._bus._fd)

    async def open(self) -> None:
        """Connects; call it once. Raises BusError if the bus cannot be reached."""
        try:
            bus = MessageBus(
                bus_address=self._address,
                bus_type=BusType.SYSTEM,
                negotiate_unix_fd=self._passes_descriptors,
            )
            self._bus = await bus.connect()
        except (OSError, DBusError, EOFError, AuthError, InvalidAddressError) as error:
            raise BusError("org.freedesktop.DBus.Error.NoServer", str(error)) from error
        self._bus.add_message_handler(self._on_message)
        # Only one task waits for the disconnect: the library has one future for it, and a cancelled
        # waiter would cancel it for all.
        self._watch = asyncio.create_task(self._until_gone(self._bus))

    async def close(self) -> None:
        """Disconnects. Idempotent."""
        if self._bus is not None:
            bus, self._bus = self._bus, None
            bus.disconnect()
        if self._watch is not None:
            await asyncio.wait([self._watch])

    async def call(
        self,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        *body: Any,
        descriptors: Sequence[int] = (),
    ) -> list[Any]:
        """Calls a method of systemd; returns its values, variants unwrapped. Raises BusError.

        Values of type `h` are indices of `descriptors`, which stay the caller's.
        """
        return await self._call(
            SYSTEMD, path, interface, member, signature, *body, descriptors=descriptors
        )

    async def match(self, rule: str) -> None:
        """Subscribes to the signals that match a D-Bus rule. Raises BusError."""
        await self._call(_DAEMON, _DAEMON_PATH, _DAEMON, "AddMatch", "s", rule)

    def listen(self, handler: Callable[[Signal], None]) -> None:
        """Calls `handler` for each signal that matches a rule; it must not block."""
        self._handlers.append(handler)

    async def wait_closed(self) -> None:
        """Returns when the connection is closed, for any reason."""
        await self._closed.wait()

    async def _until_gone(self, bus: MessageBus) -> None:
        with suppress(Exception):  # whatever ended it
            await bus.wait_for_disconnect()  # type: ignore[no-untyped-call]  # dbus-fast's
        self._closed.set()

    async def _call(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str,
        *body: Any,
        descriptors: Sequence[int] = (),
    ) -> list[Any]:
        if self._bus is None or not self._bus.connected:
            raise BusError(_GONE, "the bus has gone away")
        message = Message(
            destination=destination,
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=list(body),
            flags=MessageFlag.NONE,
            unix_fds=list(descriptors),
        )
        try:
            async with asyncio.timeout(_ANSWER_S):
                reply = await self._bus.call(message)
        except TimeoutError:
            raise BusError("org.freedesktop.DBus.Error.NoReply", "no answer in time") from None
        except (OSError, EOFError, DBusError) as error:
            raise BusError(_GONE, str(error) or "the bus has gone away") from error
        if reply is None:  # the connection was closed meanwhile
            raise BusError(_GONE, "the bus has gone away")
        if reply.message_type is MessageType.ERROR:
            raise BusError(reply.error_name or "", str(reply.body[0]) if reply.body else "")
        return list(unpack_variants(reply.body))

    def _on_message(self, message: Message) -> None:
        if message.message_type is MessageType.SIGNAL:
            signal = Signal(
                message.path or "",
                message.interface or "",
                message.member or "",
                list(unpack_variants(message.body)),
            )
            for handler in tuple(self._handlers):
                handler(signal)


def major(version: str) -> int:
    """Returns the major version: `252.39-1~deb12u2` -> 252; 0 if unknown."""
    match = re.match(r"[0-9]{1,6}", version)
    return int(match[0]) if match else 0
