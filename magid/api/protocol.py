"""Client connections: requests for the gateway bypass Sanic, Sanic gets all others.

A gateway request is recognised only where a request may begin. If Sanic is idle, a segment that
begins with one bypasses Sanic altogether; if Sanic finds one in its own buffer, Sanic hands it
over. This module also works around the defects of Sanic 25.12 between the socket and a request;
all other code uses Sanic's own classes and does not depend on this one.
"""

import asyncio
import re
import socket
import ssl
from asyncio import BaseTransport
from collections.abc import Iterator, Sequence
from time import monotonic
from typing import Any, cast

from msgspec.structs import replace
from sanic import HTTPResponse, Request, Sanic
from sanic.exceptions import BadRequest, BadURL
from sanic.http import Http as SanicHttp
from sanic.http import Stage
from sanic.server import AsyncioServer, HttpProtocol

from magid.api.sockets import BACKLOG, ViewSocket
from magid.auth import sandboxed
from magid.errors import InvalidConfig
from magid.gateway.frontend.connection import ClientConnection
from magid.gateway.frontend.context import FrontendContexts
from magid.gateway.frontend.request_reader import MAX_TRAILERS
from magid.gateway.routing.endpoints import GATEWAY_TARGET
from magid.http.framing import MAX_CHUNK_LINE, is_trailer


class Protocol(HttpProtocol):
    """Sanic's protocol with two missing timeouts.

    Sanic restarts the timeout for a request's head with every byte; this class does not. Sanic has
    no timeout for a client that takes no bytes, and would keep an answer to it for an hour.
    """

    __slots__ = ("_cut_off", "is_fresh")

    def connection_made(self, transport: BaseTransport) -> None:
        self.is_fresh = True  # no byte has arrived yet
        self._cut_off: asyncio.TimerHandle | None = None
        super().connection_made(transport)  # Sanic's

    def pause_writing(self) -> None:
        super().pause_writing()  # Sanic's
        transport = cast(asyncio.Transport, self.transport)
        self._cut_off = self.loop.call_later(self.app.config.SEND_TIMEOUT, transport.abort)

    def resume_writing(self) -> None:
        """Cancels the timeout for sending. asyncio calls this for a lost connection too."""
        super().resume_writing()  # Sanic's
        if self._cut_off is not None:
            self._cut_off.cancel()
            self._cut_off = None

    def close_if_idle(self) -> bool:
        """Closes an idle connection. Sanic alone would also close one with an unread request."""
        return not self.recv_buffer and super().close_if_idle()

    def data_received(self, data: bytes) -> None:
        self.is_fresh = False
        reads_head = self.http is not None and self.http.stage is Stage.REQUEST
        began = self._time if reads_head else None
        super().data_received(data)
        if began is not None:
            self._time = began


class Application(Sanic[Any, Any]):
    """Sanic's application, in which a signal without a handler costs next to nothing.

    Each request dispatches about ten signals. Sanic's touch-up removes those without a handler
    from the source of Sanic's own classes; that takes a tenth of a start, and fails for the second
    application of a process.
    """

    def dispatch(self, event: str, **details: Any) -> Any:
        if event in self.signal_router.name_index:
            return super().dispatch(event, **details)
        return _no_handler()


async def _no_handler() -> None:
    """The result of a signal that has no handler."""


class WireRequest(Request[Any, Any]):
    """Sanic's request, which gets a 400 if its target cannot be parsed.

    Sanic alone would send no answer: for an unreadable head it creates an empty request of method
    NONE with the same target, which fails in the same way.
    """

    def __init__(self, url_bytes: bytes, *args: Any, **kwargs: Any) -> None:
        try:
            super().__init__(url_bytes, *args, **kwargs)
        except BadURL:
            if kwargs.get("method") != "NONE":
                raise
            super().__init__(b"*", *args, **kwargs)


class Response(HTTPResponse):
    """Sanic's response, which sends exactly the headers that it was given.

    Sanic would remove Content-Length from a 412, so that the client waits for the end of the body
    forever, write `content-type: None` for an empty body, and add an empty `alt-svc`.
    """

    @property
    def processed_headers(self) -> Iterator[tuple[bytes, bytes]]:
        for name, value in self.headers.items():
            if name.lower() != "alt-svc":
                yield name.encode("ascii"), str(value).encode(errors="surrogateescape")


_GATEWAY = re.compile(b"[A-Za-z]{1,16} " + GATEWAY_TARGET.encode())
_DECIDED_BYTES = 384  # enough to recognise any gateway request
_TLS_HANDSHAKE = b"\x16\x03"  # how the first record of a TLS client begins (RFC 8446 5.1)
_UNREADABLE = b"\x16\r\n\r\n"


def _is_gateways(data: bytes | bytearray) -> bool | None:
    """Whether a request that begins with `data` is the gateway's; None: too few bytes yet. Pure."""
    if _GATEWAY.match(data):
        return True
    if len(data) >= _DECIDED_BYTES or b"\r\n" in data or data.count(b" ") > 1:
        return False
    return None


class Http(SanicHttp):
    """Sanic's HTTP reader, which leaves the gateway's requests out."""

    async def http1_request_header(self) -> None:
        await cast("DispatchingProtocol", self.protocol).sanics_turn()
        await super().http1_request_header()

    async def read(self) -> bytes | None:
        """Reads over trailers behind a chunked body, which Sanic alone refuses."""
        try:
            data: bytes | None = await super().read()
        except BadRequest:
            if self.request_body is not None or not await self._skip_trailers():
                raise
            return None
        return data

    async def _skip_trailers(self) -> bool:
        """Whether what stands in the buffer, behind the last chunk, are trailers to their end."""
        buffer = self.recv_buffer
        for _ in range(MAX_TRAILERS):
            while (end := buffer.find(b"\r\n")) < 0:
                if len(buffer) > MAX_CHUNK_LINE:
                    return False
                await self._receive_more()
            line = bytes(buffer[: end + 2])
            if not end or not is_trailer(line):
                return False
            del buffer[: end + 2]
            while len(buffer) < 2:
                await self._receive_more()
            if buffer.startswith(b"\r\n"):
                del buffer[:2]
                return True
        return False


class DispatchingProtocol(Protocol):
    """One client connection, shared by Sanic and the gateway."""

    HTTP_CLASS = Http
    is_view = False  # its clients may only read
    __slots__ = ("_connection", "is_models")

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self._connection: ClientConnection | None = None
        self.is_models = False  # the connection comes from a model's sandbox

    # -- asyncio.Protocol --------------------------------------------------------------------

    def connection_made(self, transport: BaseTransport) -> None:
        if self.app.ctx.has_model_users:
            self.is_models = sandboxed.comes_from_model(transport)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self.is_fresh and data.startswith(_TLS_HANDSHAKE):
            # Its record need not have the end of a head: refused at once, the client need not wait.
            data = _UNREADABLE
        self.is_fresh = False
        connection = self._connection
        if connection is not None and connection.is_busy and not self.recv_buffer:
            # It is also busy while the client takes no bytes; what Sanic has not read comes first.
            connection.feed(data)
        elif self._is_between and _GATEWAY.match(data):
            self._gateway_connection().feed(data)
        else:
            super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._connection is not None:
            self._connection.lost()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._connection is not None:
            self._connection.pause(paused=True)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._connection is not None:
            self._connection.pause(paused=False)

    # -- Sanic's protocol --------------------------------------------------------------------

    def check_timeouts(self) -> None:
        """Stops Sanic's timeout for idle connections while the gateway answers."""
        if self._connection is not None and self._connection.is_busy:
            self._time = monotonic()
        super().check_timeouts()

    def close_if_idle(self) -> bool:
        if self._connection is not None and self._connection.is_busy:
            return False
        closed: bool = super().close_if_idle()
        return closed

    async def sanics_turn(self) -> None:
        """Feeds the gateway's requests to it, and returns when the next request is Sanic's.

        Ignores one empty line before a request (RFC 9112 2.2).
        """
        buffer, http = self.recv_buffer, self.http
        may_be_empty = True
        while True:
            if may_be_empty and buffer.startswith(b"\r\n"):
                may_be_empty = False
                del buffer[:2]
            if not buffer:
                http.stage = Stage.IDLE
                await self.receive_more()
                http.stage = Stage.REQUEST
                continue
            verdict = _is_gateways(buffer)
            if verdict is False:
                return
            if verdict is None:
                await self.receive_more()
                continue
            data = bytes(buffer)
            buffer.clear()
            http.stage = Stage.IDLE
            self._gateway_connection().feed(data)
            may_be_empty = True

    # -- inside ------------------------------------------------------------------------------

    @property
    def _is_between(self) -> bool:
        """Whether a request may begin here: Sanic is idle, stays open, and its buffer is empty.

        Sanic is idle too while it discards the rest of a body that it has answered early, and once
        it has ended or is about to, as after a time-out: what comes then is no request, whatever it
        looks like. Over TLS some may come after the connection was closed.
        """
        if self.recv_buffer or self._is_ending:
            return False
        http = self.http  # None: Sanic's task has not begun
        return http is None or (http.stage is Stage.IDLE and http.keep_alive)

    @property
    def _is_ending(self) -> bool:
        task, transport = self._task, self.transport
        return task is None or task.cancelling() > 0 or transport is None or transport.is_closing()

    def _gateway_connection(self) -> ClientConnection:
        if self._connection is None:
            transport = cast(asyncio.Transport, self.transport)
            peer = transport.get_extra_info("peername")
            contexts: FrontendContexts = self.app.ctx.contexts
            is_tcp = isinstance(transport.get_extra_info("sockname"), tuple)
            host = str(peer[0]) if is_tcp and peer else "local"
            context = contexts.of(host if is_tcp else None)
            if self.is_models or self.is_view:
                context = replace(context, is_shut=self.is_models, is_view=self.is_view)
            self._connection = ClientConnection(context, transport, host, self.data_received)
        return self._connection


class ViewProtocol(DispatchingProtocol):
    """A connection over the socket of the group magi-view."""

    is_view = True
    __slots__ = ()


async def listen(
    app: Sanic[Any, Any], sockets: Sequence[socket.socket], tls: ssl.SSLContext | None = None
) -> "Listening":
    """Starts to accept connections, with `tls` on TCP.

    Starts the application once, however many sockets there are.
    """
    servers: list[AsyncioServer] = []
    for sock in sockets:
        is_tcp = sock.family != socket.AF_UNIX
        server = await app.create_server(
            sock=sock,
            ssl=tls if is_tcp else None,
            protocol=ViewProtocol if isinstance(sock, ViewSocket) else DispatchingProtocol,
            backlog=BACKLOG,
            return_asyncio_server=True,
        )
        if server is None:
            raise InvalidConfig(f"cannot serve on {sock.getsockname()!r}")
        if not servers:
            await server.startup()
            await server.before_start()
        servers.append(server)
    await servers[0].after_start()
    return Listening(servers)


_LOOK_S = 0.02  # between checks for idle connections
# A client that has just connected is about to send a request, and would take a close for a failure.
_FIRST_REQUEST_S = 1.0


class Listening:
    """The servers that accept connections."""

    def __init__(self, servers: Sequence[AsyncioServer]) -> None:
        self._servers = servers

    def close(self) -> None:
        """Stops accepting; existing connections go on."""
        for server in self._servers:
            server.close()

    async def ended(self) -> None:
        """Waits until every request has its whole answer. Closes each connection when it is idle.

        Waits up to one second for the first request of a new connection.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _FIRST_REQUEST_S
        await asyncio.sleep(_LOOK_S)  # connections accepted just now are not yet in the list
        while connections := [c for server in self._servers for c in server.connections]:
            for connection in connections:
                if not connection.is_fresh or loop.time() > deadline:
                    connection.close_if_idle()
            await asyncio.sleep(_LOOK_S)
