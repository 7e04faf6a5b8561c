"""Chunked bodies and heads of answers: strict, and the same however the bytes are cut."""

import pytest

from magid.http.framing import ChunkReader, ProtocolError, ReplyHead, reply_head
from magid.http.limits import MAX_HEAD_LINES

BODY = b"5\r\nhello\r\nA;note=1\r\n0123456789\r\n0\r\n\r\n"


def read(data: bytes, cut: int, *, keep: bool) -> tuple[ChunkReader, int]:
    """The same bytes in pieces of `cut`."""
    reader = ChunkReader(keep=keep)
    used = 0
    for at in range(0, len(data), cut):
        used += reader.feed(data[at : at + cut])
    return reader, used


@pytest.mark.parametrize("cut", [1, 2, 3, 5, 7, 1000])
def test_the_payload_is_what_is_in_the_chunks(cut: int) -> None:
    reader, used = read(BODY + b"GET /", cut, keep=True)
    assert reader.payload is not None
    assert b"".join(reader.payload) == b"hello0123456789"
    assert (reader.done, reader.size, used) == (True, 15, len(BODY))
    counting, used = read(BODY, cut, keep=False)
    assert (counting.done, counting.size, used, counting.payload) == (True, 15, len(BODY), None)


def test_it_is_known_whether_something_may_be_put_behind() -> None:
    reader = ChunkReader(keep=False)
    states = []
    for piece in (b"5", b"\r\n", b"he", b"llo", b"\r\n", b"0\r\n", b"\r\n"):
        reader.feed(piece)
        states.append(reader.is_inside)
    assert states == [True, True, True, True, False, True, False]


@pytest.mark.parametrize("cut", [1, 1000])
@pytest.mark.parametrize(
    "data",
    [
        b"g\r\n", b"-1\r\n", b"+1\r\na\r\n", b"0x1\r\na\r\n", b"1_0\r\n", b" 1\r\na\r\n", b"\r\n",
        b"1\na\r\n", b"1\r\naX\r\n", b"1\r\na\n0\r\n\r\n", b"1\r\na\rX", b"123456789\r\n",
        b"0\r\nX: y\r\n\r\n", b"0\r\n\n", b"1;" + b"a" * 300 + b"\r\n", b"1;\x00\r\na\r\n",
    ],
)  # fmt: skip
def test_what_two_parsers_could_read_differently_is_refused(data: bytes, cut: int) -> None:
    with pytest.raises(ProtocolError):
        read(data, cut, keep=True)


def head(*lines: str, status: str = "HTTP/1.1 200 OK") -> bytes:
    return "\r\n".join([status, *lines]).encode()


def test_heads_of_answers() -> None:
    plain = head("Content-Type: application/json", "Content-Length: 12", "Keep-Alive: timeout=5")
    assert reply_head(plain) == ReplyHead(200, b"application/json", 12, False, True)
    stream = head("Content-Type: text/event-stream", "Transfer-Encoding: chunked")
    assert reply_head(stream) == ReplyHead(200, b"text/event-stream", None, True, True)
    assert not reply_head(head("Content-Length: 1", "Connection: close")).keeps_alive
    assert not reply_head(head("Content-Length: 1", status="HTTP/1.0 200 OK")).keeps_alive
    assert reply_head(head(status="HTTP/1.1 204 No Content")).length == 0
    assert reply_head(head()).length is None


@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Length: 1", "Transfer-Encoding: chunked"),
        ("Content-Length: 1", "Content-Length: 1"),
        ("Content-Length: x",),
        ("Content-Length: -1",),
        ("Transfer-Encoding: gzip",),
        ("X : y",),
        ("X: a", " folded"),
    ],
)
def test_malformed_heads_of_answers(lines: tuple[str, ...]) -> None:
    with pytest.raises(ProtocolError):
        reply_head(head(*lines))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("application/json; charset=utf-8", b"application/json; charset=utf-8"),
        ("Application/JSON", b"application/json"),
        ('text/plain; charset="UTF-8"', b'text/plain; charset="utf-8"'),
        ("text/event-stream", b"text/event-stream"),
        ("text/plain; charset=utf-7", b"text/plain"),
        ('application/json; x="text/html"', b"application/json"),
        (None, b"text/plain; charset=utf-8"),
    ],
)
def test_types_that_are_passed_on(given: str | None, expected: bytes) -> None:
    lines = [] if given is None else [f"Content-Type: {given}"]
    assert reply_head(head(*lines)).content_type == expected


@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Type: text/html",),
        ("Content-Type: image/svg+xml",),
        ("Content-Type: text/javascript",),
        ("Content-Type: application/json, text/html",),
        ("Content-Type: application/jsonp",),
        ("Content-Type:",),
        ("Content-Type: application/json", "Content-Type: application/json"),
        ("Content-Encoding: gzip",),
        tuple(["X: y"] * (MAX_HEAD_LINES + 1)),
    ],
)
def test_answers_that_nobody_asked_for(lines: tuple[str, ...]) -> None:
    with pytest.raises(ProtocolError):
        reply_head(head(*lines))


@pytest.mark.parametrize(
    ("status", "line"),
    [
        ("101 Switching Protocols", "Upgrade: x"),
        ("302 Found", "Location: /"),
        ("304 Not Modified", "ETag: x"),
        ("204 No Content", "Content-Length: 5"),
        ("204 No Content", "Transfer-Encoding: chunked"),
        ("100 Continue", "Content-Length: 5"),
        ("103 Early Hints", "Transfer-Encoding: chunked"),
    ],
)
def test_statuses_that_nobody_asked_for(status: str, line: str) -> None:
    with pytest.raises(ProtocolError):
        reply_head(head(line, status=f"HTTP/1.1 {status}"))


@pytest.mark.parametrize("most", [1, 2, 7])
def test_at_most_so_many_chunks_are_read_at_once(most: int) -> None:
    body = b"1\r\nx\r\n" * 20 + b"0\r\n\r\n"
    reader, calls, used = ChunkReader(keep=True), 0, 0
    while not reader.done:
        used += reader.feed(body[used:], most)
        calls += 1
        assert len(reader.payload or ()) <= calls * most
    assert used == len(body)
    assert reader.payload == [b"x"] * 20
