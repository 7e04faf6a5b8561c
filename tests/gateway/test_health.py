"""A request of magid's own tells a server that fails from one that is busy, over real sockets."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from magid.discovery.kinds import ModelKind
from magid.gateway.proxy import health
from magid.gateway.routing.fleet import Backend, ServerProperties
from magid.host.ports import HostPort

FINE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
BUSY, IDLE = b'[{"is_processing":true}]', b'[{"is_processing":false}]'
SHORT_S, LONG_S = 2.0, 60.0  # for a server that says nothing, and for one that answers


def ok(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def status(number: int) -> bytes:
    return b"HTTP/1.1 %d -\r\nContent-Length: 2\r\n\r\n{}" % number


@asynccontextmanager
async def serving(answers: dict[str, bytes | None]) -> AsyncIterator[Backend]:
    """A server that answers these paths so; None: it says nothing. Ended behind the block."""

    handlers: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.add(asyncio.current_task())
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            answer = answers[head.decode().split(" ")[1]]
            if answer is not None:
                writer.write(answer)
            else:
                await reader.read()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        yield Backend(
            port, "m", 0, HostPort("127.0.0.1", port), None, str(port), ServerProperties(1)
        )
        await asyncio.gather(*(handler for handler in handlers if handler is not None))


@pytest.mark.parametrize(
    ("answer", "works"),
    [
        (FINE, True),
        (status(400), True),
        (status(501), True),  # it is none for this kind of work
        (status(500), False),
        (status(503), False),
        (b"SMTP ready\r\n\r\n", False),
        (b"", False),  # it ends the connection
    ],
)
@pytest.mark.parametrize("kind", list(ModelKind))
async def test_what_it_answers(kind: ModelKind, answer: bytes, works: bool) -> None:
    paths = dict.fromkeys(("/v1/completions", "/v1/embeddings", "/v1/rerank"), answer)
    async with serving(dict(paths)) as backend:
        assert await health.can_work(backend, kind, timeout_s=LONG_S) is works


@pytest.mark.parametrize(
    ("slots", "works"),
    [(ok(BUSY), None), (ok(IDLE), False), (None, False), (status(501), None)],
    ids=["busy", "idle", "stands still", "does not tell"],
)
async def test_one_that_says_nothing(slots: bytes | None, works: bool | None) -> None:
    """Others may have all its slots, for as long as they like."""
    async with serving({"/v1/completions": None, "/slots": slots}) as backend:
        assert await health.can_work(backend, ModelKind.CHAT, timeout_s=SHORT_S) is works
