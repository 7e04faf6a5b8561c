"""What a client costs that sends too much or too slowly, on every route and every endpoint."""

import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from magid.api.routes import ROUTES
from magid.gateway.endpoints import ENDPOINTS
from tests import rest
from tests.rest import Answer
from tests.running import DEADLINE_S, Running
from tests.test_api_framing import trickle

pytestmark = pytest.mark.slow

LARGE = 100 * 2**20
WRITES = [(r.method, re.sub(r"{\w+}", "x", r.path)) for r in ROUTES if r.method != "GET"]
WRITES += [(e.method, e.path) for e in ENDPOINTS if e.method == "POST"]
JSON = b"Host: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def magid(parts: rest.Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    configuration = "request_timeout: 1\ngateway: {max_body_bytes: 1048576}\n"
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


def send_all(port: int, head: bytes, piece: bytes) -> list[Answer]:
    """Send 100 MiB of this, or as much as is taken."""
    sent = 0
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as connection:
        with suppress(ConnectionError):
            connection.sendall(head)
            while sent < LARGE:
                sent += connection.send(piece)
        return rest.answers(rest.until_closed(connection))


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_bodies_of_100_mib(magid: Running, framing: str) -> None:
    """Refused when it is clear that they are too large; what comes behind that is not kept."""
    before, refused = peak(magid, reset=True), 0
    for method, path in WRITES:
        start = f"{method} {path} HTTP/1.1\r\n".encode() + JSON
        if framing == "length":
            head, piece = b"Content-Length: %d\r\n\r\n" % LARGE, b" " * 2**16
        else:
            head = b"Transfer-Encoding: chunked\r\n\r\n"
            piece = b"10000\r\n" + b" " * 2**16 + b"\r\n"
        found = send_all(magid.port, start + head, piece)
        # On a busy machine who goes on sending may meet the end before the answer.
        assert [answer.status for answer in found] in ([413], []), (method, path)
        refused += len(found)
    assert refused > len(WRITES) // 2, "hardly anybody heard why"
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
