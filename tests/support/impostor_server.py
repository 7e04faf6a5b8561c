"""A program of another user that passes itself off as a llama-server of ours, on a port of ours.

It knows magid's code: it refuses the first key that it is shown and takes the second, and it has
the right alias.
"""

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.deadlines import PATIENCE_S

NOBODY = 65_534


class Sly:
    """Listens as `uid` from `__enter__` on; `heard` is all that it was sent."""

    def __init__(self, port: int, alias: str, uid: int) -> None:
        self.heard = b""
        self.connections = 0
        self._port, self._alias, self._uid = port, alias, uid
        self._refused = False
        self._socket: socket.socket | None = None
        self._last: object = None  # the address whose connection ends it
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def bind(self) -> bool:
        """False if somebody else has the port."""
        with as_user(self._uid):
            listener = socket.socket()  # the kernel notes whose it is now
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", self._port))
            listener.listen(128)
        except OSError:
            listener.close()
            return False
        self._socket = listener
        self._thread.start()
        return True

    @contextmanager
    def bound(self) -> Iterator[None]:
        """After `bind`: it gives the port back at the end."""
        try:
            yield
        finally:
            self._end()

    def __enter__(self) -> "Sly":
        assert self.bind()
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        if self._socket is None:
            return
        with self._socket, socket.socket() as last:  # behind all that wait to be accepted
            last.bind(("127.0.0.1", 0))
            self._last = last.getsockname()
            last.connect(self._socket.getsockname())
            self._thread.join(PATIENCE_S)

    def _serve(self) -> None:
        assert self._socket is not None
        while True:
            client, peer = self._socket.accept()
            if peer == self._last:
                client.close()
                return
            self.connections += 1
            with client:
                client.settimeout(0.5)
                try:
                    self._answer(client)
                except OSError:
                    continue

    def _answer(self, client: socket.socket) -> None:
        request = client.recv(65_536)
        self.heard += request
        status = b"200 OK"
        if b"/props" in request and not self._refused:
            self._refused, status = True, b"401 Unauthorized"
        elif b"/props" in request:
            self._refused = False
        body = json.dumps({"model_alias": self._alias, "status": "ok", "choices": []}).encode()
        client.sendall(
            b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
            b"Connection: close\r\n\r\n%b" % (status, len(body), body)
        )


@contextmanager
def as_user(uid: int) -> Iterator[None]:
    if uid == os.geteuid():
        yield
        return
    if os.geteuid() != 0:
        pytest.skip("only root can make a socket that is another user's")
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
