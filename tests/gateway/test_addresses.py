"""Addresses with a slip, and what RFC 9112 allows around a request, to Sanic and the gateway."""

import json
from collections.abc import Iterator

import pytest

from magid.gateway.routing.endpoints import canonical, find, nearest
from tests.support import rest
from tests.support.running import Running

HOST = "Host: localhost"
JSON = "Content-Type: application/json"
BODY = b'{"model":"gone"}'
API = "/api/models/apply?dryRun=true"
CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/v1/models/", "/v1/models"),
        ("/v1//chat/completions", CHAT),
        ("//v1/models", "/v1/models"),
        ("/v1/v1/messages", "/v1/messages"),
        ("//v1//v1///v1/messages//", "/v1/messages"),
        ("/chat/completions", CHAT),
        ("/messages/count_tokens/", "/v1/messages/count_tokens"),
        ("/embeddings", "/v1/embeddings"),
        (CHAT, CHAT),
        ("/v1/models/a/b", "/v1/models/a/b"),
        ("/v1/v1", "/v1/v1"),
        ("/", "/"),
        ("//", "//"),
        ("/models", "/models"),
        ("/v1/v1x", "/v1/v1x"),
    ],
)
def test_what_an_address_plainly_means(path: str, meant: str) -> None:
    assert canonical(path) == meant


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/openai/v1/chat/completions", CHAT),
        ("/api/v1//messages", "/v1/messages"),
        ("/v1/chat/completion", CHAT),
        ("/v1/embedding", "/v1/embeddings"),
        ("/nothing/like/it", ""),
        ("/v1/" + "x" * 10_000, ""),
    ],
)
def test_what_may_have_been_meant(path: str, meant: str) -> None:
    assert find("POST", path) is None
    assert nearest(path) == meant


@pytest.fixture(scope="module")
def magid(parts: rest.Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Without a model: a request that gets through is answered with 404 ModelNotFound, or 200."""
    running = parts.daemon(tmp_path_factory.mktemp("daemon"))
    with running, running.client:
        running.wait_ready()
        yield running
        assert "Traceback" not in running.log.read_text()


def sent(magid: Running, start: str, *lines: str, body: bytes = b"") -> rest.Answer:
    """The answer, on a connection that does not close by itself where it need not."""
    head = "\r\n".join([start, HOST, *lines, "", ""]).encode()
    last = f"GET /livez HTTP/1.1\r\n{HOST}\r\nConnection: close\r\n\r\n".encode()
    answer, *rest_of_them = rest.exchange(magid.port, head + body + last)
    if answer.headers["connection"] != "close":
        assert [other.status for other in rest_of_them] == [200]
    return answer


def is_read(answer: rest.Answer) -> bool:
    if answer.status == 200:
        return True
    return answer.status == 404 and b"model_not_found" in answer.body


POSTS = ("/v1//chat/completions", "/v1/v1/completions/", "/chat/completions", "//v1/embeddings",
         "/v1/v1/responses")  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("path", POSTS)
def test_slips_work(magid: Running, path: str) -> None:
    length = f"Content-Length: {len(BODY)}"
    assert is_read(sent(magid, f"POST {path} HTTP/1.1", JSON, length, body=BODY))
    for listing in ("/v1/models/", "//v1/models", "/v1//models"):
        assert sent(magid, f"GET {listing} HTTP/1.1").status == 200


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/v1/chat/completion", "/openai/v1/chat/completions"])
def test_a_404_names_the_address(magid: Running, path: str) -> None:
    answer = sent(magid, f"POST {path} HTTP/1.1", "Content-Length: 0")
    assert answer.status == 404
    assert f"did you mean {CHAT}?".encode() in answer.body


@pytest.mark.slow
def test_methods_are_capitals(magid: Running) -> None:
    """The path is known, so it is not the path that the error is about."""
    answer = sent(magid, f"post {CHAT} HTTP/1.1", JSON, "Content-Length: 0")
    assert (answer.status, answer.headers["allow"]) == (405, "OPTIONS, POST")


paths = pytest.mark.parametrize("path", [API, CHAT], ids=["sanic", "gateway"])


@pytest.mark.slow
@paths
def test_a_byte_order_mark_before_the_json(magid: Running, path: str) -> None:
    body = b"\xef\xbb\xbf" + BODY
    answer = sent(magid, f"POST {path} HTTP/1.1", JSON, f"Content-Length: {len(body)}", body=body)
    assert is_read(answer), answer
    large = b"\xef\xbb\xbf" + json.dumps({"model": "gone", "x": "y" * 200_000}).encode()
    if path == CHAT:
        length = f"Content-Length: {len(large)}"
        assert is_read(sent(magid, f"POST {path} HTTP/1.1", JSON, length, body=large))


@pytest.mark.slow
@paths
def test_trailers_behind_chunks(magid: Running, path: str) -> None:
    start = f"POST {path} HTTP/1.1"
    body = b"%x\r\n%b\r\n0\r\nX-Digest: y\r\nX-Other:\r\n\r\n" % (len(BODY), BODY)
    assert is_read(sent(magid, start, JSON, "Transfer-Encoding: chunked", body=body))
    for trailer in (b"Content-Length: 5", b"no field", b" X: y", b"X: y\r\n" * 40 + b"X: y"):
        body = b"%x\r\n%b\r\n0\r\n%b\r\n\r\n" % (len(BODY), BODY, trailer)
        answer = sent(magid, start, JSON, "Transfer-Encoding: chunked", body=body)
        assert answer.status == 400


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/livez", "/v1/models", "/v1//models?x=y"])
def test_a_whole_url_as_target(magid: Running, path: str) -> None:
    """RFC 9112 3.2.2: a server must take what a client sends to a proxy."""
    assert sent(magid, f"GET http://localhost{path} HTTP/1.1").status == 200
    assert sent(magid, f"GET HTTP://LocalHost{path} HTTP/1.1").status == 200
    for other in ("evil.example", "localhost:1", "me@localhost", ""):
        assert sent(magid, f"GET http://{other}{path} HTTP/1.1").status == 400


@pytest.mark.slow
def test_a_whole_url_that_arrives_byte_by_byte(magid: Running) -> None:
    data = f"GET http://localhost/v1/models HTTP/1.1\r\n{HOST}\r\nConnection: close\r\n\r\n"
    with rest.connect(magid.port) as connection:
        for byte in data.encode():
            connection.send(bytes([byte]))
        (answer,) = rest.answers(rest.until_closed(connection))
    assert answer.status == 200
