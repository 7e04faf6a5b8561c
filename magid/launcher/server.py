"""`magi-launcher`: the only part of magid that creates, starts and stops units of systemd.

It runs as root, started by its socket, and serves only magid and root. A request names a port, a
model file, numbers and options; the launcher decides everything else about the unit from the
configuration, which is root's. It keeps nothing on disk.

It holds a reference on each of its units for as long as it runs, because systemd forgets a
transient unit that has stopped. So `systemctl start llama-server@8080` works after a stop.
"""

import asyncio
import logging
import os
import pwd
import select
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from typing import Final
from weakref import WeakValueDictionary

from magid.config.settings import Config
from magid.errors import Busy, InvalidInput, MagidError, NotAllowed, TimedOut
from magid.launcher import (
    device_list,
    downloading,
    file_removal,
    memory_prediction,
    protocol,
    sandbox,
)
from magid.launcher.download_request import DownloadRequest
from magid.launcher.keys import KeyRing
from magid.launcher.model_files import Examiner
from magid.launcher.policy import authorize
from magid.launcher.protocol import (
    DevicesRequest,
    ForgetRequest,
    LauncherReply,
    Ping,
    PredictRequest,
    RemoveRequest,
    Request,
    StartRequest,
    StopRequest,
)
from magid.launcher.transient_units import Units
from magid.llama.program_search import ProgramSearch
from magid.systemd.journal_socket import JournalSocket

USER: Final = "magi"  # the only user besides root that the launcher serves
SOCKET: Final = "/run/magi/launcher.sock"
REQUEST_S: Final = 10.0  # time limit for a whole request to arrive
MAX_CONNECTIONS: Final = 16
REFUSED_ID: Final = "c3a97e52d6b04b1f8e0d7f6429ab53e8"  # Event.ORDER_REFUSED; `log` is not for root


log = logging.getLogger("magi-launcher")


# -- connections and requests ----------------------------------------------------------------


class LauncherServer:
    """Answers connections.

    `settings` is called for each start: an edited configuration takes effect at once.
    """

    def __init__(
        self,
        units: Units,
        keys: KeyRing,
        settings: Callable[[], Config],
        *,
        request_s: float = REQUEST_S,
    ) -> None:
        self._units = units
        self._keys = keys
        self._settings = settings
        self._request_s = request_s
        self._examine = Examiner()
        self._programs = ProgramSearch()
        self._locks: dict[int, asyncio.Lock] = {}
        # By unit. A lock lives while a request holds it or waits for it.
        self._listing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._predictions = memory_prediction.PredictionUnits(
            units, settings, self._examine, self._programs.find
        )
        self._removing = asyncio.Lock()
        self._downloads = downloading.DownloadUnits(units)
        self._connections = 0
        self._changed = asyncio.Event()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers the one request of a connection.

        A change is finished even if the caller disconnects; a question is then not begun.
        """
        self._count(+1)
        try:
            reply = await self._reply(reader, writer)
            writer.write(protocol.reply_line(reply))
            with suppress(OSError, TimeoutError):
                await asyncio.wait_for(writer.drain(), REQUEST_S)
        finally:
            writer.close()
            self._count(-1)

    async def idle(self, seconds: float) -> None:
        """Returns once no request came for this many seconds and no unit is held."""
        while True:
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), seconds)
            except TimeoutError:
                if not self._connections and not self._units.held:
                    return

    def close(self) -> None:
        """Ends the workers that wait for a file system that hangs."""
        self._examine.close()
        self._programs.close()

    async def drained(self) -> None:
        """Returns when no request is in progress."""
        while self._connections:
            self._changed.clear()
            await self._changed.wait()

    def _count(self, step: int) -> None:
        self._connections += step
        self._changed.set()

    async def _reply(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> LauncherReply:
        try:
            if self._connections > MAX_CONNECTIONS:
                raise Busy("cannot take more requests at once; try again")
            # The request is read before the peer check: a refused peer would not see the reply.
            line = await _line(reader, self._request_s)
            client = writer.get_extra_info("socket")
            check_peer(client)
            return await self._carry_out(protocol.parse_request(line), lambda: is_there(client))
        except MagidError as error:
            tell_refusal(error)
            return refusal(error)
        except Exception:
            log.exception("a request failed")
            return LauncherReply("InternalError", "cannot do it: see the journal of magi-launcher")

    async def _carry_out(self, request: Request, is_awaited: Callable[[], bool]) -> LauncherReply:
        match request:
            case Ping():
                return LauncherReply(details={"units": len(self._units.held)})
            case DevicesRequest(engine):
                return await self._list_devices(engine, is_awaited)
            case PredictRequest():
                return await self._predict(request, is_awaited)
            case RemoveRequest():
                return await self._remove(request)
            case DownloadRequest():
                return await self._downloads.carry_out(request, self._settings)
            case StartRequest(spec):
                return await self._alone(spec.port, lambda: self._start(request))
            case StopRequest(port):
                return await self._alone(port, lambda: self._stop(port))
            case ForgetRequest(port):
                return await self._alone(port, lambda: self._forget(port))

    async def _alone(self, port: int, work: Callable[[], Awaitable[None]]) -> LauncherReply:
        async with self._locks.setdefault(port, asyncio.Lock()):
            await work()
        return LauncherReply()

    async def _start(self, start: StartRequest) -> None:
        order = await asyncio.to_thread(
            authorize, start, self._settings(), self._examine, self._programs.find
        )
        properties = sandbox.unit_properties(order, self._units.version)
        log.info("starting %s (%s)", order.spec.unit, order.spec.model_id)
        await self._units.start(order.spec.port, properties)

    async def _list_devices(
        self, engine: str | None, is_awaited: Callable[[], bool]
    ) -> LauncherReply:
        async with self._listing.setdefault(device_list.unit_of(engine), asyncio.Lock()):
            if not is_awaited():
                return refusal(Busy("cannot list the GPUs for a client that has left"))
            output = await device_list.output(
                engine, self._units, self._settings(), self._examine, self._programs.find
            )
        return protocol.output_reply(output)

    async def _predict(
        self, request: PredictRequest, is_awaited: Callable[[], bool]
    ) -> LauncherReply:
        output = await self._predictions.output(request, is_awaited)
        if output is None:  # as it should be, so the journal has no refusal
            return refusal(
                Busy(
                    f"cannot predict the memory of {request.spec.model_id} now: the prediction "
                    "gave way to a start; try again"
                )
            )
        return protocol.output_reply(output)

    async def _remove(self, request: RemoveRequest) -> LauncherReply:
        log.info("removing model files: %s", ", ".join(one.path for one in request.files[:3]))
        async with self._removing:
            output = await file_removal.output(request, self._units, self._settings())
        return protocol.output_reply(output)

    async def _stop(self, port: int) -> None:
        log.info("stopping port %d", port)
        await self._units.stop(port)

    async def _forget(self, port: int) -> None:
        log.info("forgetting port %d", port)
        await self._units.forget(port)
        self._keys.remove(port)


async def _line(reader: asyncio.StreamReader, limit_s: float) -> bytes:
    """Reads the request's line. Raises InvalidInput, TimedOut."""
    try:
        async with asyncio.timeout(limit_s):
            return await reader.readuntil(b"\n")
    except TimeoutError:
        raise TimedOut(f"cannot wait for the request any longer than {limit_s:g} s") from None
    except asyncio.LimitOverrunError:
        raise InvalidInput(
            f"cannot use request: it is longer than {protocol.MAX_LINE_BYTES} bytes",
            field="request",
        ) from None
    except (asyncio.IncompleteReadError, OSError):
        raise InvalidInput(
            "cannot use request: it does not end with a newline", field="request"
        ) from None


def check_peer(connection: socket.socket) -> None:
    """Raises NotAllowed unless the other end, when it connected, was root or magid."""
    size = struct.calcsize("3i")
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    _, uid, _ = struct.unpack("3i", credentials)
    if uid not in (os.geteuid(), _uid_of(USER)):
        raise NotAllowed(f"cannot serve user {uid}: only root and {USER} may ask")


def is_there(client: socket.socket) -> bool:
    """Whether the other end is open; one that has only ended its own side still reads the reply."""
    if client.fileno() < 0:
        return False
    poll = select.poll()
    poll.register(client, 0)  # a hangup is told unasked
    return not any(events & select.POLLHUP for _, events in poll.poll(0))


def _uid_of(name: str) -> int:
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return os.geteuid()  # no user but our own


def refusal(error: MagidError) -> LauncherReply:
    """Returns the error as a reply, with those of its details that are strings or integers."""
    plain = {
        key: value
        for key, value in error.details.items()
        if isinstance(value, str | int) and key not in ("ok", "error", "message")
    }
    return LauncherReply(error.code, error.message, plain)


def tell_refusal(error: MagidError) -> None:
    """Logs a refusal to the journal with an id that magi.catalog explains.

    Without a journal, logs it to stderr.
    """
    text = " ".join(f"refused: {error.message}".split())
    fields = {
        "MESSAGE": text,
        "MESSAGE_ID": REFUSED_ID,
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "magi-launcher",
        "MAGI_ERROR": error.code,
    }
    try:
        with closing(JournalSocket()) as journal:
            journal.send(fields)
    except OSError:
        log.warning("%s", text)
