"""Request smuggling: what two parsers could read differently, to Sanic and the gateway.

Behind each request stand two more, one for each path, that a proxy would have taken for something
else. Of a malformed request they must never be answered; of a well-formed one always, however the
bytes are cut. test_api_framing has the fields and start lines that each path refuses alone.
"""

import socket
from collections.abc import Iterator
from contextlib import suppress

import psutil
import pytest

from tests.support import rest
from tests.support.deadlines import DEADLINE_S
from tests.support.rest import Answer
from tests.support.running import Running, frozen

pytestmark = pytest.mark.slow

BODY = b'{"model":"x"}'  # of 13 bytes; /apply takes any object, the gateway knows no such model
FIELDS = b"Host: localhost\r\nContent-Type: application/json\r\n"
SANIC = b"POST /api/models/apply?dryRun=true HTTP/1.1\r\n" + FIELDS
GATEWAY = b"POST /v1/chat/completions HTTP/1.1\r\n" + FIELDS
BEHIND = (
    b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
    b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
paths = pytest.mark.parametrize("start", [SANIC, GATEWAY], ids=["sanic", "gateway"])
WHOLE = b"d\r\n" + BODY + b"\r\n0\r\n\r\n"


@pytest.fixture(scope="module")
def magid(parts: rest.Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Without a model: what matters here is where a request ends."""
    limits = "request_timeout: 5\nsend_timeout: 1\n"
    running = parts.daemon(tmp_path_factory.mktemp("daemon"), limits)
    with running, running.client:
        running.wait_ready()
        yield running
        assert "Traceback" not in running.log.read_text()


def bytewise(port: int, data: bytes) -> list[Answer]:
    """Each byte in a segment of its own."""
    with rest.connect(port) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for at in range(len(data)):
                connection.send(data[at : at + 1])
        except ConnectionError:
            pass  # refused before it was all there
        return rest.answers(rest.until_closed(connection))


def first_answers(connection: socket.socket, count: int) -> bytes:
    """What comes until the head of so many answers is there: the requests have been read then."""
    received = b""
    while received.count(b"HTTP/1.1 ") < count:
        data = connection.recv(65_536)
        assert data, f"ended before its answers: {received!r}"
        received += data
    return received


def check_refused(found: list[Answer], statuses: tuple[int, ...] = (400,)) -> None:
    assert [answer.status for answer in found if answer.status not in statuses] == []
    assert len(found) == 1, f"what stood behind was answered: {found}"
    assert found[0].headers["connection"] == "close"


# -- heads that do not say where the body ends ---------------------------------------------------

CL, TE = b"Content-Length: 13\r\n", CHUNKED
HEADS = {
    "CL.TE": CL + TE,
    "TE.CL": TE + CL,
    "CL.TE with a list": CL + b"Transfer-Encoding: identity, chunked\r\n",
    "CL.CL": CL + b"Content-Length: 0\r\n",
    "CL.CL of another case": CL + b"content-LENGTH: 0\r\n",
    "CL list of equals": b"Content-Length: 13, 13\r\n",
    "CL list without space": b"Content-Length: 13,0\r\n",
    "CL and a word": b"Content-Length: 13 0\r\n",
    "CL in a string": b'Content-Length: "13"\r\n',
    "CL of 2^64 and more": b"Content-Length: 18446744073709551629\r\n",
    "CL after a NUL": b"Content-Length: \x0013\r\n",
    "CL before a NUL": b"Content-Length: 13\x000\r\n",
    "CL after VT": b"Content-Length: \x0b13\r\n",
    "CL after no-break space": b"Content-Length: \xa013\r\n",
    "CL behind a bare LF": b"X: y\nContent-Length: 13\r\n",
    "CL behind a bare CR": b"X: y\rContent-Length: 13\r\n",
    "CL of a folded line": b"Content-Length:\r\n 13\r\n",
    "CL with NUL in its name": b"Content-Length\x00: 13\r\n",
    "CL with a space before the colon": b"Content-Length : 13\r\n",
    "CL behind a space": b" Content-Length: 13\r\n",
    "TE.TE": TE + TE,
    "TE.TE and identity": TE + b"Transfer-Encoding: identity\r\n",
    "TE.TE and a cow": TE + b"Transfer-encoding: cow\r\n",
    "TE twice in a list": b"Transfer-Encoding: chunked, chunked\r\n",
    "TE with an empty element": b"Transfer-Encoding: chunked,\r\n",
    "TE with a parameter": b"Transfer-Encoding: chunked;q=1\r\n",
    "TE that begins with chunked": b"Transfer-Encoding: chunkedx\r\n",
    "TE that ends with chunked": b"Transfer-Encoding: xchunked\r\n",
    "TE in a string": b'Transfer-Encoding: "chunked"\r\n',
    "TE of nothing": b"Transfer-Encoding:\r\n",
    "TE after VT": b"Transfer-Encoding: \x0bchunked\r\n",
    "TE after FF": b"Transfer-Encoding: \x0cchunked\r\n",
    "TE after no-break space": b"Transfer-Encoding: \xa0chunked\r\n",
    "TE before a NUL": b"Transfer-Encoding: chunked\x00\r\n",
    "TE before DEL": b"Transfer-Encoding: chunked\x7f\r\n",
    "TE behind a bare LF": b"X: y\nTransfer-Encoding: chunked\r\n",
    "TE behind a bare CR": b"X: y\rTransfer-Encoding: chunked\r\n",
    "TE before a bare LF": b"Transfer-Encoding: chunked\nX: y\r\n",
    "TE of a folded line": b"Transfer-Encoding:\r\n chunked\r\n",
    "TE before a folded line": b"Transfer-Encoding: chunked\r\n identity\r\n",
    "TE with a space before the colon": b"Transfer-Encoding : chunked\r\n",
    "TE with a tab before the colon": b"Transfer-Encoding\t: chunked\r\n",
    "TE with NUL in its name": b"Transfer-Encoding\x00: chunked\r\n",
    "TE behind a space": b" Transfer-Encoding: chunked\r\n",
    "TE of latin letters": b"Transfer-Encoding: chun\xe7ed\r\n",
    "TE deflate": b"Transfer-Encoding: deflate, chunked\r\n",
    "Host twice": CL + b"Host: evil.example\r\n",
}  # fmt: skip


@paths
@pytest.mark.parametrize("fields", HEADS.values(), ids=HEADS)
def test_heads_without_one_end(magid: Running, start: bytes, fields: bytes) -> None:
    for body in (WHOLE, BODY):
        found = rest.exchange(magid.port, start + fields + b"\r\n" + body + BEHIND)
        check_refused(found, (400, 413))


@paths
def test_heads_without_one_end_byte_by_byte(magid: Running, start: bytes) -> None:
    for fields in list(HEADS.values())[::4]:
        found = bytewise(magid.port, start + fields + b"\r\n" + WHOLE + BEHIND)
        check_refused(found, (400, 413))


# -- chunks ------------------------------------------------------------------------------------

CHUNKS = {
    "bare LF behind the size": b"d\n" + BODY + b"\r\n0\r\n\r\n",
    "bare CR behind the size": b"d\r" + BODY + b"\r\n0\r\n\r\n",
    "CR CR LF behind the size": b"d\r\r\n" + BODY + b"\r\n0\r\n\r\n",
    "nothing behind the data": b"d\r\n" + BODY + b"0\r\n\r\n",
    "bare LF behind the data": b"d\r\n" + BODY + b"\n0\r\n\r\n",
    "bare CR behind the data": b"d\r\n" + BODY + b"\r0\r\n\r\n",
    "other bytes behind the data": b"d\r\n" + BODY + b"XX0\r\n\r\n",
    "a size too small": b"c\r\n" + BODY + b"\r\n0\r\n\r\n",
    "space before the size": b" d\r\n" + BODY + b"\r\n0\r\n\r\n",
    "a sign": b"+d\r\n" + BODY + b"\r\n0\r\n\r\n",
    "below zero": b"-d\r\n" + BODY + b"\r\n0\r\n\r\n",
    "0x": b"0xd\r\n" + BODY + b"\r\n0\r\n\r\n",
    "an underscore": b"0_d\r\n" + BODY + b"\r\n0\r\n\r\n",
    "no digit": b"g\r\n" + BODY + b"\r\n0\r\n\r\n",
    "nothing": b"\r\n" + BODY + b"\r\n0\r\n\r\n",
    "an extension alone": b";x=y\r\n" + BODY + b"\r\n0\r\n\r\n",
    "2^64 and more": b"1000000000000000d\r\n" + BODY + b"\r\n0\r\n\r\n",
    "2^32 and more": b"10000000d\r\n" + BODY + b"\r\n0\r\n\r\n",
    "a long extension": b"d;" + b"x" * 70_000 + b"\r\n" + BODY + b"\r\n0\r\n\r\n",
    "bare LF in an extension": b"d;x\ny\r\n" + BODY + b"\r\n0\r\n\r\n",
    "bare CR in an extension": b"d;x\ry\r\n" + BODY + b"\r\n0\r\n\r\n",
    "NUL in an extension": b"d;\x00\r\n" + BODY + b"\r\n0\r\n\r\n",
    "a length as trailer": b"d\r\n" + BODY + b"\r\n0\r\nContent-Length: 100\r\n\r\n",
    "a host as trailer": b"d\r\n" + BODY + b"\r\n0\r\nHost: evil.example\r\n\r\n",
    "a request as trailer": b"d\r\n" + BODY + b"\r\n0\r\n" + BEHIND,
    "bare LF at the end": b"d\r\n" + BODY + b"\r\n0\n\n",
    "half an end": b"d\r\n" + BODY + b"\r\n0\r\n\n",
    "a second end": b"d\r\n" + BODY + b"\r\n0\r\n0\r\n\r\n",
}


@paths
@pytest.mark.parametrize("chunks", CHUNKS.values(), ids=CHUNKS)
def test_chunks_without_one_end(magid: Running, start: bytes, chunks: bytes) -> None:
    data = start + CHUNKED + b"\r\n" + chunks + BEHIND
    found = rest.exchange(magid.port, data)
    if start is SANIC and len(found) == 1 and found[0].status == 200:
        assert found[0].headers["connection"] == "close"  # read in one way, and the last
    else:
        check_refused(found, (400, 408, 413))  # 408: of a huge chunk, for which it waits


@paths
def test_chunks_without_one_end_byte_by_byte(magid: Running, start: bytes) -> None:
    for chunks in list(CHUNKS.values())[::3]:
        if len(chunks) < 1000:
            found = bytewise(magid.port, start + CHUNKED + b"\r\n" + chunks + BEHIND)
            assert len(found) == 1
            assert found[0].headers["connection"] == "close"


EARLY = {  # bodies that are answered before they are read
    "a path that is none": SANIC.replace(b"/api/models", b"/nowhere") + b"%s\r\n",
    "another site's page": SANIC + b"Origin: http://evil.example\r\n%s\r\n",
    "a foreign name": SANIC.replace(b"localhost", b"evil.example") + b"%s\r\n",
}


@pytest.mark.parametrize("head", EARLY.values(), ids=EARLY)
@pytest.mark.parametrize("fields", [b"Content-Length: 5000\r\n", CHUNKED], ids=["CL", "TE"])
def test_a_body_is_no_request_after_its_answer(magid: Running, head: bytes, fields: bytes) -> None:
    """A segment of it may begin like a request, when all that came before has been read."""
    with rest.connect(magid.port) as connection:
        connection.sendall(head % fields)
        received = first_answers(connection, 1)
        with suppress(ConnectionError):  # closed already
            connection.sendall(BEHIND[BEHIND.index(b"GET /v1/") :])
        found = rest.answers(received + rest.until_closed(connection))
    check_refused(found, (403, 404, 421))


# -- what has one reading ------------------------------------------------------------------------

LENGTHS = {
    "plain": CL,
    "leading zeros": b"Content-Length: 0000013\r\n",
    "spaces around": b"Content-Length: \t 13 \t\r\n",
    "names that a CGI program would confuse": CL + b"Transfer_Encoding: chunked\r\n",
    "a TE header": CL + b"TE: chunked, trailers\r\nTrailer: Content-Length\r\n",
    "a length in a value": CL + b"X: Content-Length: 0\r\n",
}


@paths
@pytest.mark.parametrize("fields", LENGTHS.values(), ids=LENGTHS)
def test_what_stands_behind_a_length_is_the_next_request(
    magid: Running, start: bytes, fields: bytes
) -> None:
    data = start + fields + b"\r\n" + BODY + BEHIND
    for found in (rest.exchange(magid.port, data), bytewise(magid.port, data)):
        first = 200 if start is SANIC else 404
        assert [answer.status for answer in found] == [first, 200, 200]
        assert found[1].body == b'{"status":"ok"}'


@pytest.mark.parametrize(
    "chunks",
    [WHOLE, b"0D\r\n" + WHOLE[3:], b"d;x=y\r\n" + WHOLE[3:],
     b"6\r\n" + BODY[:6] + b"\r\n7\r\n" + BODY[6:] + b"\r\n0\r\n\r\n"],
)  # fmt: skip
@pytest.mark.parametrize("coding", [CHUNKED, b"transfer-encoding:CHUNKED\r\n"])
def test_what_stands_behind_chunks(magid: Running, coding: bytes, chunks: bytes) -> None:
    data = GATEWAY + coding + b"\r\n" + chunks + BEHIND
    for found in (rest.exchange(magid.port, data), bytewise(magid.port, data)):
        assert [answer.status for answer in found] == [404, 200, 200]
    # Sanic's chunk reader must not see a request that may hide another.
    (answer,) = rest.exchange(magid.port, SANIC + coding + b"\r\n" + chunks + BEHIND)
    status = 200 if coding == CHUNKED else 400  # Sanic knows the word in lower case only
    assert (answer.status, answer.headers["connection"]) == (status, "close")


@pytest.mark.parametrize("path", [b"/livez", b"/v1/models"])
def test_a_body_where_none_belongs_is_no_request(magid: Running, path: bytes) -> None:
    """A GET may have one (RFC 9110, 9.3.1): it is read over, on both paths, however it comes."""
    hidden = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    head = b"GET " + path + b" HTTP/1.1\r\n" + FIELDS
    data = head + b"Content-Length: %d\r\n\r\n" % len(hidden) + hidden + BEHIND
    for found in (rest.exchange(magid.port, data), bytewise(magid.port, data)):
        assert [answer.status for answer in found] == [200, 200, 200]
        own, alive, models = (answer.body for answer in found)
        assert b"reasons" not in own + alive + models
        assert own == (alive if path == b"/livez" else models)


# -- both paths on one connection ----------------------------------------------------------------


def test_refusals_on_both_paths_and_what_stands_behind_them(magid: Running) -> None:
    """A request that is well-formed and refused is not the last; a malformed one is, on either."""
    nothing = b"Host: localhost\r\n\r\n"
    text = b"Host: localhost\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\n" + BODY
    good = b"".join(
        (
            b"GET /nowhere HTTP/1.1\r\n" + nothing,
            b"GET /v1/nowhere HTTP/1.1\r\n" + nothing,
            b"POST /v1/embeddings HTTP/1.1\r\n" + text,
            b"POST /api/models/apply HTTP/1.1\r\n" + text,
            GATEWAY + CL + b"\r\n" + BODY,
            b"DELETE /v1/models HTTP/1.1\r\n" + nothing,
        )
    )
    statuses = [404, 404, 415, 415, 404, 405]
    assert [a.status for a in rest.exchange(magid.port, good + BEHIND)] == [*statuses, 200, 200]
    assert [a.status for a in bytewise(magid.port, good + BEHIND)] == [*statuses, 200, 200]
    for start in (SANIC, GATEWAY):
        found = rest.exchange(magid.port, good + start + CL + TE + b"\r\n" + BEHIND)
        assert [answer.status for answer in found] == [*statuses, 400]
        assert found[-1].headers["connection"] == "close"


def test_what_is_sent_at_once_is_read_in_its_order(magid: Running) -> None:
    """Large bodies full of requests behind short requests, read many segments at a time."""
    assert magid.process is not None
    body = b'{"model":"x"}' + b" " * 19 + BEHIND * 8000
    large = GATEWAY + b"Content-Length: %d\r\n\r\n" % len(body) + body
    short = b"GET /v1/models HTTP/1.1\r\n" + FIELDS + b"\r\n"
    pairs = 8
    with rest.connect(magid.port) as connection:
        connection.sendall(large * 4)  # the kernel's buffers grow
        received = first_answers(connection, 4)  # and are empty
        with frozen(magid.process.pid):
            data = memoryview((short + large) * pairs + BEHIND)
            sent = connection.send(data, socket.MSG_DONTWAIT)
        connection.sendall(data[sent:])
        found = rest.answers(received + rest.until_closed(connection))
    assert [answer.status for answer in found] == [400] * 4 + [200, 400] * pairs + [200, 200]


def test_answers_that_nobody_takes_are_not_piled_up(magid: Running) -> None:
    """Who sends request behind request and reads nothing is not read any further, and cut off."""
    assert magid.process is not None
    process = psutil.Process(magid.process.pid)
    before = process.memory_info().rss
    requests = b"GET /v1/models HTTP/1.1\r\n" + FIELDS + b"\r\n"
    for path in (b"/v1/models", b"/api/models/status"):
        data = requests.replace(b"/v1/models", path) * 1000
        with socket.socket() as connection, suppress(ConnectionError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(DEADLINE_S)
            connection.connect(("127.0.0.1", magid.port))
            for _ in range(1000):  # blocks until it is cut off
                connection.sendall(data)
            pytest.fail("all of it was taken")
    assert process.memory_info().rss - before < 20 * 2**20
    assert magid.get("/livez") == {"status": "ok"}
