"""What a client costs that sends too much or too slowly, on every route and every endpoint."""

import re
import select
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from magid.api.routes import ROUTES
from magid.gateway.routing.endpoints import ENDPOINTS
from tests.support import rest
from tests.support.deadlines import DEADLINE_S
from tests.support.rest import Answer
from tests.support.running import Running
from tests.support.slow_clients import trickle

pytestmark = pytest.mark.slow

LARGE = 100 * 2**20
WRITES = [(r.method, re.sub(r"{\w+}", "x", r.path)) for r in ROUTES if r.method != "GET"]
WRITES += [(e.method, e.path) for e in ENDPOINTS if e.method == "POST"]
JSON = b"Host: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def magid(parts: rest.Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    configuration = "request_timeout: 5\ngateway: {max_body_bytes: 1048576}\n"
    running = parts.daemon(tmp_path_factory.mktemp("daemon"), configuration)
    with running, running.client:
        running.wait_ready()
        yield running
        assert "Traceback" not in running.log.read_text()


def peak(magid: Running, *, reset: bool = False) -> int:
    """Bytes: the most memory that the daemon has had."""
    assert magid.process is not None
    proc = Path(f"/proc/{magid.process.pid}")
    if reset:
        (proc / "clear_refs").write_text("5")  # proc(5): the peak becomes what is held now
    found = re.search(r"VmHWM:\s+(\d+) kB", (proc / "status").read_text())
    assert found
    return int(found[1]) * 1024


def send_all(port: int, head: bytes, piece: bytes) -> tuple[list[Answer], int]:
    """Send 100 MiB of this until an answer begins, as clients do: it and what was sent till then.

    Whoever sends on regardless may lose the answer to a reset; see the other test.
    """
    sent = 0
    with rest.connect(port) as connection:
        connection.sendall(head)
        connection.setblocking(False)
        with suppress(ConnectionError):  # closed since we looked; the answer is there
            while sent < LARGE:
                readable, writable, _ = select.select([connection], [connection], [], DEADLINE_S)
                if readable:
                    break
                assert writable, "it neither takes bytes nor answers"
                sent += connection.send(piece[sent % len(piece) :])
        connection.settimeout(DEADLINE_S)
        return rest.answers(rest.until_closed(connection)), sent


def send_regardless(port: int, head: bytes, piece: bytes) -> None:
    """Send 100 MiB of this, or as much as is taken, and do not look at the answer."""
    sent = 0
    with rest.connect(port) as connection, suppress(ConnectionError):
        connection.sendall(head)
        while sent < LARGE:
            sent += connection.send(piece[sent % len(piece) :])


FRAMINGS = {
    "length": (b"Content-Length: %d\r\n\r\n" % LARGE, b" " * 2**16),
    "chunks": (b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b" " * 2**16 + b"\r\n"),
}
framings = pytest.mark.parametrize("framing", FRAMINGS)


def large(framing: str, method: str, path: str) -> tuple[bytes, bytes]:
    """The head of a request, and what its body is made of, again and again."""
    head, piece = FRAMINGS[framing]
    return f"{method} {path} HTTP/1.1\r\n".encode() + JSON + head, piece


@framings
def test_bodies_of_100_mib_are_refused(magid: Running, framing: str) -> None:
    """With 413 on every route, as soon as it is clear that they are too large."""
    before = peak(magid, reset=True)

    def check(write: tuple[str, str]) -> None:
        found, sent = send_all(magid.port, *large(framing, *write))
        assert [answer.status for answer in found] == [413], (write, sent)
        assert found[0].headers["connection"] == "close"
        assert sent < LARGE, write

    with ThreadPoolExecutor(4) as pool:  # a connection stays open for a while after an answer
        list(pool.map(check, WRITES))
    assert peak(magid) - before < 20 * 2**20
    assert magid.get("/livez") == {"status": "ok"}


@framings
def test_who_sends_on_regardless_costs_no_memory(magid: Running, framing: str) -> None:
    """What comes behind the refusal is read for a moment at most, and not kept."""
    before = peak(magid, reset=True)
    for method, path in WRITES:
        send_regardless(magid.port, *large(framing, method, path))
    assert peak(magid) - before < 20 * 2**20
    assert magid.get("/livez") == {"status": "ok"}


def test_requests_for_the_gateway_that_trickle_in_are_cut(magid: Running) -> None:
    start = b"POST /v1/chat/completions HTTP/1.1\r\n" + JSON
    beginnings = [
        b"POST /v1/",
        start + b"X: ",
        start + b"Content-Length: 1000\r\n\r\n",
        start + b"Transfer-Encoding: chunked\r\n\r\n300\r\n",
        start + b"Transfer-Encoding: chunked\r\n\r\n1;",
    ]
    for found in trickle(magid.port, beginnings):
        assert [answer.status for answer in found] in ([408], [400])  # 400: 1;111... is too long
        assert found[0].headers["connection"] == "close"
