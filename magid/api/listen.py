"""Serving an application on sockets that are open already, several at a time."""

import asyncio
import socket
import ssl
from collections.abc import Sequence
from typing import Any

from sanic import Sanic
from sanic.server import AsyncioServer

from magid.api.front import Front
from magid.api.sockets import BACKLOG
from magid.errors import InvalidConfig


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
            protocol=Front,
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
