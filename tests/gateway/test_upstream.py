"""Connections to a server: when one is used again, and what an answer that is none does."""

import asyncio
import itertools
import os
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from magid.errors import InvalidInput, MagidError
from magid.gateway.proxy.upstream import ConnectionPool, UpstreamConnection
from magid.gateway.routing.fleet import Backend, ServerProperties
from magid.host.ports import HostPort
from magid.http.framing import ReplyHead
from magid.http.limits import MAX_CHUNKS, MAX_INTERIM
from tests.support.deadlines import PATIENCE_S
from tests.support.impostor_server import NOBODY, Sly

REQUEST = b"POST / HTTP/1.1\r\n\r\n"
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CLOSING = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
UNTIL_END = b"HTTP/1.1 200 OK\r\n\r\nok"


class Handler:
    """Keeps what comes."""

    def __init__(self) -> None:
        self.body = b""
        self.over: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def begins(self, head: ReplyHead, first: bytes) -> None:
        assert head.status == 200
        self.body += first

    def goes_on(self, data: bytes) -> None:
        self.body += data

    def ended(self) -> None:
        self.over.set_result("ended")

    def refused(self, error: MagidError) -> None:
        self.over.set_result(f"refused: {error.message}")

    def failed(self, why: str, *, is_stale: bool) -> None:
        self.over.set_result(f"stale: {why}" if is_stale else why)


class Answering:
    """A server whose answers the test chooses; counts its connections."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.ends_after: Callable[[bytes], bool] = lambda _answer: False
        self.connections = 0
        self.writers: list[asyncio.StreamWriter] = []
        self.closed = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                answer = self.answers.pop(0)
                for at in range(0, len(answer), 7):
                    writer.write(answer[at : at + 7])
                    await writer.drain()
                if self.ends_after(answer):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()
        self.closed.set()


@asynccontextmanager
async def answering(uid: int | None = None) -> AsyncIterator[tuple[Answering, ConnectionPool]]:
    peer = Answering()
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    pool = ConnectionPool(_backend(port, uid))
    try:
        yield peer, pool
    finally:
        pool.close()
        for writer in peer.writers:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
        server.close()
        await server.wait_closed()


def _backend(port: int, uid: int | None = None) -> Backend:
    return Backend(
        port, "m", 0, HostPort("127.0.0.1", port), None, "p", ServerProperties(1), uid=uid
    )


async def ask(pool: ConnectionPool, line: UpstreamConnection | None = None) -> Handler:
    """To the end of the answer."""
    handler = Handler()
    line = line or pool.take() or await pool.connect()
    line.send(REQUEST, handler)
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.shield(handler.over)
    return handler


async def test_a_connection_is_used_again_where_that_is_sound() -> None:
    async with answering() as (peer, pool):
        peer.answers = [PLAIN, PLAIN, PLAIN]
        for _ in range(3):
            handler = await ask(pool)
            assert (handler.body, handler.over.result()) == (b"ok", "ended")
        assert peer.connections == 1


@pytest.mark.parametrize("answer", [CHUNKED, CLOSING], ids=["chunked", "closing"])
async def test_the_connection_of_such_an_answer_is_not(answer: bytes) -> None:
    """The server would let it live; llama-server does not, whatever it says."""
    async with answering() as (peer, pool):
        peer.answers = [answer, answer]
        for _ in range(2):
            assert (await ask(pool)).over.result() == "ended"
        assert peer.connections == 2


async def test_an_answer_may_end_with_its_connection() -> None:
    async with answering() as (peer, pool):
        peer.answers, peer.ends_after = [UNTIL_END], lambda _: True
        handler = await ask(pool)
        assert (handler.body, handler.over.result()) == (b"ok", "ended")


async def test_a_kept_connection_that_ends_before_a_byte_is_worth_another_try() -> None:
    async with answering() as (peer, pool):
        peer.answers = [PLAIN, b""]
        peer.ends_after = lambda answer: answer == b""
        line = await pool.connect()
        await ask(pool, line)
        assert pool.take() is line
        assert (await ask(pool, line)).over.result().startswith("stale: ")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
        b"SSH-2.0-nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 40_000,
        b"hello",
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        b"",
    ],
    ids=[
        "short",
        "short chunk",
        "long",
        "malformed",
        "not HTTP",
        "endless head",
        "HTTP/0.9",
        "bare LF",
        "nothing",
    ],
)
async def test_what_is_no_answer_is_a_failure_and_no_stale_connection(answer: bytes) -> None:
    async with answering() as (peer, pool):
        peer.answers, peer.ends_after = [answer], lambda _: True
        why = (await ask(pool)).over.result()
        assert why != "ended"
        assert not why.startswith("stale")


async def test_interim_answers_are_passed_over_and_counted() -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\n"
    async with answering() as (peer, pool):
        peer.answers = [interim * MAX_INTERIM + PLAIN, interim * 2500 + PLAIN]
        assert (await ask(pool)).body == b"ok"
        assert "too many interim" in (await ask(pool)).over.result()


async def test_what_nobody_asked_for_is_not_taken_for_the_next_answer() -> None:
    """It lies in the socket when the next request comes: the loop has not read it yet."""
    async with answering() as (peer, pool):
        peer.answers = [PLAIN, PLAIN]
        line = await pool.connect()
        await ask(pool, line)
        silent = [line.is_silent]
        (writer,) = peer.writers
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nnot")
        silent.append(line.is_silent)
        assert silent == [True, False]
        assert pool.take() is None
        assert (await ask(pool)).body == b"ok"
        assert peer.connections == 2


class Strict(Handler):
    """Its client may have nothing of an answer."""

    def begins(self, head: ReplyHead, first: bytes) -> None:
        raise InvalidInput("cannot answer: too long")


async def test_what_a_client_may_not_have_is_no_failure_of_the_server() -> None:
    async with answering() as (peer, pool), asyncio.timeout(10):
        peer.answers = [PLAIN]
        handler = Strict()
        (await pool.connect()).send(REQUEST, handler)
        assert await handler.over == "refused: cannot answer: too long"
        assert pool.take() is None, "what is left of the answer must not come to another request"


async def test_a_server_that_speaks_first_is_asked_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        pool = ConnectionPool(_backend(listener.getsockname()[1]))
        waiting = asyncio.ensure_future(pool.connect())
        peer = await accepted(listener)
        peer.sendall(PLAIN)
        with peer, suppress(ConnectionAbortedError):
            line = await waiting  # connected before it spoke
            handler = Handler()
            line.send(REQUEST, handler)
            async with asyncio.timeout(10):
                await handler.over


async def accepted(listener: socket.socket) -> socket.socket:
    listener.setblocking(False)
    peer, _ = await asyncio.get_running_loop().sock_accept(listener)
    return peer


async def test_many_small_chunks_take_turns() -> None:
    """Whatever comes at once, no more than so many chunks go on at once, and all of them in all."""
    count = 20 * MAX_CHUNKS
    with socket.create_server(("127.0.0.1", 0)) as listener:
        pool = ConnectionPool(_backend(listener.getsockname()[1]))
        waiting = asyncio.ensure_future(pool.connect())
        with await accepted(listener) as peer:
            line, handler = await waiting, Pieces()
            head = CHUNKED.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
            line.send(REQUEST, handler)
            body = b"1\r\nx\r\n" * count + b"0\r\n\r\n"
            await asyncio.get_running_loop().sock_sendall(peer, head + body)
            async with asyncio.timeout(60):
                assert await handler.over == "ended"
            assert b"".join(handler.pieces) == body
            assert max(piece.count(b"\r\n") for piece in handler.pieces) <= 2 * MAX_CHUNKS + 2
        pool.close()


class Pieces(Handler):
    """Keeps each piece as it comes."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[bytes] = []

    def begins(self, head: ReplyHead, first: bytes) -> None:
        self.pieces.append(first)

    def goes_on(self, data: bytes) -> None:
        self.pieces.append(data)


async def test_one_connection_is_prepared_and_no_more() -> None:
    async with answering() as (peer, pool):
        under_way = [pool.prepare() for _ in range(3)]
        assert under_way[0]
        assert under_way[1:] == under_way[:1] * 2
        await under_way[0]
        line = pool.take()
        peer.answers = [PLAIN]
        assert (await ask(pool, line)).over.result() == "ended"
        assert peer.connections == 1


async def test_dropping_a_request_ends_its_connection() -> None:
    async with answering() as (peer, pool):
        peer.answers = [b""]
        line = await pool.connect()
        line.send(REQUEST, Handler())
        line.drop()
        async with asyncio.timeout(PATIENCE_S):
            await peer.closed.wait()


# -- who answers -----------------------------------------------------------------------------


async def test_no_connection_is_spent_on_whose_the_port_is() -> None:
    async with answering(os.geteuid()) as (peer, pool):
        peer.answers = [CLOSING, CLOSING]
        assert (await ask(pool)).body == b"ok"
        assert peer.connections == 1
        assert (await ask(pool)).body == b"ok"
        assert peer.connections == 2


async def test_a_program_of_another_user_hears_nothing(free_port: Callable[[], int]) -> None:
    """It has the port of a server that has ended, and magid does not know yet."""
    port = free_port()
    pool = ConnectionPool(_backend(port, os.geteuid()))
    with Sly(port, "m", NOBODY) as stranger:
        for _ in range(3):
            with pytest.raises(ConnectionAbortedError, match="another program"):
                await ask(pool)
        pool.prepare()
        await asyncio.gather(*[t for t in [pool._connecting] if t])
        assert pool.take() is None
    assert stranger.connections == 0
    assert stranger.heard == b""


async def test_one_that_takes_the_port_later_hears_nothing(free_port: Callable[[], int]) -> None:
    port = free_port()
    pool = ConnectionPool(_backend(port, os.geteuid()))
    peer = Answering()
    peer.answers = [CLOSING]
    server = await asyncio.start_server(peer.serve, "127.0.0.1", port)
    async with server:
        assert (await ask(pool)).body == b"ok"
        await peer.closed.wait()
    with Sly(port, "m", NOBODY) as stranger, pytest.raises(ConnectionAbortedError):
        await ask(pool)
    assert stranger.heard == b""


@pytest.mark.parametrize("uid", [None, os.geteuid()], ids=["no user", "user"])
async def test_a_connection_that_is_reset_at_any_moment_is_a_failure(uid: int | None) -> None:
    """As by a server that is killed. Each step of the loop is such a moment."""
    outcomes = Counter([await reset_after(steps, uid) for steps in range(12)])
    assert outcomes.keys() == {"cannot be made", "its connection ended before the answer did"}


async def reset_after(steps: int, uid: int | None) -> str:
    """How a request fares if each connection that there is after so many steps is reset."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        pool = ConnectionPool(_backend(listener.getsockname()[1], uid))
        asking = asyncio.ensure_future(ask(pool))
        for step in itertools.count():
            await asyncio.sleep(0)
            if step >= steps:
                reset_all(listener)
            if asking.done():
                break
        try:
            return (await asking).over.result()
        except ConnectionError:
            return "cannot be made"


def reset_all(listener: socket.socket) -> None:
    with suppress(BlockingIOError):
        while True:
            peer, _ = listener.accept()
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()
