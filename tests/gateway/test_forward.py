"""One request between a client and its servers, on real sockets: each gets one answer."""

import asyncio
import os
import resource
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import cast

import pytest

from magid.discovery.kinds import ModelKind
from magid.errors import MagidError, ServerLost
from magid.gateway.accounting.request_log import Outcome
from magid.gateway.proxy import health
from magid.gateway.proxy.forward import ForwardedRequest
from magid.gateway.proxy.server import UpstreamServer
from magid.gateway.proxy.server_ends import Then
from magid.gateway.routing.endpoints import find
from magid.gateway.routing.fleet import Backend, ServerProperties
from magid.gateway.routing.request import ParsedRequest
from magid.gateway.routing.resolver import ModelRoute
from magid.host.ports import HostPort
from magid.http.framing import ReplyHead
from tests.support.deadlines import PATIENCE_S

BUSY = b"HTTP/1.1 503 -\r\nContent-Length: 4\r\n\r\n"
FINE = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine"


class Client:
    """Implements `ResponseSink`; `heard` is all that it was told."""

    def __init__(self) -> None:
        self.heard: list[object] = []
        self.began = asyncio.Event()
        self.answered = asyncio.Event()

    def begins(self, head: ReplyHead, fields: bytes, data: bytes) -> None:
        self.heard += [head.status, data]
        self.began.set()

    def goes_on(self, data: bytes) -> None:
        self.heard.append(data)

    def ends(self) -> None:
        self.heard.append("ends")
        self.answered.set()

    def fails(self, error: MagidError, fields: bytes = b"") -> None:
        self.heard.append(error.message)
        self.answered.set()

    def breaks_off(self, error: MagidError, *, is_inside_chunk: bool) -> None:
        self.fails(error)


class Answering:
    """A server that answers each request with these segments, and waits before the last one."""

    def __init__(self, *segments: bytes) -> None:
        self._segments = segments
        self.goes_on = asyncio.Event()
        self.left = asyncio.Event()  # its client has ended the connection
        self.over = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n{}")
            for segment in self._segments[:-1]:
                writer.write(segment)
            await self.goes_on.wait()
            writer.write(self._segments[-1])
            await reader.read()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        self.left.set()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        self.over.set()


def at_once(_backend: Backend, then: Then) -> None:
    then("")


def never(_backend: Backend, _then: Then) -> None:
    """As where systemd does not tell why a server has ended."""


@asynccontextmanager
async def listening(
    peer: Answering, on_lost: Callable[[Backend, Then], object] = at_once
) -> AsyncIterator[UpstreamServer]:
    async with await asyncio.start_server(peer.serve, "127.0.0.1", 0) as listener:
        server = server_at("127.0.0.1", listener.sockets[0].getsockname()[1], on_lost)
        yield server
        server.pool.close()
        for forwarded in list(server.active):
            cast(ForwardedRequest, forwarded).cancel()
        async with asyncio.timeout(PATIENCE_S):
            await peer.over.wait()


def server_at(
    host: str, port: int, on_lost: Callable[[Backend, Then], object] = at_once
) -> UpstreamServer:
    return UpstreamServer(
        Backend(port, "m", 0, HostPort(host, port), None, f"{host}/{port}", ServerProperties(1)),
        on_lost,
    )


def forwarded_of(
    client: Client,
    servers: list[UpstreamServer],
    retry: Callable[[ForwardedRequest], bool] = lambda _: False,
) -> ForwardedRequest:
    endpoint = find("POST", "/v1/chat/completions")
    assert endpoint is not None
    route = ModelRoute("m", tuple(server.backend for server in servers), "model")
    request = ParsedRequest(endpoint, b"{}", {"model": "m"}, "m")
    return ForwardedRequest(request, client, route, retry, lambda _e, _s: None, lambda _e: None)


async def answer_to(client: Client) -> list[object]:
    async with asyncio.timeout(PATIENCE_S):
        await client.answered.wait()
    return client.heard


@pytest.mark.parametrize("segments", [[BUSY + b"busy"], [BUSY, b"busy"]], ids=["one", "two"])
async def test_a_server_that_was_left_is_heard_no_more(segments: list[bytes]) -> None:
    """Its 503 would else be the answer's end, or its middle."""
    client, busy, fine = Client(), Answering(*segments), Answering(FINE)
    busy.goes_on.set()
    async with listening(busy) as first, listening(fine) as second:

        def retry(forwarded: ForwardedRequest) -> bool:
            forwarded.send(second)
            return True

        forwarded = forwarded_of(client, [first, second], retry)
        forwarded.send(first)
        async with asyncio.timeout(PATIENCE_S):
            await busy.left.wait()
        assert client.heard == []
        fine.goes_on.set()
        assert await answer_to(client) == [200, b"fine", "ends"]
        assert forwarded.record.outcome is Outcome.OK
        assert not first.active
        assert not second.active


async def test_who_leaves_while_a_503_is_passed_on_leaves_its_server_too() -> None:
    client, busy = Client(), Answering(BUSY, b"busy")
    async with listening(busy) as server:
        elsewhere = server_at("127.0.0.1", 1)
        forwarded = forwarded_of(client, [server, elsewhere])
        forwarded.send(server)
        async with asyncio.timeout(PATIENCE_S):
            await client.began.wait()
        assert forwarded in server.active
        forwarded.cancel()
        busy.goes_on.set()
        async with asyncio.timeout(PATIENCE_S):
            await busy.left.wait()
        assert client.heard == [503, b""]


@pytest.mark.parametrize("segments", [[b"What?\r\n\r\n"], [FINE, b"x" * 5]], ids=["head", "body"])
async def test_a_malformed_answer_is_an_error_at_once(segments: list[bytes]) -> None:
    """Its server goes on, so systemd never says why it has ended."""
    client, peer = Client(), Answering(*segments)
    peer.goes_on.set()
    async with listening(peer, never) as server:
        forwarded_of(client, [server]).send(server)
        assert "its answer is malformed" in str((await answer_to(client))[-1])


@pytest.mark.parametrize(
    ("fault", "said"),
    [(OverflowError("int too large"), "magid failed with an internal error"),
     (ServerLost("cannot answer: it is not JSON"), "it is not JSON")],
    ids=["defect", "known"],
)  # fmt: skip
async def test_an_end_that_cannot_be_told_is_an_error_for_the_client(
    fault: Exception, said: str
) -> None:
    """A translation that fails at the end of an answer; nothing else would end the wait."""

    class Failing(Client):
        def ends(self) -> None:
            raise fault

    client, peer = Failing(), Answering(FINE)
    peer.goes_on.set()
    async with listening(peer) as server:
        forwarded = forwarded_of(client, [server])
        forwarded.send(server)
        assert said in str((await answer_to(client))[-1])
        record = forwarded.record
        assert (record.outcome, record.problem) == (Outcome.FAILED, "ServerLost")
        assert said in record.error


async def test_a_connection_that_cannot_even_be_tried_is_an_error_for_the_client() -> None:
    """Of whatever kind: this one is a UnicodeError, which nobody thought of."""
    client = Client()
    server = server_at("x" * 64, 1)  # no label of a name is so long
    forwarded_of(client, [server]).send(server)
    (heard,) = await answer_to(client)
    assert "magid failed with an internal error" in str(heard)
    assert not server.active


async def test_a_magid_without_descriptors_leaves_no_server_out() -> None:
    """Clients may have used them up."""
    client, again, peer = Client(), Client(), Answering(FINE)
    peer.goes_on.set()
    async with listening(peer) as server:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        try:
            forwarded_of(client, [server]).send(server)
            (heard,) = await answer_to(client)
            healthy = [await health.is_healthy(server.backend)]
            healthy.append(await health.can_work(server.backend, ModelKind.CHAT))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert "Too many open files" in str(heard)
        assert healthy == [None, None]
        assert server.why_not == ""
        forwarded_of(again, [server]).send(server)
        assert await answer_to(again) == [200, b"fine", "ends"]
