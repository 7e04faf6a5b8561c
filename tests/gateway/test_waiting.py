"""Requests that wait for something, on a real daemon whose servers do as the test says."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from magid.config.settings import Gateway
from magid.control.daemon import Daemon
from magid.control.snapshot import Phase
from magid.discovery.tiers import Tier
from magid.errors import (
    InvalidInput,
    MagidError,
    ModelNotFound,
    NotReady,
    QueueFull,
    ServerFailed,
    ServerLost,
)
from magid.gateway.dispatcher import Dispatcher
from magid.gateway.proxy.forward import ForwardedRequest
from magid.gateway.proxy.on_demand import OnDemand
from magid.gateway.proxy.server import UpstreamServer
from magid.gateway.routing.endpoints import find
from magid.gateway.routing.request import ParsedRequest
from magid.http.framing import ReplyHead
from magid.llama.runtime_settings import RuntimeSettings
from magid.log import rate_limit
from magid.servers.backend import ServerState
from tests.support import ggufs
from tests.support.daemons import ALPHA, BETA, GAMMA, ONLY_FAST, House, states, until
from tests.support.deadlines import PATIENCE_S


class Client:
    """Implements `ResponseSink`; `answer` is the error, or None once it has an answer."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[MagidError | None] = asyncio.get_running_loop().create_future()

    def begins(self, head: ReplyHead, fields: bytes, data: bytes) -> None:
        raise AssertionError("these servers do not answer")

    def goes_on(self, data: bytes) -> None:
        raise AssertionError("these servers do not answer")

    def ends(self) -> None:
        self.answer.set_result(None)

    def fails(self, error: MagidError, fields: bytes = b"") -> None:
        self.answer.set_result(error)

    def breaks_off(self, error: MagidError, *, is_inside_chunk: bool) -> None:
        self.answer.set_result(error)


def chat(model: str) -> ParsedRequest:
    endpoint = find("POST", "/v1/chat/completions")
    assert endpoint is not None
    fields: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "Hello"}]}
    return ParsedRequest(endpoint, b"{}", fields, model)


def time_left(forwarded: ForwardedRequest) -> float:
    assert forwarded.wait_timer is not None
    return forwarded.wait_timer.when() - asyncio.get_running_loop().time()


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path)
    yield house
    await house.close()


@asynccontextmanager
async def gateway_of(house: House, daemon: Daemon | None = None) -> AsyncIterator[Dispatcher]:
    """Of a daemon in its first scan."""
    house.scans.shut()
    daemon = daemon or house.daemon()
    dispatcher = Dispatcher(daemon)
    await daemon.open()
    await house.scans.reached.wait()
    try:
        yield dispatcher
    finally:
        await dispatcher.close()


async def test_who_asks_during_the_first_scan_waits_as_long_as_a_start_may_take(
    house: House,
) -> None:
    house.settings["server_defaults"] = RuntimeSettings(start="on-demand")
    house.launcher.hold("start", 9000)
    async with gateway_of(house) as dispatcher:
        forwarded = dispatcher.send(chat(ALPHA), Client())
        queue_timeout = house.config().gateway.queue_timeout
        assert 0 < time_left(forwarded) <= queue_timeout
        house.scans.open()
        await house.launcher.until(("start", 9000))
        assert dispatcher.waiting == 1
        assert time_left(forwarded) > house.config().max_startup_time + queue_timeout


async def test_who_asks_during_the_first_scan_hears_if_it_takes_too_long(house: House) -> None:
    house.settings["gateway"] = Gateway(queue_timeout=0.05)
    async with gateway_of(house) as dispatcher:
        client = Client()
        dispatcher.send(chat(ALPHA), client)
        async with asyncio.timeout(PATIENCE_S):
            error = await client.answer
        assert isinstance(error, QueueFull)
        assert "waited too long for a model" in error.message
        assert dispatcher.waiting == 0


async def test_who_asks_during_the_first_scan_is_not_sent_away_by_the_end_of_magid(
    house: House,
) -> None:
    """Two restarts behind each other: what is under way is finished, the scan too."""
    daemon = house.daemon()
    async with gateway_of(house, daemon) as dispatcher:
        client = Client()
        dispatcher.send(chat(ALPHA), client)
        daemon.drain()
        await asyncio.sleep(0)  # those who wait are looked at again
        await asyncio.sleep(0)
        assert dispatcher.waiting == 1
        assert not client.answer.done()
        house.scans.open()
        async with asyncio.timeout(PATIENCE_S):
            error = await client.answer
        assert isinstance(error, ServerFailed), error  # it is known, and was never started


async def test_models_of_before_a_restart_are_listed_while_they_are_looked_for(
    house: House,
) -> None:
    before = await house.running()
    await before.set_enabled(BETA, enabled=False)
    await before.set_tier(GAMMA, Tier.FAST)
    await before.close()
    async with gateway_of(house) as dispatcher:
        listed = {entry["id"]: entry for entry in dispatcher.models()}
        assert list(listed) == [ALPHA, GAMMA, "fast", "auto"]
        assert listed[GAMMA]["meta"] == {"tier": "fast"}
        assert listed[GAMMA]["created"] > 1_700_000_000
        daemon = house.opened[-1]
        house.path_of("Alpha").unlink()
        house.scans.open()
        await until(daemon, lambda: daemon.phase is not Phase.SCANNING)
        assert ALPHA not in [entry["id"] for entry in dispatcher.models()]
        assert "name" in next(e for e in dispatcher.models() if e["id"] == GAMMA)


async def test_a_first_start_lists_nothing(house: House) -> None:
    async with gateway_of(house) as dispatcher:
        assert dispatcher.models() == []


async def test_a_model_that_may_have_eyes_is_sent_no_address_to_fetch(house: House) -> None:
    """It has a projector, and does not run yet."""
    ggufs.write_mmproj(house.models / "mmproj-Alpha-1B.gguf")
    house.settings["server_defaults"] = RuntimeSettings(start="on-demand")
    dispatcher = Dispatcher(await house.running())
    try:
        seen = {"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest"}}
        plain = chat(ALPHA)
        messages = [{"role": "user", "content": [seen]}]
        with pytest.raises(InvalidInput, match="send it along"):
            dispatcher.send(replace(plain, fields={**plain.fields, "messages": messages}), Client())
        assert dispatcher.waiting == 0
    finally:
        await dispatcher.close()


async def test_a_request_that_cannot_be_placed_keeps_nobody_else_waiting(house: House) -> None:
    async with gateway_of(house) as dispatcher:
        broken, sound = chat(ALPHA), chat("nobody")
        broken.body = b'"image"'  # so its prompt is looked at, and no such object can come
        broken.fields = {"tools": object()}
        clients = [Client(), Client()]
        for request, client in zip([broken, sound], clients, strict=True):
            dispatcher.send(request, client)
        house.scans.open()
        async with asyncio.timeout(PATIENCE_S):
            errors = [await client.answer for client in clients]
        assert isinstance(errors[0], ServerLost)
        assert "magid failed with an internal error" in errors[0].message
        assert isinstance(errors[1], ModelNotFound)
        assert dispatcher.waiting == 0


# -- servers that get no more while they work ------------------------------------------------


@asynccontextmanager
async def silence(house: House) -> AsyncIterator[tuple[Daemon, Dispatcher]]:
    """One server with one slot, which takes every request and says nothing."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    house.settings["port_range"] = (port, port)
    house.settings["server_defaults"] = RuntimeSettings(parallel=1)
    house.write_profile("test", ONLY_FAST)
    daemon = await house.running()
    dispatcher = Dispatcher(daemon)
    dispatcher.open()
    try:
        await until(daemon, lambda: states(daemon) == {ALPHA: ServerState.READY})
        yield daemon, dispatcher
    finally:
        await dispatcher.close()
        server.close()
        await server.wait_closed()


async def test_a_server_that_comes_back_has_kept_its_requests(house: House) -> None:
    """A profile without its model was in force for a moment; its slot is still in use."""
    async with silence(house) as (daemon, dispatcher):
        forwarded = dispatcher.send(chat(ALPHA), Client())
        assert forwarded.server is not None
        for enabled in (False, True):
            await daemon.set_enabled(ALPHA, enabled=enabled)
            assert bool(dispatcher.fleet.backends) is enabled
        dispatcher.send(chat(ALPHA), Client())
        assert dispatcher.waiting == 1
        assert dispatcher.servers() == [forwarded.server]
        await daemon.set_enabled(ALPHA, enabled=False)
        forwarded.cancel()
        await daemon.set_enabled(ALPHA, enabled=True)
        assert dispatcher.fleet.backends
        assert dispatcher.servers() != [forwarded.server]  # it had nothing to do, and was forgotten


@pytest.mark.slow
async def test_a_server_that_is_offered_no_more_is_still_looked_after(house: House) -> None:
    """It froze: its connection lives, and only /health tells."""
    async with silence(house) as (daemon, dispatcher):
        client = Client()
        dispatcher.send(chat(ALPHA), client)
        await daemon.set_enabled(ALPHA, enabled=False)
        assert not dispatcher.fleet.backends
        async with asyncio.timeout(PATIENCE_S):
            error = await client.answer
        assert isinstance(error, ServerLost)
        assert "does not answer /health" in error.message


async def test_who_waits_for_a_start_hears_of_a_mistake_too(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    """Here of one that is made when room is needed."""
    house.settings["server_defaults"] = RuntimeSettings(start="on-demand")
    house.settings["gateway"] = Gateway(max_loaded=1)
    tasks: list[asyncio.Task[None]] = []
    failed: list[tuple[str, MagidError]] = []

    def mistaken(model_id: str) -> list[UpstreamServer]:
        raise ZeroDivisionError(model_id)

    on_demand = OnDemand(
        await house.running(),
        lambda work: tasks.append(asyncio.create_task(work)),
        mistaken,
        lambda model_id, error, _pause_s: failed.append((model_id, error)),
    )
    async with asyncio.timeout(PATIENCE_S):
        for model_id in (BETA, ALPHA):  # the second one needs the place of the first
            on_demand.want(model_id)
            await tasks[-1]
    assert [model_id for model_id, _ in failed] == [ALPHA]
    assert "magid failed with an internal error" in failed[0][1].message
    assert "ZeroDivisionError" in caplog.text


async def test_a_server_that_is_left_out_fills_no_log(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    """The catalog promises how many refusals are told, also of those that come by the thousand."""
    async with silence(house) as (_daemon, dispatcher):
        assert dispatcher.fleet.backends
        (server,) = dispatcher.servers()
        server.leave_out("it does not answer /health")
        began = time.monotonic()
        for _ in range(2000):
            with pytest.raises(NotReady, match="does not answer /health"):
                dispatcher.send(chat(ALPHA), Client())
        windows = 2 + int((time.monotonic() - began) / rate_limit.WINDOW_S)  # the first was open
        logged = [r for r in caplog.records if "was refused" in r.getMessage()]
        assert len(logged) <= windows * rate_limit.LIMIT
        assert dispatcher.records.ended == 2000
