"""The gateway in front of real llama-servers: names, bytes both ways, errors, connections."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.test_framing_limits import FIELDS, START_LINES
from tests.support import fleets, ggufs, rest
from tests.support.deadlines import DEADLINE_S
from tests.support.fleets import MEDIUM, SMALL, THINKER, VECTORS, chat
from tests.support.rest import Parts
from tests.support.running import Running

CHAT = "/v1/chat/completions"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def magid(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    limits = "gateway: {max_body_bytes: 100000}\nrequest_timeout: 5\n"
    folder = tmp_path_factory.mktemp("gateway")
    with fleets.fleet(parts, folder, configuration=limits) as running:
        yield running


@pytest.fixture
def client(magid: Running) -> Iterator[httpx.Client]:
    with fleets.client(magid) as opened:
        yield opened


def raw_chat(model: str = SMALL, *fields: str, **more: Any) -> bytes:
    body = json.dumps(chat(model, **more)).encode()
    lines = [f"POST {CHAT} HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
    lines += [f"Content-Length: {len(body)}", *fields, "", ""]
    return "\r\n".join(lines).encode() + body


# -- names -------------------------------------------------------------------------------------


def test_what_is_listed(client: httpx.Client) -> None:
    listed = client.get("/v1/models").json()
    assert listed["object"] == "list"
    ids = [entry["id"] for entry in listed["data"]]
    assert {SMALL, MEDIUM, THINKER, VECTORS, "gpt-4o", "my-model", "Small-Q4_0"} <= set(ids)
    assert ids[-4:] == ["fast", "balanced", "powerful", "auto"]
    for entry in listed["data"]:
        assert entry["object"] == "model"
        assert isinstance(entry["created"], int)
        alone = client.get(f"/v1/models/{entry['id']}").json()
        assert (alone["id"], alone.keys()) == (entry["id"], entry.keys())
    assert client.get("/v1/models/gone").json()["error"]["code"] == "model_not_found"
    empty = client.head("/v1/models")
    assert (empty.status_code, empty.content) == (200, b"")
    assert int(empty.headers["content-length"]) > 100


@pytest.mark.parametrize(
    ("name", "model"),
    [
        (SMALL, SMALL),
        (SMALL.replace("0p0b", "0b"), SMALL),
        ("my-model", SMALL),
        ("Medium-F16", MEDIUM),
        ("fast", SMALL),
        ("balanced", MEDIUM),
        ("gpt-4o", THINKER),
    ],
)
def test_a_name_leads_to_a_model(client: httpx.Client, name: str, model: str) -> None:
    answer = client.post(CHAT, json=chat(name))
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-magi-model"] == answer.json()["model"] == model
    assert answer.headers["x-magi-server"].startswith("llama-server@")
    assert answer.headers["x-magi-route"]


def test_every_endpoint_is_passed_on(client: httpx.Client) -> None:
    def ask(path: str, **body: object) -> dict[str, object]:
        answer = client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        found: dict[str, object] = answer.json()
        return found

    messages = [{"role": "user", "content": "Hello"}]
    assert ask("/v1/completions", model="fast", prompt="Hello", max_tokens=2)["choices"]
    assert ask("/v1/responses", model="fast", input="Hello", max_output_tokens=2)["output"]
    assert ask("/v1/messages", model="fast", messages=messages, max_tokens=2)["content"]
    assert ask("/v1/messages/count_tokens", model="fast", messages=messages)["input_tokens"]
    assert ask("/v1/embeddings", model=VECTORS, input=["a", "b"])["data"]
    assert ask("/v1/embeddings", input="a")["data"]  # there is one model that can
    assert ask("/v1/rerank", query="a", documents=["b", "c"])["results"]
    for path in ("/reranking", "/v1/reranking", "/rerank"):
        assert ask(path, query="a", documents=["b", "c"])["results"]
    assert ask("/completion", model="fast", prompt="Hello", n_predict=2)["content"]
    assert "Hello" in str(ask("/apply-template", model="fast", messages=messages)["prompt"])
    tokens = ask("/tokenize", model="fast", content="Hello")["tokens"]
    assert ask("/detokenize", model="fast", tokens=tokens)["content"] == "Hello"


def test_the_kind_of_a_model_is_a_gate(client: httpx.Client) -> None:
    for path, model in ((CHAT, VECTORS), ("/v1/embeddings", SMALL), ("/v1/rerank", MEDIUM)):
        answer = client.post(path, json=chat(model))
        assert answer.status_code in (400, 404), answer.text
        assert answer.json()["error"]["message"].startswith("cannot answer")


def test_a_context_that_cannot_fit_is_refused_with_the_numbers(client: httpx.Client) -> None:
    answer = client.post(CHAT, json=chat(SMALL, "word " * 10_000))
    assert answer.status_code == 400
    assert "context" in answer.json()["error"]["message"]


def test_nothing_is_fetched_for_a_client(client: httpx.Client) -> None:
    """By the server of a model without eyes either, however the address is written."""
    with socket.create_server(("127.0.0.1", 0)) as secret:
        secret.settimeout(0)
        url = f"http://127.0.0.1:{secret.getsockname()[1]}/picture.png"
        body = json.dumps(chat(SMALL))
        part = json.dumps([{"type": "image_url", "image_url": {"url": url}}])
        for written in (part, part.replace("image_url", "\\u0069mage_url")):
            fields = json.loads(body) | {"messages": [{"role": "user", "content": "CONTENT"}]}
            raw = json.dumps(fields).replace('"CONTENT"', written)
            for path in (CHAT, "/v1/messages", "/v1/messages/count_tokens"):
                headers = {"Content-Type": "application/json"}
                answer = client.post(path, content=raw, headers=headers)
                assert path != CHAT or 400 <= answer.status_code <= 500, answer.text
                with pytest.raises(BlockingIOError):
                    secret.accept()


# -- bytes -------------------------------------------------------------------------------------


def test_an_answer_comes_as_the_server_gave_it(magid: Running, client: httpx.Client) -> None:
    port = magid.servers()[SMALL]["port"]
    headers = {"Authorization": f"Bearer {magid.key(port)}"}
    body = chat(SMALL, seed=1, temperature=0)
    direct = httpx.post(
        f"http://127.0.0.1:{port}{CHAT}", json=body, headers=headers, timeout=DEADLINE_S
    ).json()
    passed = client.post(CHAT, json=body, headers={"Authorization": "Bearer of-the-client"}).json()
    assert passed["choices"] == direct["choices"]
    assert passed.keys() == direct.keys()


def test_a_stream_is_not_held_back(client: httpx.Client) -> None:
    """Its parts arrive as parts; and the connection is good for the next request."""
    with client.stream("POST", CHAT, json=chat(SMALL, stream=True, max_tokens=200)) as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        parts = list(answer.iter_raw())
    assert len(parts) > 3
    assert b"".join(parts).endswith(b"data: [DONE]\n\n")
    for _ in range(3):
        with client.stream("POST", CHAT, json=chat(SMALL, stream=True)) as answer:
            assert answer.read().endswith(b"data: [DONE]\n\n")


def test_a_chunked_request(client: httpx.Client) -> None:
    body = json.dumps(chat(SMALL)).encode()
    pieces = (body[at : at + 7] for at in range(0, len(body), 7))
    headers = {"Content-Type": "application/json"}
    assert client.post(CHAT, content=pieces, headers=headers).status_code == 200


def test_http_1_0_gets_no_chunks(magid: Running) -> None:
    for stream in (False, True):
        data = raw_chat(stream=stream).replace(b"HTTP/1.1", b"HTTP/1.0", 1)
        with rest.connect(magid.port) as connection:
            connection.sendall(data)
            head, _, body = rest.until_closed(connection).partition(b"\r\n\r\n")
        assert b"Transfer-Encoding" not in head
        assert b"Connection: close" in head
        assert body.endswith(b"data: [DONE]\n\n") if stream else json.loads(body)


def test_requests_of_both_kinds_share_a_connection(magid: Running) -> None:
    """Also when they are sent together: each gets its own answer, in order."""
    live = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
    models = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"
    last = b"GET /v1/nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    data = live + models + raw_chat() + live + live + raw_chat() + models + last
    answers = rest.exchange(magid.port, data)
    assert [answer.status for answer in answers] == [200] * 7 + [404]
    kinds = ["status", "object", "choices", "status", "status", "choices", "object", "error"]
    assert all(k in json.loads(a.body) for k, a in zip(kinds, answers, strict=True))


def test_requests_that_arrive_byte_by_byte(magid: Running) -> None:
    data = raw_chat() + b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with rest.connect(magid.port) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(data)):
            connection.send(data[at : at + 1])
        answers = rest.answers(rest.until_closed(connection))
    assert [answer.status for answer in answers] == [200, 200]


# -- clients that go away ------------------------------------------------------------------------


def test_a_client_that_leaves_cancels_the_request(magid: Running) -> None:
    follow = f"/api/models/servers/{MEDIUM}/logs?follow=true&lines=1"
    with magid.client.stream("GET", follow) as log:
        lines = log.iter_lines()
        for stream in (True, False):
            with rest.connect(magid.port) as connection:
                connection.sendall(
                    raw_chat(MEDIUM, stream=stream, max_tokens=30_000, ignore_eos=True)
                )
                assert next(line for line in lines if "processing task" in line)
            assert "cancel task" in next(x for x in lines if "cancel task" in x or "print_tim" in x)


# -- errors ------------------------------------------------------------------------------------


def test_errors_have_the_shape_of_the_clients_sdk(client: httpx.Client) -> None:
    openai = client.post(CHAT, json=chat("gone"))
    assert openai.status_code == 404
    assert openai.json()["error"].keys() == {"message", "type", "param", "code"}
    ours = client.post("/v1/messages", json=chat("gone"))
    assert ours.status_code == 404
    assert ours.json()["type"] == "error"
    assert ours.json()["error"]["type"] == "not_found_error"
    theirs = client.post("/v1/messages", json=chat("fast", max_tokens="many"))
    assert theirs.status_code == 400
    assert theirs.json()["error"]["type"] == "invalid_request_error"
    assert theirs.headers["x-magi-model"] == SMALL


@pytest.mark.parametrize(
    ("method", "path", "content", "kind", "status"),
    [
        ("POST", CHAT, b"{", "application/json", 400),
        ("POST", CHAT, b"[]", "application/json", 400),
        ("POST", CHAT, b'{"model": 5}', "application/json", 400),
        ("POST", CHAT, b"{}", "text/plain", 415),
        ("POST", CHAT, b" " * 100_001, "application/json", 413),
        ("GET", CHAT, b"", "", 405),
        ("DELETE", "/v1/models", b"", "", 405),
        ("POST", "/v1/nothing", b"{}", "application/json", 404),
        ("GET", "/v1", b"", "", 404),
    ],
)
def test_what_cannot_be_answered(
    client: httpx.Client, method: str, path: str, content: bytes, kind: str, status: int
) -> None:
    headers = {"Content-Type": kind} if kind else {}
    answer = client.request(method, path, content=content, headers=headers)
    assert answer.status_code == status
    assert answer.json()["error"]["message"].startswith("cannot ")
    assert answer.headers["x-request-id"]
    assert ("allow" in answer.headers) is (status == 405)


def test_foreign_pages_and_hosts_are_refused(magid: Running) -> None:
    foreign = raw_chat(SMALL, "Origin: http://evil.example", "Connection: close")
    assert rest.exchange(magid.port, foreign)[0].status == 403
    renamed = raw_chat(SMALL, "Connection: close").replace(b"Host: localhost", b"Host: evil.test")
    assert rest.exchange(magid.port, renamed)[0].status == 421


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
def test_malformed_heads_end_the_connection(magid: Running, fields: list[str | bytes]) -> None:
    lines = [f"POST {CHAT} HTTP/1.1", *fields]
    data = b"\r\n".join(x if isinstance(x, bytes) else x.encode("latin-1") for x in lines)
    (answer,) = rest.exchange(magid.port, data + b"\r\n\r\n" + raw_chat())
    assert answer.status == 400
    assert answer.headers["connection"] == "close"
    assert json.loads(answer.body)["error"]["message"].startswith("cannot ")


@pytest.mark.parametrize("start", [s for s in START_LINES.values() if s.startswith(b"GET /livez")])
def test_malformed_start_lines_end_the_connection(magid: Running, start: bytes) -> None:
    data = start.replace(b"/livez", b"/v1/models", 1) + b"\r\nHost: localhost\r\n\r\n"
    (answer,) = rest.exchange(magid.port, data + raw_chat())
    assert answer.status == 400


@pytest.mark.parametrize(
    "chunks", [b"g\r\n{}\r\n0\r\n\r\n", b"2\r\n{}XX0\r\n\r\n", b"2\r\n{}\r\n0\r\nHost: y\r\n\r\n"]
)
def test_malformed_chunks_end_the_connection(magid: Running, chunks: bytes) -> None:
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    data = head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + chunks
    (answer,) = rest.exchange(magid.port, data + raw_chat())
    assert (answer.status, answer.headers["connection"]) == (400, "close")


def test_slow_requests_are_cut(magid: Running) -> None:
    for beginning in (raw_chat()[:40], raw_chat()[:-5]):
        with rest.connect(magid.port) as connection:
            connection.sendall(beginning)
            (answer,) = rest.answers(rest.until_closed(connection))
            assert (answer.status, answer.headers["connection"]) == (408, "close")


def test_a_body_is_asked_for_only_if_it_is_wanted(magid: Running) -> None:
    head, _, body = raw_chat(SMALL, "Expect: 100-continue", "Connection: close").partition(
        b"\r\n\r\n"
    )
    interim = b"HTTP/1.1 100 Continue\r\n\r\n"
    with rest.connect(magid.port) as connection:
        connection.sendall(head[:40])
        assert magid.client.get("/livez").status_code == 200  # by now the piece was taken
        connection.sendall(head[40:] + b"\r\n\r\n")
        assert connection.recv(len(interim)) == interim
        connection.sendall(body)
        (answer,) = rest.answers(rest.until_closed(connection))
    assert answer.status == 200


def test_http_1_0_has_no_interim_answers(magid: Running) -> None:
    raw = raw_chat(SMALL, "Expect: 100-continue").replace(b" HTTP/1.1", b" HTTP/1.0", 1)
    head, _, body = raw.partition(b"\r\n\r\n")
    with rest.connect(magid.port) as connection:
        connection.sendall(head + b"\r\n\r\n")
        assert magid.client.get("/livez").status_code == 200  # by now the head was taken
        connection.sendall(body)
        (answer,) = rest.answers(rest.until_closed(connection))
    assert answer.status == 200


# -- the life of servers -------------------------------------------------------------------------


def test_a_model_that_does_not_run_says_so(parts: Parts, tmp_path: Path) -> None:
    with (
        fleets.fleet(parts, tmp_path / "stopped", fleets.write_small) as magid,
        fleets.client(magid) as client,
    ):
        magid.ask("POST", f"/api/models/servers/{SMALL}/stop?wait=30")
        answer = client.post(CHAT, json=chat(SMALL))
        assert answer.status_code == 503
        assert "/start starts it" in answer.json()["error"]["message"]
        assert SMALL in [entry["id"] for entry in client.get("/v1/models").json()["data"]]
        magid.ask("POST", f"/api/models/servers/{SMALL}/start?wait=30")
        assert client.post(CHAT, json=chat(SMALL)).status_code == 200
        magid.ask("PUT", f"/api/models/{SMALL}/enabled", {"enabled": False})
        answer = client.post(CHAT, json=chat(SMALL))
        assert answer.status_code == 404
        assert "disabled" in answer.json()["error"]["message"]


def test_a_stream_under_way_is_finished_before_the_daemon_ends(
    parts: Parts, tmp_path: Path
) -> None:
    def write(models: Path) -> None:
        ggufs.write_chat_model(models / "Small-Q4_0.gguf", name="Small", quantization="Q4_0")

    with (
        fleets.fleet(parts, tmp_path / "drain", write) as magid,
        rest.connect(magid.port) as connection,
    ):
        connection.sendall(raw_chat(stream=True, max_tokens=1500, ignore_eos=True))
        first = connection.recv(10)
        assert magid.stop() == 0
        assert (first + rest.until_closed(connection)).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
