"""Connects to servers, and verifies their user before a key or a prompt is sent.

The listener on a port may change between a check and the connection, so it is checked before and
after. If the same socket listens both times, it has accepted the connection, because no other
socket can listen there at the same time. Data then reaches that program or none.
"""

import asyncio
import logging

from magid.host.ports import ListeningSocket, listener_at

log = logging.getLogger(__name__)

TRIES = 3  # connections, while the listener on the port changes


class Stranger(ConnectionAbortedError):
    """Another program has the server's port, or has just had it."""


class Watch:
    """Checks the listener, for all connections to one server. `uid`: its user, if known."""

    def __init__(self, host: str, port: int, uid: int | None) -> None:
        self._host, self._port, self._uid = host, port, uid
        self._listener: ListeningSocket | None = None  # as of the last check
        self._is_blind = False  # the kernel cannot be queried

    def check(self) -> None:
        """Call it before connecting. Raises Stranger if another program has the port.

        Costs nothing once the server's listener is known.
        """
        uid = self._uid
        if uid is None or (self._listener is not None and self._listener.uid == uid):
            return
        self._listener = self._listening(self._host, self._port)
        if self._listener is not None and self._listener.uid != uid:
            raise self.stranger

    def has_reached(self, peer: tuple[str, int] | None) -> bool:
        """Whether the server has accepted this connection; call it before sending anything.

        `peer` is the address of the other end. Raises ConnectionResetError if there is none: the
        connection is already closed. If False, connect again: the listener has changed.
        """
        if peer is None:
            raise ConnectionResetError("it closed the connection at once")
        uid = self._uid
        if uid is None:
            return True
        found = self._listening(peer[0], peer[1])
        before, self._listener = self._listener, found
        return self._is_blind or (found is not None and found.uid == uid and found == before)

    def _listening(self, host: str, port: int) -> ListeningSocket | None:
        """Returns the listener. If the kernel cannot be queried, connections are allowed."""
        try:
            return listener_at(host, port)
        except ValueError:  # a name
            return None
        except OSError as error:
            if not self._is_blind:
                log.warning("cannot find the listener on port %d: %s", port, error.strerror)
            self._is_blind = True
            return None

    @property
    def stranger(self) -> Stranger:
        return Stranger(f"another program has port {self._port}")


async def connect(
    host: str, port: int, uid: int | None, *, limit: int
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connects to a program of this user and no other. `limit` is asyncio's. Raises OSError."""
    watch = Watch(host, port, uid)
    for _ in range(TRIES):
        watch.check()
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
    """Returns the header line with a server's key; send it only after `Watch` has checked."""
    return f"Authorization: Bearer {key}"
