"""The states of a client connection: the table of transitions, and what leads to each state.

The transport and the dispatcher are fakes, because here a client stops taking bytes, and a server
answers, exactly when a row of the table says so. Real sockets are in the other files.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from magid.auth.authenticator import Authenticator
from magid.auth.limits import Limiter
from magid.auth.token_store import TokenStore
from magid.errors import QueueFull, ServerLost
from magid.gateway.dispatcher import Dispatcher
from magid.gateway.frontend.connection import MAX_BEHIND, ClientConnection
from magid.gateway.frontend.connection_state import TRANSITIONS, ConnectionState
from magid.gateway.frontend.context import FrontendContext
from magid.gateway.frontend.request_reader import RequestHeadCache
from magid.gateway.proxy.forward import ResponseSink
from magid.gateway.routing.fleet import Fleet
from magid.gateway.routing.request import ParsedRequest
from magid.http.framing import ReplyHead
from magid.http.request_rules import MAX_HEAD_BYTES
from magid.library.downloads.owner import Downloads
from tests.support.deadlines import PATIENCE_S

IDLE, HEAD, BODY, RESPONDING, BLOCKED, LINGERING, CLOSED = ConnectionState

CONTENT = b'{"model":"fast","messages":[]}'
FIELDS = b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(CONTENT)
START = b"POST /v1/chat/completions HTTP/1.1\r\n" + FIELDS
WHOLE = START + b"\r\n" + CONTENT
JSON = ReplyHead(200, b"application/json", 2, is_chunked=False, keeps_alive=True)
EVENTS = ReplyHead(200, b"text/event-stream", None, is_chunked=True, keeps_alive=True)


class FakeTransport(asyncio.Transport):
    """Keeps what is written, and does at once what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.reads = True
        self.is_ended = False
        self.half_closed = asyncio.Event()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.half_closed.set()

    def is_closing(self) -> bool:
        return self.is_ended

    def close(self) -> None:
        self.is_ended = True

    abort = close

    def get_write_buffer_size(self) -> int:
        return 0


class FakeDispatcher:
    """Leaves each request unanswered; with `refuses` it fails before `begin` returns."""

    slices = None
    fleet = Fleet()

    def __init__(self) -> None:
        self.errors: Counter[str] = Counter()
        self.clients: list[ResponseSink] = []
        self.refuses = False
        self.cancelled = 0
        self.pauses: list[bool] = []

    def begin(self, request: ParsedRequest, client: ResponseSink) -> "FakeDispatcher":
        assert request.model == "fast"
        self.clients.append(client)
        if self.refuses:
            client.fails(QueueFull("cannot take the request: try again later"))
        return self

    def cancel(self) -> None:
        self.cancelled += 1

    def pause(self, *, paused: bool) -> None:
        self.pauses.append(paused)


class RecordedConnection(ClientConnection):
    """Keeps its transitions: one step of a test may take several."""

    taken: list[tuple[ConnectionState, ConnectionState]]

    def _enter(self, state: ConnectionState) -> None:
        self.taken.append((self.state, state))
        super()._enter(state)


class Bench:
    """One connection, and what a test does with it."""

    def __init__(self, timeout_s: float = PATIENCE_S) -> None:
        self.transport, self.dispatcher = FakeTransport(), FakeDispatcher()
        context = FrontendContext(
            cast(Dispatcher, self.dispatcher), cast(Downloads, None), RequestHeadCache(None), 1000,
            timeout_s, PATIENCE_S, Authenticator(TokenStore(Path("tokens.json"))),
            Limiter(lambda _: 0), is_tcp=False,
        )  # fmt: skip
        self.others: list[bytes] = []  # what stood behind a request and is not the gateway's
        self.connection = RecordedConnection(context, self.transport, "local", self._on_rest)
        self.connection.taken = []

    def _on_rest(self, data: bytes) -> None:
        if data.startswith(b"POST "):
            self.connection.feed(data)
        else:
            self.others.append(data)

    @property
    def client(self) -> ResponseSink:
        return self.dispatcher.clients[-1]

    @property
    def statuses(self) -> list[int]:
        lines = self.transport.written.split(b"HTTP/1.1 ")[1:]
        return [int(line[:3]) for line in lines]

    def feed(self, data: bytes) -> None:
        self.connection.feed(data)

    def answer(self) -> None:
        self.client.begins(JSON, b"", b"{}")
        self.client.ends()

    def stall(self) -> None:
        self.connection.pause(paused=True)

    def take(self) -> None:
        self.connection.pause(paused=False)


Step = Callable[[Bench], None]


def fed(data: bytes) -> Step:
    return lambda bench: bench.feed(data)


def stream(bench: Bench) -> None:
    bench.client.begins(EVENTS, b"", b"7\r\ndata: 1\r\n")


def break_off(bench: Bench) -> None:
    bench.client.breaks_off(ServerLost("cannot finish"), is_inside_chunk=False)


def cut_off(bench: Bench) -> None:
    bench.client.breaks_off(ServerLost("cannot finish"), is_inside_chunk=True)


def fail(bench: Bench) -> None:
    bench.client.fails(ServerLost("cannot finish"))


def refuse(bench: Bench) -> None:
    bench.dispatcher.refuses = True


def lose(bench: Bench) -> None:
    bench.connection.lost()


stall, take, answer = Bench.stall, Bench.take, Bench.answer
malformed = fed(WHOLE.replace(b"Content-Type:", b"Content-Type :"))
too_large = fed(WHOLE.replace(b"Length: %d" % len(CONTENT), b"Length: 1001"))
closing = fed(WHOLE.replace(FIELDS, FIELDS + b"Connection: close\r\n"))
ROWS: list[tuple[list[Step], ConnectionState]] = [
    ([], IDLE),
    ([stall], BLOCKED),
    ([stall, fed(WHOLE)], BLOCKED),
    ([stall, take], IDLE),
    ([stall, fed(WHOLE), take], RESPONDING),
    ([fed(START)], HEAD),
    ([fed(START), fed(b"\r\n")], BODY),
    ([fed(START), stall, take], HEAD),
    ([fed(START), fed(b"\r\n" + CONTENT)], RESPONDING),
    ([fed(START), fed(b"x: " + b"y" * MAX_HEAD_BYTES)], LINGERING),
    ([fed(START + b"\r\n"), stall, fed(CONTENT), answer], BLOCKED),
    ([fed(START + b"\r\n"), fed(CONTENT[:9])], BODY),
    ([fed(START + b"\r\n"), fed(CONTENT[:9]), fed(CONTENT[9:])], RESPONDING),
    ([malformed], LINGERING),
    ([malformed, fed(WHOLE)], LINGERING),
    ([too_large], LINGERING),
    ([fed(WHOLE)], RESPONDING),
    ([fed(WHOLE), stall, take], RESPONDING),
    ([fed(WHOLE), fed(b"GET / ")], RESPONDING),
    ([fed(WHOLE), answer], IDLE),
    ([fed(WHOLE), answer, fed(WHOLE)], RESPONDING),
    ([fed(WHOLE), fail], IDLE),
    ([refuse, fed(WHOLE)], IDLE),
    ([refuse, fed(WHOLE), stall], BLOCKED),
    ([fed(WHOLE.replace(b"application", b"text"))], IDLE),
    ([fed(WHOLE), stall, answer], BLOCKED),
    ([fed(WHOLE), stall, answer, take], IDLE),
    ([fed(WHOLE), fed(WHOLE), answer], BLOCKED),
    ([fed(WHOLE), stream, break_off], CLOSED),
    ([fed(WHOLE), stream, cut_off], CLOSED),
    ([closing, answer], CLOSED),
]


def play(steps: list[Step]) -> Bench:
    bench = Bench()
    for step in steps:
        step(bench)
    return bench


@pytest.mark.parametrize(("steps", "state"), ROWS)
async def test_what_leads_to_a_state(steps: list[Step], state: ConnectionState) -> None:
    bench = play(steps)
    assert bench.connection.state is state
    assert bench.connection.is_busy is (state is not IDLE)


@pytest.mark.parametrize("steps", [steps for steps, _ in ROWS])
async def test_a_client_may_leave_in_any_state(steps: list[Step]) -> None:
    bench = play(steps)
    is_active = bench.connection.state is RESPONDING
    for step in (lose, lose, fed(WHOLE), take):
        step(bench)
    assert bench.connection.state is CLOSED
    assert bench.dispatcher.cancelled == is_active


def test_the_table_of_transitions() -> None:
    assert set(TRANSITIONS) == set(ConnectionState)
    assert all(CLOSED in after for before, after in TRANSITIONS.items() if before is not CLOSED)
    assert TRANSITIONS[CLOSED] == ()
    led_to = {state for after in TRANSITIONS.values() for state in after}
    assert led_to == set(ConnectionState)


async def test_the_table_has_no_transition_that_does_not_happen() -> None:
    taken: set[tuple[ConnectionState, ConnectionState]] = set()
    for steps, _ in ROWS:
        taken |= set(play([*steps, lose]).connection.taken)
    assert taken == {(before, after) for before in TRANSITIONS for after in TRANSITIONS[before]}


async def test_requests_behind_each_other_are_answered_in_order() -> None:
    bench = play([fed(WHOLE), fed(WHOLE + b"GET /livez HTTP/1.1\r\n"), answer])
    assert len(bench.dispatcher.clients) == 1
    await asyncio.sleep(0)  # the second one's turn
    assert bench.connection.state is RESPONDING
    bench.answer()
    await asyncio.sleep(0)
    assert (bench.others, bench.statuses) == ([b"GET /livez HTTP/1.1\r\n"], [200, 200])
    assert bench.connection.state is IDLE


async def test_no_more_is_read_behind_a_request_than_there_is_room_for() -> None:
    bench = play([fed(WHOLE), fed(b"x" * MAX_BEHIND)])
    reads = [bench.transport.reads]
    bench.feed(b"x")
    reads.append(bench.transport.reads)
    bench.answer()
    await asyncio.sleep(0)
    assert [*reads, bench.transport.reads] == [True, False, True]
    assert bench.others == [b"x" * (MAX_BEHIND + 1)]


async def test_a_request_begun_while_its_client_takes_nothing_is_paused() -> None:
    bench = play([fed(START + b"\r\n"), stall, fed(CONTENT), take])
    assert bench.dispatcher.pauses == [True, False]


async def test_a_slow_head_or_body_ends_in_408() -> None:
    for sent in (START, START + b"\r\n", START + b"\r\n" + CONTENT[:9]):
        bench = Bench(timeout_s=0.0)
        bench.feed(sent)
        async with asyncio.timeout(PATIENCE_S):
            await bench.transport.half_closed.wait()
        assert (bench.connection.state, bench.statuses) == (LINGERING, [408])
