"""Connections to servers, and the proof of whose they are before a key or a prompt goes over one.

Who listens on a port may change between a look and a connection: so the look comes after it. A
socket that listens now, and did so before the connection was made, has taken it: no other one can
listen there at the same time. What is sent then reaches the program of that socket, or none.
"""

import asyncio
import logging

from magid.host.ports import ListeningSocket, listener_at

log = logging.getLogger(__name__)

TRIES = 3  # connections, while the listener on the port changes


class Stranger(ConnectionAbortedError):
    """Another program than the server has its port, or has had it at some moment just now."""


class Watch:
    """Of one server's address, for all connections to it. `uid`: of the server; None: not known."""

    def __init__(self, host: str, port: int, uid: int | None) -> None:
        self._host, self._port, self._uid = host, port, uid
        self._listener: ListeningSocket | None = None  # as the kernel had it last
        self._is_blind = False  # the kernel does not tell at all

    def look(self) -> None:
        """To be called before a connection is made. Raises Stranger rather than that it is made.

        It costs nothing once the server's listener is known.
        """
        uid = self._uid
        if uid is None or (self._listener is not None and self._listener.uid == uid):
            return
        self._listener = self._listening(self._host, self._port)
        if self._listener is not None and self._listener.uid != uid:
            raise self.stranger

    def has_reached(self, peer: tuple[str, int] | None) -> bool:
        """Whether the server has taken this connection, before anything is sent over it.

        `peer` is its other end's address; ConnectionResetError if it has none any more, as where a
        server is killed at this moment. False: connect again, the listener was another one before.
        """
        if peer is None:
            raise ConnectionResetError("it ended the connection at once")
        uid = self._uid
        if uid is None:
            return True
        found = self._listening(peer[0], peer[1])
        before, self._listener = self._listener, found
        return self._is_blind or (found is not None and found.uid == uid and found == before)

    def _listening(self, host: str, port: int) -> ListeningSocket | None:
        """If the kernel does not tell, the connection is allowed."""
        try:
            return listener_at(host, port)
        except ValueError:  # a name
            return None
        except OSError as error:
            if not self._is_blind:
                log.warning("cannot see who listens on port %d: %s", port, error.strerror)
            self._is_blind = True
            return None

    @property
    def stranger(self) -> Stranger:
        return Stranger(f"another program has port {self._port}")


async def connect(
    host: str, port: int, uid: int | None, *, limit: int
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """To a program of this user, and to no other one; `limit` as of asyncio's streams. OSError."""
    watch = Watch(host, port, uid)
    for _ in range(TRIES):
        watch.look()
        reader, writer = await asyncio.open_connection(host, port, limit=limit)
        peer = writer.get_extra_info("peername")
        try:
            if watch.has_reached(peer and peer[:2]):
                return reader, writer
        except OSError:
            writer.close()
            raise
        writer.close()
    raise watch.stranger


def authorization(key: str) -> str:
    """The line of a head that shows a server its key; for connections that `Watch` has passed."""
    return f"Authorization: Bearer {key}"
