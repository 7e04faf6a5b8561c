"""Each client connection: requests for the gateway go to `talk`, all others to Sanic.

The gateway's are looked for where a request may begin: when Sanic is idle a segment that begins
with one goes past Sanic altogether; when Sanic comes to one in its own buffer it hands it over.
"""

import asyncio
import re
from asyncio import BaseTransport
from dataclasses import replace
from time import monotonic
from typing import Any, cast

from sanic.http import Http as SanicHttp
from sanic.http import Stage

from magid.api.protocol import Protocol
from magid.auth import sandboxed
from magid.gateway.frontend.connection import Talk
from magid.gateway.frontend.context import Desk

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
        await cast("Front", self.protocol).sanics_turn()
        await super().http1_request_header()


class Front(Protocol):
    """One connection."""

    HTTP_CLASS = Http
    __slots__ = ("_talk", "is_models")

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self._talk: Talk | None = None
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

    def _talking(self) -> Talk:
        if self._talk is None:
            transport = cast(asyncio.Transport, self.transport)
            peer = transport.get_extra_info("peername")
            desks: dict[bool, Desk] = self.app.ctx.desks
            is_tcp = isinstance(transport.get_extra_info("sockname"), tuple)
            host = str(peer[0]) if is_tcp and peer else "local"
            desk = replace(desks[is_tcp], is_shut=True) if self.is_models else desks[is_tcp]
            self._talk = Talk(desk, transport, host, self.data_received)
        return self._talk
