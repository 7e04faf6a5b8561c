"""Bytes that come when a connection is not simply waiting for a request, to its own protocol.

Between two bytes of a client the loop may do anything; here it does what matters, each time.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from magid.__main__ import compose, installed_program
from magid.api.app import make_app
from magid.api.protocol import DispatchingProtocol, listen
from magid.config.settings import Config
from magid.log.setup import RingLog
from tests.support import rest
from tests.support.deadlines import PATIENCE_S
from tests.support.recording_backend import all_quiet

MODELS = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n"
LAST = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
ALIVE = b'{"status":"ok"}'
REFUSED = b"GET /v1/models HTTP/1.1\r\nHost: evil.example\r\n\r\n"


@pytest.fixture
async def accepted(
    tmp_path: Path,
) -> AsyncIterator[tuple[DispatchingProtocol, asyncio.StreamReader]]:
    """A connection as the server has it, and what its client gets."""
    config = Config(
        model_paths=(tmp_path,), state_dir=tmp_path, profiles_dir=tmp_path, launcher="process"
    )
    context = compose(config, RingLog(), installed_program(config))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listening = await listen(make_app(context), [taken])
        try:
            async with asyncio.timeout(PATIENCE_S):
                reader, writer = await asyncio.open_connection(*taken.getsockname())
                writer.write(LAST.replace(b"Connection: close\r\n", b""))
                await reader.readuntil(ALIVE)
                (server,) = listening._servers
                (protocol,) = server.connections
                yield protocol, reader
                writer.close()
        finally:
            listening.close()
            async with asyncio.timeout(PATIENCE_S):
                await listening.ended()


async def test_bytes_do_not_overtake_those_that_wait_for_sanics_turn(
    accepted: tuple[DispatchingProtocol, asyncio.StreamReader],
) -> None:
    """The client takes no bytes just when a head is complete: its body stays behind it."""
    protocol, reader = accepted
    protocol.data_received(MODELS + b"\r\n")
    await all_quiet()
    hidden = b"GET /v1/nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n"
    head = MODELS + b"Content-Length: %d\r\n\r\n" % len(hidden)
    protocol.data_received(head[:2])
    await all_quiet()
    protocol.data_received(head[2:])
    protocol.pause_writing()
    protocol.data_received(hidden)
    await all_quiet()
    protocol.resume_writing()
    await all_quiet()
    protocol.data_received(LAST)
    found = rest.answers(await reader.read())
    assert [answer.status for answer in found] == [200, 200, 200]
    assert found[0].body == found[1].body
    assert found[2].body == ALIVE


def _time_out(protocol: DispatchingProtocol) -> None:
    protocol.keep_alive_timeout = -1
    protocol.check_timeouts()


def _close(protocol: DispatchingProtocol) -> None:
    assert protocol.close_if_idle()


@pytest.mark.parametrize("end", [_time_out, _close])
async def test_a_connection_that_ends_takes_no_request(
    accepted: tuple[DispatchingProtocol, asyncio.StreamReader],
    end: Callable[[DispatchingProtocol], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nobody would get its answer, and what it changes would be changed."""
    protocol, reader = accepted
    await all_quiet()
    end(protocol)
    protocol.data_received(REFUSED)
    assert await reader.read() == b""
    assert "evil.example" not in caplog.text
