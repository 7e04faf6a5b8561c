"""Clients that send a request byte by byte."""

import selectors
import socket
import time
from contextlib import suppress

from tests.support import rest
from tests.support.deadlines import DEADLINE_S
from tests.support.rest import Answer


def trickle(port: int, beginnings: list[bytes]) -> list[list[Answer]]:
    """Send these and then byte after byte, on all connections at once, until all are closed."""
    received = {rest.connect(port): bytearray() for _ in beginnings}
    waiting = selectors.DefaultSelector()
    for connection, beginning in zip(received, beginnings, strict=True):
        connection.sendall(beginning)
        waiting.register(connection, selectors.EVENT_READ)
    deadline = time.monotonic() + DEADLINE_S
    while waiting.get_map():
        assert time.monotonic() < deadline, "a slow request was never cut"
        for key, _ in waiting.select(0.1):
            if not take(key.fileobj, received):
                waiting.unregister(key.fileobj)
        for key in list(waiting.get_map().values()):
            push(key.fileobj)
    waiting.close()
    for connection in received:
        connection.close()
    return [rest.answers(bytes(raw)) for raw in received.values()]


def take(connection: object, received: dict[socket.socket, bytearray]) -> bool:
    """Whether there will be more."""
    assert isinstance(connection, socket.socket)
    try:
        data = connection.recv(65536)
    except ConnectionError:
        return False
    received[connection] += data
    return bool(data)


def push(connection: object) -> None:
    assert isinstance(connection, socket.socket)
    with suppress(ConnectionError):  # closed: the next look finds it out
        connection.send(b"1")
