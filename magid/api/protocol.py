"""What of HTTP Sanic 25.12 gets wrong between the socket and a request: mended here, once.

Everything above works with Sanic's own classes and does not know of this.
"""

import asyncio
from asyncio import BaseTransport
from collections.abc import Iterator
from typing import Any, cast

from sanic import HTTPResponse, Request
from sanic.exceptions import BadURL
from sanic.http import Stage
from sanic.server import HttpProtocol


class Protocol(HttpProtocol):
    """Sanic's clock for a request's head starts anew with every byte; this one does not.

    It has none for a client that takes no bytes: an answer to one would be kept for an hour.
    """

    __slots__ = ("_cut_off", "is_fresh")

    def connection_made(self, transport: BaseTransport) -> None:
        self.is_fresh = True  # nothing has come over it yet
        self._cut_off: asyncio.TimerHandle | None = None
        super().connection_made(transport)  # type: ignore[no-untyped-call]  # Sanic's

    def pause_writing(self) -> None:
        super().pause_writing()  # type: ignore[no-untyped-call]  # Sanic's
        transport = cast(asyncio.Transport, self.transport)
        self._cut_off = self.loop.call_later(self.app.config.SEND_TIMEOUT, transport.abort)

    def resume_writing(self) -> None:
        """Called for a lost connection too."""
        super().resume_writing()  # type: ignore[no-untyped-call]  # Sanic's
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
