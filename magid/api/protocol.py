"""Each client connection: requests for the gateway go past Sanic, all others to it.

The gateway's are looked for where a request may begin: when Sanic is idle a segment that begins
with one goes past Sanic altogether; when Sanic comes to one in its own buffer it hands it over.
What Sanic 25.12 gets wrong between the socket and a request is mended here, once; everything above
works with Sanic's own classes and does not know of this.
"""

import asyncio
import re
import socket
import ssl
from asyncio import BaseTransport
from collections.abc import Iterator, Sequence
from dataclasses import replace
from time import monotonic
from typing import Any, cast

from sanic import HTTPResponse, Request, Sanic
from sanic.exceptions import BadURL
from sanic.http import Http as SanicHttp
from sanic.http import Stage
from sanic.server import AsyncioServer, HttpProtocol

from magid.api.sockets import BACKLOG
from magid.auth import sandboxed
from magid.errors import InvalidConfig
from magid.gateway.frontend.connection import ClientConnection
from magid.gateway.frontend.context import FrontendContext


class Protocol(HttpProtocol):
    """Sanic's clock for a request's head starts anew with every byte; this one does not.

    It has none for a client that takes no bytes: an answer to one would be kept for an hour.
    """

    __slots__ = ("_cut_off", "is_fresh")

    def connection_made(self, transport: BaseTransport) -> None:
        self.is_fresh = True  # nothing has come over it yet
        self._cut_off: asyncio.TimerHandle | None = None
        super().connection_made(transport)  # Sanic's

    def pause_writing(self) -> None:
        super().pause_writing()  # Sanic's
        transport = cast(asyncio.Transport, self.transport)
        self._cut_off = self.loop.call_later(self.app.config.SEND_TIMEOUT, transport.abort)

    def resume_writing(self) -> None:
        """Called for a lost connection too."""
        super().resume_writing()  # Sanic's
        if self._cut_off is not None:
            self._cut_off.cancel()
            self._cut_off = None

    def close_if_idle(self) -> bool:
        """To Sanic a connection is idle also when a request lies unread in its buffer."""
        return not self.recv_buffer and super().close_if_idle()

    def data_received(self, data: bytes) -> None:
        self.is_fresh = False
        reads_head = self.http is not None and self.http.stage is Stage.REQUEST
        began = self._time if reads_head else None
        super().data_received(data)
        if began is not None:
            self._time = began


class WireRequest(Request[Any, Any]):
    """A request whose target cannot be parsed is answered with 400, not with silence.

    To answer an unreadable head Sanic makes an empty request of method NONE with the same target,
    which fails in the same way.
    """

    def __init__(self, url_bytes: bytes, *args: Any, **kwargs: Any) -> None:
        try:
            super().__init__(url_bytes, *args, **kwargs)
        except BadURL:
            if kwargs.get("method") != "NONE":
                raise
            super().__init__(b"*", *args, **kwargs)


class Response(HTTPResponse):
    """Sends the headers it was given.

    Sanic would take Content-Length from a 412, so that the caller waits for a body's end that never
    comes, write `content-type: None` where there is no content, and add an empty `alt-svc`.
    """

    @property
    def processed_headers(self) -> Iterator[tuple[bytes, bytes]]:
        for name, value in self.headers.items():
            if name.lower() != "alt-svc":
                yield name.encode("ascii"), str(value).encode(errors="surrogateescape")


_GATEWAY = re.compile(rb"[A-Z]{1,16} /(?:v1(?=[/? ])|(?:(?:de)?tokenize|props|slots)(?=[? ]))")
_DECIDED_BYTES = 64  # no gateway request is recognised later than in so many


def _is_gateways(data: bytes | bytearray) -> bool | None:
    """Whether a request that begins so is the gateway's; None: too little has come. Pure."""
    if _GATEWAY.match(data):
        return True
    if len(data) >= _DECIDED_BYTES or b"\r\n" in data or data.count(b" ") > 1:
        return False
    return None


class Http(SanicHttp):
    """Sanic's side of the connection lets the gateway's requests pass by."""

    async def http1_request_header(self) -> None:
        await cast("DispatchingProtocol", self.protocol).sanics_turn()
        await super().http1_request_header()


class DispatchingProtocol(Protocol):
    """One connection."""

    HTTP_CLASS = Http
    __slots__ = ("_talk", "is_models")

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self._talk: ClientConnection | None = None
        self.is_models = False  # it comes out of a model's sandbox

    # -- asyncio.Protocol --------------------------------------------------------------------

    def connection_made(self, transport: BaseTransport) -> None:
        if self.app.ctx.has_model_users:
            self.is_models = sandboxed.comes_from_model(transport)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self.is_fresh = False
        talk = self._talk
        if talk is not None and talk.is_busy:
            talk.feed(data)
        elif self._is_between and _GATEWAY.match(data):
            self._talking().feed(data)
        else:
            super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._talk is not None:
            self._talk.lost()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._talk is not None:
            self._talk.pause(paused=True)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._talk is not None:
            self._talk.pause(paused=False)

    # -- Sanic's protocol --------------------------------------------------------------------

    def check_timeouts(self) -> None:
        """Sanic's clock for idle connections does not run while the gateway answers."""
        if self._talk is not None and self._talk.is_busy:
            self._time = monotonic()
        super().check_timeouts()

    def close_if_idle(self) -> bool:
        if self._talk is not None and self._talk.is_busy:
            return False
        closed: bool = super().close_if_idle()
        return closed

    async def sanics_turn(self) -> None:
        """Return when the next request is Sanic's; those before it are the gateway's.

        One empty line before a request is none of it (RFC 9112 2.2).
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
            self._talking().feed(data)
            may_be_empty = True

    # -- inside ------------------------------------------------------------------------------

    @property
    def _is_between(self) -> bool:
        """Whether a request may begin here: Sanic has nothing in hand."""
        http = self.http
        return (http is None or http.stage is Stage.IDLE) and not self.recv_buffer

    def _talking(self) -> ClientConnection:
        if self._talk is None:
            transport = cast(asyncio.Transport, self.transport)
            peer = transport.get_extra_info("peername")
            desks: dict[bool, FrontendContext] = self.app.ctx.desks
            is_tcp = isinstance(transport.get_extra_info("sockname"), tuple)
            host = str(peer[0]) if is_tcp and peer else "local"
            desk = replace(desks[is_tcp], is_shut=True) if self.is_models else desks[is_tcp]
            self._talk = ClientConnection(desk, transport, host, self.data_received)
        return self._talk


async def listen(
    app: Sanic[Any, Any], sockets: Sequence[socket.socket], tls: ssl.SSLContext | None = None
) -> "Listening":
    """Begin to accept, with `tls` on TCP.

    An application starts once, however many sockets it has.
    """
    servers: list[AsyncioServer] = []
    for sock in sockets:
        is_tcp = sock.family != socket.AF_UNIX
        server = await app.create_server(
            sock=sock,
            ssl=tls if is_tcp else None,
            protocol=DispatchingProtocol,
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


_LOOK_S = 0.02  # between two looks whether a connection has become idle
# Who has just connected is about to ask, and would take the end of the connection for a failure.
_FIRST_REQUEST_S = 1.0


class Listening:
    """What accepts connections now."""

    def __init__(self, servers: Sequence[AsyncioServer]) -> None:
        self._servers = servers

    def close(self) -> None:
        """Accept no more; connections that exist go on."""
        for server in self._servers:
            server.close()

    async def ended(self) -> None:
        """Wait until every request has its whole answer; each connection is closed when idle.

        One on which nothing was asked yet is waited for a moment.
        """
        loop = asyncio.get_running_loop()
        patience_ends = loop.time() + _FIRST_REQUEST_S
        await asyncio.sleep(_LOOK_S)  # what was accepted a moment ago is not among them yet
        while connections := [c for server in self._servers for c in server.connections]:
            for connection in connections:
                if not connection.is_fresh or loop.time() > patience_ends:
                    connection.close_if_idle()
            await asyncio.sleep(_LOOK_S)
