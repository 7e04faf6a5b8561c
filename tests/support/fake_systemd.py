"""A systemd and a privileged launcher of a test's own: the real words on a real bus and socket.

Units are tables of properties that the test changes; everybody hears of it as of the real one.
"""

import asyncio
import contextlib
import fnmatch
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from dbus_fast import BusType, Message, MessageType, Variant
from dbus_fast.aio import MessageBus

from magid.launcher import protocol
from magid.launcher.protocol import LauncherReply, Request
from magid.llama.spec import ServerSpec
from magid.servers.systemd import observer, references, watcher
from magid.systemd.bus import MANAGER, MANAGER_PATH, PROPERTIES, SYSTEMD
from magid.systemd.unit_names import unit_name, unit_path

SIGNATURES = {
    **dict.fromkeys(("Id", "ActiveState", "SubState", "LoadState", "Result", "StatusText"), "s"),
    "ControlGroup": "s",
    **dict.fromkeys(("MainPID", "ExecMainPID", "NRestarts", "StartLimitBurst", "UID"), "u"),
    **dict.fromkeys(("ExecMainCode", "ExecMainStatus"), "i"),
    **dict.fromkeys(("ExecMainStartTimestamp", "ActiveEnterTimestamp"), "t"),
    **dict.fromkeys(("MemoryCurrent", "CPUUsageNSec", "RestartUSec"), "t"),
    **dict.fromkeys(("ExecMainStartTimestampMonotonic", "ActiveEnterTimestampMonotonic"), "t"),
    **dict.fromkeys(("ExecMainExitTimestampMonotonic", "ActiveExitTimestampMonotonic"), "t"),
    "Transient": "b",
    "InvocationID": "ay",
    "LogExtraFields": "aay",
    "Job": "(uo)",
    "ExecStart": "a(sasbttttuii)",
}
Answer = Callable[[Request], Awaitable[LauncherReply | None]]


def ready(spec: ServerSpec, pid: int = 4242, run: int = 1) -> dict[str, Any]:
    """The properties of a unit that runs as this spec says."""
    argv = ["llama-server", "--host", spec.host]
    return {
        "Id": unit_name(spec.port),
        "LoadState": "loaded",
        "Transient": True,
        "ActiveState": "active",
        "SubState": "running",
        "Result": "success",
        "StatusText": "ready after 0.1 s",
        "MainPID": pid,
        "ExecMainPID": pid,
        "ExecMainCode": 0,
        "ExecMainStatus": 0,
        "NRestarts": 0,
        "InvocationID": bytes([run] * 16),
        "ExecMainStartTimestamp": 1_700_000_000_000_000,
        "ExecMainStartTimestampMonotonic": 100,
        "ActiveEnterTimestamp": 1_700_000_001_500_000,
        "ActiveEnterTimestampMonotonic": 200,
        "ExecMainExitTimestampMonotonic": 0,
        "RestartUSec": 1_000_000,
        "StartLimitBurst": 6,
        "MemoryCurrent": 5_000_000,
        "CPUUsageNSec": 1_500_000_000,
        "LogExtraFields": [
            f"MAGI_MODEL={spec.model_id}".encode(),
            f"MAGI_INSTANCE={spec.instance}".encode(),
            f"MAGI_SPEC={spec.hash}".encode(),
        ],
        "Job": (0, "/"),
        "ExecStart": [("llama-server", argv, False, 0, 0, 0, 0, 0, 0, 0)],
    }


STOPPED: dict[str, Any] = {"ActiveState": "inactive", "SubState": "dead", "MainPID": 0}


class FakeSystemd:
    """org.freedesktop.systemd1, as far as magid uses it without privilege."""

    def __init__(self, address: str) -> None:
        self.garbled = 0  # answers to come that no systemd gives
        self.units: dict[str, dict[str, Any]] = {}
        self.on_disk: dict[str, dict[str, Any]] = {}  # loaded by a read, and collected after it
        self.jobs: dict[str, str] = {}  # path -> type
        self.calls: list[str] = []
        self.target_stopped = 0  # us
        self.boot = bytes(range(16))  # InvocationID of basic.target
        self.masked: set[str] = set()
        self.launcher = "active"  # ActiveState of magi-launcher.service
        self.subscribers = 0
        self.hangs = asyncio.Event()
        self.was_read = asyncio.Event()  # all properties of some unit
        self._bus = MessageBus(bus_address=address, bus_type=BusType.SYSTEM)

    async def __aenter__(self) -> "FakeSystemd":
        await self._bus.connect()
        self._bus.add_message_handler(self._handle)
        await self._bus.request_name(SYSTEMD)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._bus.disconnect()
        with contextlib.suppress(EOFError):  # the bus had gone before
            await self._bus.wait_for_disconnect()  # type: ignore[no-untyped-call]  # dbus-fast's

    # -- what the test does ----------------------------------------------------------------

    def load(self, properties: dict[str, Any]) -> None:
        """A unit that there was not."""
        name = properties["Id"]
        self.units[name] = dict(properties)
        self._manager("UnitNew", "so", name, _path(name))

    def change(self, port: int, **properties: Any) -> None:
        name = unit_name(port)
        self.units[name] |= properties
        body = [f"{SYSTEMD}.Service", {}, list(properties)]
        self._signal(_path(name), PROPERTIES, "PropertiesChanged", "sa{sv}as", *body)
        state = {k: Variant("s", self.units[name][k]) for k in ("ActiveState", "SubState")}
        body = [f"{SYSTEMD}.Unit", state, []]
        self._signal(_path(name), PROPERTIES, "PropertiesChanged", "sa{sv}as", *body)

    def forget(self, port: int) -> None:
        name = unit_name(port)
        del self.units[name]
        self._manager("UnitRemoved", "so", name, _path(name))

    def launcher_became(self, state: str) -> None:
        self.launcher = state
        body = [f"{SYSTEMD}.Unit", {"ActiveState": Variant("s", state)}, []]
        self._signal(references.PATH, PROPERTIES, "PropertiesChanged", "sa{sv}as", *body)

    def reloaded(self) -> None:
        self._manager("Reloading", "b", False)

    def _manager(self, member: str, signature: str, *body: Any) -> None:
        if self.subscribers:  # as PID 1: silent until somebody has subscribed
            self._signal(MANAGER_PATH, MANAGER, member, signature, *body)

    def _signal(self, path: str, interface: str, member: str, signature: str, *body: Any) -> None:
        message = Message.new_signal(path, interface, member, signature, list(body))
        self._bus.send(message)

    # -- what it answers -------------------------------------------------------------------

    def _handle(self, message: Message) -> Message | bool | None:
        if message.message_type is not MessageType.METHOD_CALL:
            return None
        member = str(message.member)
        self.calls.append(member)
        if member == "KeepMeWaiting":
            self.hangs.set()
            return True  # as one that hangs: no answer, and no error either
        answer = getattr(self, f"_on_{member}", None)
        if answer is None:
            return None
        reply: Message = answer(message, *message.body)
        return reply

    def _on_Subscribe(self, message: Message) -> Message:  # noqa: N802 - the word on the bus
        self.subscribers += 1
        return Message.new_method_return(message)

    def _on_ListUnitsByPatterns(  # noqa: N802 - the word on the bus
        self, message: Message, _states: list[str], patterns: list[str]
    ) -> Message:
        if self.garbled:
            self.garbled -= 1
            return Message.new_method_return(message, "as", [["x"]])
        rows = [
            (
                *(name, "", unit["LoadState"], unit["ActiveState"], unit["SubState"]),
                *("", _path(name), 0, "", "/"),
            )
            for name, unit in self.units.items()
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
        ]
        return Message.new_method_return(message, "a(ssssssouso)", [rows])

    def _on_ListUnitsByNames(  # noqa: N802 - the word on the bus
        self, message: Message, names: list[str]
    ) -> Message:
        rows = [
            (*(name, "", "masked" if name in self.masked else "loaded", "active", "running"),
             *("", "/", 0, "", "/"))
            for name in names
        ]  # fmt: skip
        return Message.new_method_return(message, "a(ssssssouso)", [rows])

    def _on_GetUnit(self, message: Message, name: str) -> Message:  # noqa: N802 - as above
        if name not in self.units:
            return Message.new_error(message, f"{SYSTEMD}.NoSuchUnit", f"Unit {name} not loaded.")
        return Message.new_method_return(message, "o", [_path(name)])

    def _on_GetAll(self, message: Message, _interface: str) -> Message:  # noqa: N802 - as above
        self.was_read.set()
        absent = {"LoadState": "not-found"}
        for name, properties in self.on_disk.items():
            if _path(name) == message.path and name not in self.units:
                absent = properties
                self._manager("UnitNew", "so", name, _path(name))
                self._manager("UnitRemoved", "so", name, _path(name))
        properties = next((u for n, u in self.units.items() if _path(n) == message.path), absent)
        body = {k: Variant(SIGNATURES[k], v) for k, v in properties.items()}
        return Message.new_method_return(message, "a{sv}", [body])

    def _on_Get(self, message: Message, _: str, name: str) -> Message:  # noqa: N802 - as above
        if name == "JobType":
            kind = self.jobs.get(str(message.path))
            if kind is None:
                return Message.new_error(message, f"{SYSTEMD}.NoSuchJob", "no such job")
            return Message.new_method_return(message, "v", [Variant("s", kind)])
        if message.path == references.PATH:
            return Message.new_method_return(message, "v", [Variant("s", self.launcher)])
        if message.path == watcher.TARGET:
            return Message.new_method_return(message, "v", [Variant("t", self.target_stopped)])
        if message.path == observer.BASIC:
            return Message.new_method_return(message, "v", [Variant("ay", self.boot)])
        properties = next(u for n, u in self.units.items() if _path(n) == message.path)
        value = Variant(SIGNATURES[name], properties[name])
        return Message.new_method_return(message, "v", [value])


def _path(name: str) -> str:
    return unit_path(int(name.removeprefix("llama-server@").removesuffix(".service")))


@contextlib.asynccontextmanager
async def fake_launcher(path: Path, answer: Answer) -> AsyncIterator[list[Request]]:
    """Listens as the launcher does; the requests so far. An answer None: it is killed meanwhile."""
    heard: list[Request] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(protocol.parse_request(await reader.readuntil(b"\n")))
        reply = await answer(heard[-1])
        if reply is not None:
            writer.write(protocol.reply_line(reply))
        writer.close()

    server = await asyncio.start_unix_server(serve, path)
    async with server:
        yield heard
