"""The launcher on its socket, without systemd: what it answers, and what it puts up with."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from magid.errors import (
    NotAllowed,
)
from magid.launcher.keys import KeyRing
from magid.launcher.protocol import (
    MAX_LINE_BYTES,
    LauncherReply,
    parse_reply,
    reply_line,
    request_line,
)
from magid.launcher.server import MAX_CONNECTIONS, LauncherServer, refusal
from magid.launcher.transient_units import Units
from magid.launcher.unit_facts import seen_in
from magid.systemd.bus import Bus, major
from tests.support.deadlines import PATIENCE_S
from tests.support.launcher_house import House

# -- systemd's answers -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"), [("252.39-1~deb12u2", 252), ("257", 257), ("262-1", 262), ("v1", 0)]
)
def test_versions(text: str, number: int) -> None:
    assert major(text) == number


@pytest.mark.parametrize(
    ("properties", "ours"),
    [
        ({}, False),
        ({"Transient": True}, False),
        ({"LogExtraFields": [b"MAGI_SPEC=x"]}, False),
        ({"Transient": True, "LogExtraFields": [b"MAGI_SPEC="]}, False),
        ({"Transient": True, "LogExtraFields": [b"A=b", b"MAGI_SPEC=x"]}, True),
    ],
)
def test_whose_unit(properties: dict[str, Any], ours: bool) -> None:
    assert seen_in(properties).is_ours == ours


# -- over a socket ---------------------------------------------------------------------------

Ask = Callable[[bytes], Any]


@pytest.fixture
async def address(house: House, tmp_path: Path) -> AsyncIterator[Path]:
    async with listening(house, tmp_path, request_s=0.5) as path:
        yield path


@asynccontextmanager
async def listening(house: House, tmp_path: Path, request_s: float) -> AsyncIterator[Path]:
    """A launcher on a socket, its bus gone: nothing that is allowed can be carried out."""
    ring = KeyRing(tmp_path / "keys", "magi-absent")
    launcher = LauncherServer(Units(Bus()), ring, lambda: house.settings, request_s=request_s)
    path = tmp_path / "launcher.sock"
    server = await asyncio.start_unix_server(launcher.answer, path, limit=MAX_LINE_BYTES)
    async with server:
        yield path
        async with asyncio.timeout(PATIENCE_S):
            await launcher.drained()


@asynccontextmanager
async def connected(
    path: Path,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        yield reader, writer
    finally:
        writer.close()


async def say(path: Path, data: bytes, *, end: bool = True) -> LauncherReply | None:
    """The answer; None where the connection ended without one, as it may for floods."""
    async with asyncio.timeout(PATIENCE_S), connected(path) as (reader, writer):
        try:
            writer.write(data)
            await writer.drain()
            if end:
                writer.write_eof()
            line = await reader.readline()
        except OSError:
            return None
        return parse_reply(line) if line else None


async def test_ping(address: Path) -> None:
    assert await say(address, b'{"verb":"ping"}\n', end=False) == LauncherReply(
        details={"units": 0}
    )


async def test_it_ends_when_idle(house: House, tmp_path: Path) -> None:
    ring = KeyRing(tmp_path / "keys", "magi-absent")
    async with asyncio.timeout(PATIENCE_S):
        await LauncherServer(Units(Bus()), ring, lambda: house.settings).idle(0.05)


async def test_it_stays_for_its_units(house: House, tmp_path: Path) -> None:
    units = Units(Bus())
    units.held.add(8080)
    launcher = LauncherServer(
        units, KeyRing(tmp_path / "keys", "magi-absent"), lambda: house.settings
    )
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(launcher.idle(0.01), 0.2)


async def test_an_allowed_request_needs_systemd(address: Path, house: House) -> None:
    reply = await say(address, request_line(house.order()))
    assert reply
    assert reply.error == "BusError"


async def test_a_refusal_says_why(address: Path, house: House) -> None:
    reply = await say(address, request_line(house.order(port=8100)))
    assert reply == LauncherReply(
        "NotAllowed",
        "cannot use port 8100: port_range in magid.yaml is [8080, 8099]",
        {"field": "port"},
    )


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", "InvalidInput"),
        (b"\n", "InvalidInput"),
        (b'{"verb":"ping"}', "InvalidInput"),
        (b"\x00" * 100 + b"\n", "InvalidInput"),
        (b'{"verb":"stop","port":"8080; rm"}\n', "InvalidInput"),
    ],
    ids=repr,
)
async def test_noise(address: Path, data: bytes, error: str) -> None:
    reply = await say(address, data)
    assert reply
    assert reply.error == error


async def test_a_flood(address: Path) -> None:
    reply = await say(address, b"x" * 1_000_000)
    assert reply is None or reply.error == "InvalidInput"
    assert await say(address, b'{"verb":"ping"}\n')


async def test_a_caller_that_dawdles(address: Path) -> None:
    reply = await say(address, b'{"verb":', end=False)
    assert reply
    assert reply.error == "TimedOut"


async def test_too_many_at_once(house: House, tmp_path: Path) -> None:
    """The time limit of a request is long: none of those that are held ends by itself."""
    async with (
        listening(house, tmp_path, request_s=PATIENCE_S) as address,
        asyncio.timeout(PATIENCE_S),
    ):
        held = [await asyncio.open_unix_connection(address) for _ in range(MAX_CONNECTIONS)]
        reply = await say(address, b"", end=False)
        assert reply is not None
        assert reply.error == "Busy"
        for reader, writer in held:
            writer.write(b'{"verb":"ping"}\n')
            assert json.loads(await reader.readline())["ok"]
            writer.close()
        assert await say(address, b'{"verb":"ping"}\n') == LauncherReply(details={"units": 0})


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None
)
@given(at=st.floats(0, 1), noise=st.binary(min_size=1, max_size=6))
def test_mangled_requests(house: House, tmp_path: Path, at: float, noise: bytes) -> None:
    """A good request with some bytes of it changed: an answer, and never one from within."""
    good = request_line(house.order())
    where = int(at * (len(good) - 1))
    mangled = good[:where] + noise.replace(b"\n", b" ") + good[where + len(noise) :]

    async def ask() -> LauncherReply | None:
        ring = KeyRing(tmp_path, "magi-absent")
        launcher = LauncherServer(Units(Bus()), ring, lambda: house.settings, request_s=0.5)
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=ours, limit=MAX_LINE_BYTES)
        with theirs:
            theirs.sendall(mangled if mangled.endswith(b"\n") else mangled + b"\n")
            await launcher.answer(reader, writer)
            theirs.settimeout(PATIENCE_S)
            return parse_reply(theirs.makefile("rb").readline())

    reply = asyncio.run(ask())
    assert reply
    assert reply.error in (
        *("InvalidInput", "NotAllowed", "ServerFailed", "BusError", "LlamaServerMissing"),
    )


def test_details_that_are_not_plain_stay_here() -> None:
    reply = refusal(NotAllowed("cannot", path="/x", more=[1], error="no"))
    assert parse_reply(reply_line(reply)) == LauncherReply("NotAllowed", "cannot", {"path": "/x"})
