"""HTTP below the routes: malformed and slow requests, framing tricks, what a connection outlives.

Sent byte by byte over raw sockets. A second request hidden in a malformed one must never be
answered: between a proxy and this daemon it would be someone else's.
"""

import json
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support import rest
from tests.support.deadlines import DEADLINE_S
from tests.support.rest import Answer
from tests.support.running import Running
from tests.support.slow_clients import trickle

pytestmark = pytest.mark.slow

LIMIT = 1024  # the least that can be configured
CONFIGURATION = f"request_timeout: 3\nmax_body_bytes: {LIMIT}\n"
WRITE = "POST /api/models/apply?dryRun=true HTTP/1.1"
HOST = "Host: localhost"
JSON = "Content-Type: application/json"
HIDDEN = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def magid(parts: rest.Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("daemon")
    running = parts.daemon(folder, CONFIGURATION)
    running.environment["MAGI_BIND"] += f",unix:{folder}/api.sock"
    with running, running.client:
        running.wait_ready()
        yield running
        assert "ERROR" not in running.log.read_text()


def request(*lines: str | bytes, body: bytes = b"") -> bytes:
    raw = [line.encode("latin-1") if isinstance(line, str) else line for line in lines]
    return b"\r\n".join([*raw, b"", b""]) + body


# -- malformed heads ---------------------------------------------------------------------------

START_LINES = {
    "binary": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "empty": b"",
    "0.9": b"GET /livez",
    "no version": b"GET /livez ",
    "2.0": b"GET /livez HTTP/2.0",
    "1.2": b"GET /livez HTTP/1.2",
    "lower case": b"GET /livez http/1.1",
    "more words": b"GET /livez HTTP/1.1 x",
    "two spaces": b"GET  /livez HTTP/1.1",
    "preface of HTTP/2": b"PRI * HTTP/2.0",
    "tabs": b"GET\t/livez\tHTTP/1.1",
    "leading space": b" GET /livez HTTP/1.1",
    "bare LF": b"GET /livez\n HTTP/1.1",
    "bare CR": b"GET /livez\r HTTP/1.1",
    "nul": b"GET /livez\x00 HTTP/1.1",
    "raw utf-8": "GET /livéz HTTP/1.1".encode(),
    "raw byte": b"GET /liv\xffz HTTP/1.1",
    "delete": b"GET /livez\x7f HTTP/1.1",
    "whole URL of nothing": b"GET http:///livez HTTP/1.1",
    "another's URL": b"GET http://evil.example/livez HTTP/1.1",
    "no slash": b"GET livez HTTP/1.1",
    "star": b"OPTIONS * HTTP/1.1",
    "connect": b"CONNECT evil.example:443 HTTP/1.1",
    "port out of range": b"GET http://localhost:99999/ HTTP/1.1",
    "odd method": b"G\xffT /livez HTTP/1.1",
    "method of signs": b"G(T /livez HTTP/1.1",
}
FIELDS = {
    "none": [],
    "two hosts": [HOST, HOST],
    "no colon": [HOST, "nonsense"],
    "no name": [HOST, ": x"],
    "space before the colon": [HOST, "Content-Length : 5"],
    "tab before the colon": [HOST, "Content-Length\t: 5"],
    "folded": [HOST, "X: a", " b"],
    "folded with a tab": [HOST, "Transfer-Encoding:", "\tchunked"],
    "first is folded": [" X: a", HOST],
    "bare LF": [HOST, "X: a\nContent-Length: 5"],
    "bare CR": [HOST, "X: a\rContent-Length: 5"],
    "bare LF first": ["\n" + HOST],
    "bare CR first": ["\r" + HOST],
    "bare LF last": [HOST, "X: a\n"],
    "bare LF alone, last": [HOST, "\n"],
    "bare CR last": [HOST, "X: a\r"],
    "bare CR alone, last": [HOST, "\r"],
    "nul": [HOST, "X: a\x00b"],
    "escape": [HOST, "X: \x1b[31m"],
    "name of odd bytes": [HOST, "X\xe9: a"],
    "name with a space": [HOST, "X Y: a"],
    "length twice": [HOST, "Content-Length: 5", "Content-Length: 5"],
    "two lengths": [HOST, "Content-Length: 0", "Content-Length: 5"],
    "list of lengths": [HOST, "Content-Length: 5, 5"],
    "negative length": [HOST, "Content-Length: -1"],
    "length with a plus": [HOST, "Content-Length: +5"],
    "length in hex": [HOST, "Content-Length: 0x5"],
    "length with a _": [HOST, "Content-Length: 5_0"],
    "length of odd digits": [HOST, b"Content-Length: \xd9\xa5"],
    "length of nothing": [HOST, "Content-Length:"],
    "length with a fraction": [HOST, "Content-Length: 5.0"],
    "length of 5000 digits": [HOST, "Content-Length: " + "9" * 5000],
    "both": [HOST, "Content-Length: 5", "Transfer-Encoding: chunked"],
    "both, the other way": [HOST, "Transfer-Encoding: chunked", "Content-Length: 5"],
    "two encodings": [HOST, "Transfer-Encoding: chunked", "Transfer-Encoding: identity"],
    "list of encodings": [HOST, "Transfer-Encoding: chunked, identity"],
    "gzip": [HOST, "Transfer-Encoding: gzip, chunked"],
    "nearly chunked": [HOST, "Transfer-Encoding: xchunked"],
    "chunked and a tab": [HOST, "Transfer-Encoding: \x0bchunked"],
    "quoted": [HOST, 'Transfer-Encoding: "chunked"'],
    "identity": [HOST, "Transfer-Encoding: identity"],
    "unknown expectation": [HOST, "Content-Length: 5", "Expect: 200-maybe"],
}


@pytest.mark.parametrize("start", START_LINES.values(), ids=START_LINES)
def test_malformed_start_lines(magid: Running, start: bytes) -> None:
    check_refused(rest.exchange(magid.port, request(start, HOST) + HIDDEN))


def test_a_client_that_speaks_tls_is_refused_at_once(magid: Running) -> None:
    """It sends no end of a head, and would wait until the time for one is over (408)."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    (answer,) = rest.exchange(magid.port, outgoing.read())
    check_refused([answer])
    assert "no TLS to a port that has none" in json.loads(answer.body)["message"]
    incoming.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(ssl.SSLError, match="WRONG_VERSION_NUMBER"):  # which SDKs show
        client.do_handshake()


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
@pytest.mark.parametrize(
    "start",
    [WRITE, "GET /livez HTTP/1.1", "GET /nowhere HTTP/1.1"],
)
def test_malformed_fields(magid: Running, start: str, fields: list[str | bytes]) -> None:
    raw = request(start, *fields)
    check_refused(rest.exchange(magid.port, raw + HIDDEN))


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
def test_malformed_fields_to_the_gateway(magid: Running, fields: list[str | bytes]) -> None:
    """Which has another shape of errors."""
    raw = request("GET /v1/models HTTP/1.1", *fields)
    (answer,) = rest.exchange(magid.port, raw + HIDDEN)
    assert (answer.status, answer.headers["connection"]) == (400, "close")


@pytest.mark.parametrize("path", ["/livez", "/v1/models"])
def test_an_empty_line_before_a_request_is_none_of_it(magid: Running, path: str) -> None:
    """RFC 9112 2.2: some clients end a body with one. In each place where a request may begin."""
    one = request(f"GET {path} HTTP/1.1", HOST)
    last = request(f"GET {path} HTTP/1.1", HOST, "Connection: close")
    for sent in (b"\r\n" + last, one + b"\r\n" + last, b"\r\n" + one + b"\r\n" + last):
        found = rest.exchange(magid.port, sent)
        assert {answer.status for answer in found} == {200}
        assert len(found) == sent.count(b"GET")
    for sent in (b"\r\n\r\n" + last, b"\n" + last, b"\r" + last):
        (answer,) = rest.exchange(magid.port, sent)
        assert answer.status == 400


def check_refused(answers: list[Answer], status: int = 400) -> None:
    """One refusal and no word about what came behind it; the connection has ended."""
    assert len(answers) == 1
    assert answers[0].headers["connection"] == "close"
    rest.check_error(answers[0], status)


def test_an_encoding_that_http_1_0_does_not_have(magid: Running) -> None:
    raw = request(WRITE.replace("1.1", "1.0"), HOST, "Transfer-Encoding: chunked")
    check_refused(rest.exchange(magid.port, raw + HIDDEN))


@pytest.mark.parametrize("start", ["GET /livez HTTP/1.1", WRITE])
def test_a_head_over_the_limit(magid: Running, start: str) -> None:
    raw = request(start, HOST, "X: " + "a" * 20_000)
    check_refused(rest.exchange(magid.port, raw + HIDDEN), 413)


def test_a_long_head_within_the_limit_although_bodies_must_be_short(magid: Running) -> None:
    answer = rest.ask(magid.port, "GET /livez HTTP/1.1", "X: " + "a" * 15_000)
    assert answer.status == 200


# -- malformed bodies --------------------------------------------------------------------------

BAD_CHUNKS = {
    "no hex": b"g\r\n{}\r\n0\r\n\r\n",
    "negative": b"-2\r\n{}\r\n0\r\n\r\n",
    "plus": b"+2\r\n{}\r\n0\r\n\r\n",
    "underscore": b"0_2\r\n{}\r\n0\r\n\r\n",
    "nothing": b";ext\r\n{}\r\n0\r\n\r\n",
    "trailer of a length": b"2\r\n{}\r\n0\r\nContent-Length: 5\r\n\r\n",
    "trailing request": b"2\r\n{}\r\n0\r\n" + HIDDEN,
}


@pytest.mark.parametrize("chunks", BAD_CHUNKS.values(), ids=BAD_CHUNKS)
def test_malformed_chunks(magid: Running, chunks: bytes) -> None:
    raw = request(WRITE, HOST, JSON, "Transfer-Encoding: chunked", body=chunks)
    check_refused(rest.exchange(magid.port, raw + HIDDEN))


@pytest.mark.parametrize("size", [b"ffffffffffffffff", b"7fffffff", b"401", b"100000000"])
def test_chunks_over_the_limit(magid: Running, size: bytes) -> None:
    data = b" " * (LIMIT + 1)
    raw = request(WRITE, HOST, JSON, "Transfer-Encoding: chunked", body=size + b"\r\n" + data)
    check_refused(rest.exchange(magid.port, raw), 413)


@pytest.mark.parametrize(
    "chunks",
    [
        b"2;name=value\r\n{}\r\n0\r\n\r\n",
        b'2;a="\r\n"\r\n{}\r\n0\r\n\r\n',
        b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n",
        b"2\r\n{}XX0\r\n\r\n",
        b"0x2\r\n{}\r\n0\r\n\r\n",
        b"0" * 100 + b"2\r\n{}\r\n0\r\n\r\n",
    ],
)
def test_a_chunked_body_is_the_last_of_its_connection(magid: Running, chunks: bytes) -> None:
    # Whoever reads the chunks differently finds no second request to disagree about.
    raw = request(WRITE, HOST, JSON, "Transfer-Encoding: chunked", body=chunks)
    (answer,) = rest.exchange(magid.port, raw + HIDDEN)
    assert answer.headers["connection"] == "close"
    assert answer.status in (200, 400)


# -- slow requests -----------------------------------------------------------------------------


def test_requests_that_trickle_in_are_cut(magid: Running) -> None:
    slow_head = request("GET /livez HTTP/1.1", HOST, "X: ")[:-4]
    bodies = [request(WRITE, HOST, JSON, "Content-Length: 1000")]
    bodies += [request(WRITE, HOST, JSON, "Transfer-Encoding: chunked", body=b"300\r\n")]
    bodies += [request("GET /livez HTTP/1.1", HOST, JSON, "Content-Length: 1000")]
    bodies += [request("OPTIONS /livez HTTP/1.1", HOST, JSON, "Content-Length: 1000")]
    for answers in trickle(magid.port, [slow_head, b"GE", *bodies]):
        check_refused(answers, 408)


def test_a_refused_request_need_not_be_read_to_its_end(magid: Running) -> None:
    length = "Content-Length: 1000"
    foreign, nowhere, method = trickle(
        magid.port,
        [
            request(WRITE, "Host: evil.example", JSON, length),
            request("POST /nowhere HTTP/1.1", HOST, JSON, length),
            request("PUT /livez HTTP/1.1", HOST, JSON, length),
        ],
    )
    check_refused(foreign, 421)
    check_refused(nowhere, 404)
    check_refused(method, 405)


# -- connections -------------------------------------------------------------------------------


def test_a_connection_outlives_errors_that_were_well_formed(magid: Running) -> None:
    raw = b"".join(
        (
            request("GET /nowhere HTTP/1.1", HOST),
            request("PUT /livez HTTP/1.1", HOST, JSON, "Content-Length: 0"),
            request(WRITE, HOST, "Content-Type: text/plain", "Content-Length: 2", body=b"{}"),
            request(WRITE, HOST, "Content-Length: 0"),
            request("GET /livez HTTP/1.1", "Host: evil.example"),
            request(
                "DELETE /api/models/profiles/x HTTP/1.1",
                HOST,
                JSON,
                "Content-Length: 2",
                body=b"{}",
            ),
            request("GET /livez HTTP/1.1", HOST, "Connection: close"),
        )
    )
    answers = rest.exchange(magid.port, raw)
    assert [answer.status for answer in answers] == [404, 405, 415, 200, 421, 404, 200]
    kept = [answer.headers["connection"] for answer in answers]
    assert kept == ["keep-alive"] * 6 + ["close"]


@pytest.mark.parametrize(
    ("connection", "kept"), [("", False), ("keep-alive", True), ("close", False)]
)
def test_http_1_0(magid: Running, connection: str, kept: bool) -> None:
    fields = [f"Connection: {connection}"] if connection else []
    raw = request("GET /livez HTTP/1.0", HOST, *fields)
    last = request("GET /livez HTTP/1.0", HOST)
    answers = rest.exchange(magid.port, raw + last)
    assert [answer.status for answer in answers] == [200] * (2 if kept else 1)


def test_a_body_is_asked_for_only_if_it_is_wanted(magid: Running) -> None:
    expect = "Expect: 100-continue"
    with rest.connect(magid.port) as connection:
        head = request(WRITE, HOST, JSON, "Content-Length: 2", expect, "Connection: close")
        connection.sendall(head)
        interim = b"HTTP/1.1 100 Continue\r\n\r\n"
        assert connection.recv(len(interim)) == interim
        connection.sendall(b"{}")
        (answer,) = rest.answers(rest.until_closed(connection))
        assert answer.status == 200
    too_large = request(WRITE, HOST, JSON, f"Content-Length: {LIMIT + 1}", expect)
    check_refused(rest.exchange(magid.port, too_large), 413)
    foreign = request(WRITE, "Host: evil.example", JSON, "Content-Length: 2", expect)
    check_refused(rest.exchange(magid.port, foreign), 421)
    late = request(WRITE, HOST, JSON, "Content-Length: 2", expect)
    with rest.connect(magid.port) as connection:
        connection.sendall(late)
        assert connection.recv(len(interim)) == interim
        check_refused(rest.answers(rest.until_closed(connection)), 408)


def test_http_1_0_has_no_interim_answers(magid: Running) -> None:
    write = WRITE.replace("1.1", "1.0")
    fields = (HOST, JSON, "Content-Length: 2", "Expect: 100-continue")
    (answer,) = rest.exchange(magid.port, request(write, *fields, body=b"{}"))
    assert answer.status == 200
    # Its body comes unasked: it must not be taken for the next request.
    foreign = request(write, "Host: evil.example", *fields[1:], "Connection: keep-alive")
    unread = request("GET /livez HTTP/1.0", HOST)
    check_refused(rest.exchange(magid.port, foreign + unread), 421)


def test_a_large_body_does_not_drown_the_answer(magid: Running) -> None:
    body = b" " * 5_000_000
    response = magid.client.post(
        "/api/models/apply", content=body, headers={"Content-Type": "application/json"}
    )
    assert response.status_code == 413


def test_an_upgrade_is_ignored(magid: Running) -> None:
    # Sanic would take all timeouts from a connection that speaks of a websocket.
    fields = ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
    (answer,) = rest.exchange(magid.port, request("GET /livez HTTP/1.1", HOST, *fields))
    assert answer.status == 200


# -- the unix socket ---------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["localhost", "evil.example", "a"])
def test_the_unix_socket_asks_for_no_host(magid: Running, host: str) -> None:
    with at_socket(magid.folder) as client:
        assert client.get("/livez", headers={"Host": host}).json() == {"status": "ok"}
        changed = client.post("/api/models/rescan", headers={"Host": host})
        assert changed.status_code == 200
        assert client.get("/nowhere", headers={"Host": host}).status_code == 404


def at_socket(folder: Path) -> httpx.Client:
    transport = httpx.HTTPTransport(uds=f"{folder}/api.sock")
    return httpx.Client(base_url="http://magid", transport=transport, timeout=DEADLINE_S)


def test_the_unix_socket_refuses_what_is_malformed(magid: Running) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(DEADLINE_S)
        connection.connect(f"{magid.folder}/api.sock")
        connection.sendall(request("GET /livez HTTP/1.1", "X : y") + HIDDEN)
        check_refused(rest.answers(rest.until_closed(connection)))
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(DEADLINE_S)
        connection.connect(f"{magid.folder}/api.sock")
        connection.sendall(request("GET /livez HTTP/1.1", "Connection: close"))
        (answer,) = rest.answers(rest.until_closed(connection))
        assert json.loads(answer.body) == {"status": "ok"}  # without any Host
