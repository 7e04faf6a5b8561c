"""Why a server ended while it answered, as the backend tells it: at once, later, or not at all."""

import asyncio
from collections.abc import Callable
from typing import cast

import pytest
from msgspec.structs import replace

from magid.control.daemon import Daemon
from magid.control.state import Change
from magid.gateway.proxy.server_ends import EndOfServer
from magid.gateway.routing.fleet import Backend, ServerProperties
from magid.host.ports import HostPort
from magid.servers.backend import BY_SYSTEMCTL, WITH_TARGET, ObservedServer, ServerState
from magid.servers.listeners import Listeners
from tests.support.deadlines import DEADLINE_S

READY = ObservedServer(
    8080, "m", 0, "hash", ServerState.READY, pid=1, started_at=5.0, invocation_id="i"
)
STOPPING = replace(READY, state=ServerState.STOPPING)
BACKEND = Backend(
    8080, "m", 0, HostPort("127.0.0.1", 8080), None, READY.process, ServerProperties(1)
)


def stopped(reason: str) -> ObservedServer:
    return replace(READY, state=ServerState.STOPPED, reason=reason, pid=None, started_at=None)


class Known:
    """What a daemon knows of the server."""

    def __init__(self, server: ObservedServer, own: str = "") -> None:
        self._server, self._own = server, own
        self._listeners: Listeners[Change] = Listeners()

    def observed(self) -> dict[int, ObservedServer]:
        return {self._server.port: self._server}

    def why_stopped(self, _port: int, _process: str) -> str:
        return self._own or self._server.stopped_by

    def subscribe(self, listener: Callable[[Change], None]) -> Callable[[], None]:
        return self._listeners.subscribe(listener)

    def becomes(self, server: ObservedServer) -> None:
        self._server = server
        self._listeners.notify(Change("server", server.port))


async def reason_of(known: Known, *later: ObservedServer) -> str:
    reasons: list[str] = []
    heard = asyncio.Event()

    def then(reason: str) -> None:
        reasons.append(reason)
        heard.set()

    EndOfServer(cast(Daemon, known), BACKEND, then)
    for server in later:
        known.becomes(server)
    async with asyncio.timeout(DEADLINE_S):
        await heard.wait()
    assert len(reasons) == 1
    return reasons[0]


async def test_a_stop_of_magid_is_known_at_once() -> None:
    assert await reason_of(Known(READY, "stop asked for")) == "stop asked for"


@pytest.mark.parametrize("reason", [BY_SYSTEMCTL, WITH_TARGET])
async def test_a_stop_of_a_person_may_be_heard_of_later(reason: str) -> None:
    assert await reason_of(Known(READY), STOPPING, stopped(reason)) == reason
    assert await reason_of(Known(stopped(reason))) == reason


async def test_a_unit_that_takes_long_to_stop_was_stopped_by_a_person() -> None:
    assert await reason_of(Known(READY), STOPPING) == BY_SYSTEMCTL


@pytest.mark.parametrize(
    "server",
    [
        replace(READY, state=ServerState.BACKOFF, reason="crashed (SIGSEGV)"),
        replace(READY, state=ServerState.FAILED, reason="crashed (SIGSEGV)"),
        replace(READY, state=ServerState.STOPPING, reason="it took too long"),
        replace(READY, invocation_id="j"),  # systemd has started another process
        stopped("its process ended by itself (SIGTERM)"),
    ],
)
async def test_what_ended_by_itself_was_not_stopped(server: ObservedServer) -> None:
    assert await reason_of(Known(READY), server) == ""
    assert await reason_of(Known(server)) == ""


async def test_of_a_server_that_goes_on_nothing_is_known() -> None:
    assert await reason_of(Known(READY)) == ""
