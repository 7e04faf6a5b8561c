"""Large bodies over a real socket: what is right arrives byte by byte, the rest costs little."""

import hashlib
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from magid.api.request import MAX_BODY_BYTES, MAX_VALUES
from magid.api.routes import ROUTES, Route
from magid.http.request_rules import MAX_SMALL_CHUNKS
from tests.soak import bodies
from tests.soak.bodies import LIMIT, MIB
from tests.support import fake_llama, fleets, ggufs, rest
from tests.support.deadlines import DEADLINE_S
from tests.support.rest import Parts
from tests.support.running import Running

pytestmark = pytest.mark.slow

JSON = {"Content-Type": "application/json"}
WRITES = [route for route in ROUTES if route.method != "GET"]
SMALL_WRITES = [route for route in WRITES if not route.takes_large]


def write_two_kinds(models: Path) -> None:
    """Whose contexts have room for every body; nothing is loaded."""
    ggufs.write_chat_model(
        models / "Small-Q4_0.gguf", name="Small", quantization="Q4_0", context=2**30
    )
    ggufs.write_mmproj(models / "mmproj-Small.gguf", name="Small")
    ggufs.write_embedding_model(models / "Vectors-Embedding-F16.gguf", quantization="F16")


@pytest.fixture(scope="module")
def magid(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Its servers take everything and say what they got."""
    folder = tmp_path_factory.mktemp("large")
    fake = Parts(fake_llama.install(folder / "fake"), parts.free_port, parts.free_ports)
    with fleets.fleet(fake, folder / "magid", write_two_kinds, defaults="{}") as running:
        yield running
        assert "Traceback" not in running.log.read_text()


@pytest.fixture(scope="module")
def client(magid: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=magid.url, timeout=DEADLINE_S, trust_env=False) as client:
        yield client


def said(content: object, count: int = 1) -> list[dict[str, object]]:
    return [{"role": "user", "content": content}] * count


PICTURE = "data:image/png;base64," + "QUJD" * (5 * MIB)  # 20 MiB
RIGHT: dict[str, tuple[str, dict[str, object]]] = {
    "a picture of 20 MiB": (
        "/v1/chat/completions",
        {"messages": said([{"type": "image_url", "image_url": {"url": PICTURE}}])},
    ),
    "2,000 messages": ("/v1/chat/completions", {"messages": said("Hello", 2000)}),
    "2,000 long messages": ("/v1/chat/completions", {"messages": said("Hello " * 1000, 2000)}),
    "200,000 token ids": ("/v1/embeddings", {"input": list(range(200_000))}),
    "a prompt of 200,000 token ids": ("/v1/completions", {"prompt": list(range(200_000))}),
    "2,048 texts": ("/v1/embeddings", {"input": ["text " * 1000] * 2048}),
    "16 MiB of text": ("/tokenize", {"content": "多 \n" * (4 * MIB)}),
}


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_large_body_that_is_right_arrives_as_it_was_sent(
    client: httpx.Client, name: str, *, is_chunked: bool
) -> None:
    path, fields = RIGHT[name]
    model = fleets.VECTORS if "embeddings" in path else fleets.SMALL
    body = json.dumps({"model": model, **fields}, ensure_ascii=False).encode()
    pieces = (body[at : at + 100_000] for at in range(0, len(body), 100_000))
    answer = client.post(path, content=pieces if is_chunked else body, headers=JSON)
    assert answer.status_code == 200, answer.text
    assert answer.json()["received"] == hashlib.sha256(body).hexdigest()


def test_an_optional_null_is_dropped_beside_a_picture(client: httpx.Client) -> None:
    fields = RIGHT["a picture of 20 MiB"][1]
    tools = [{"type": "function", "function": {"name": "f", "description": None}}]
    sent = json.dumps({"model": fleets.SMALL, **fields, "tools": tools})
    meant = sent.replace(', "description": null', "").replace(", ", ",").replace(": ", ":")
    answer = client.post("/v1/chat/completions", content=sent, headers=JSON)
    assert answer.json()["received"] == hashlib.sha256(meant.encode()).hexdigest()


@pytest.mark.parametrize("name", bodies.BODIES)
def test_a_body_costs_three_times_its_size_at_most(magid: Running, name: str) -> None:
    body = bodies.BODIES[name](LIMIT - MIB, random.Random(1))
    seen = bodies.cost(magid, "POST", "/v1/chat/completions", body)
    assert seen.status in (200, 400), seen
    assert seen.grown <= 3 * len(body), seen


@pytest.mark.parametrize("name", ["short strings", "strings of 1 KiB", "words", "base64"])
def test_a_body_of_some_mebibytes_costs_no_more(magid: Running, name: str) -> None:
    """Of these sizes one may be parsed without a cut."""
    body = bodies.BODIES[name](4 * MIB - 2**16, random.Random(1))
    seen = bodies.cost(magid, "POST", "/v1/chat/completions", body)
    assert seen.status in (200, 400), seen
    assert seen.grown <= 3 * len(body), seen


@pytest.mark.parametrize(
    ("start", "status"),
    [
        ("OPTIONS /v1/chat/completions", 413),  # which needs no token
        ("OPTIONS /models/load", 413),
        ("OPTIONS /v1/nowhere", 413),
        ("GET /v1/models", 413),
        ("GET /props", 413),
        ("POST /models/load", 413),
        ("POST /api/show", 413),
        ("POST /v1/nowhere", 404),
        ("PUT /v1/models", 405),
    ],
)
def test_a_body_for_no_model_is_refused_before_it_comes(
    magid: Running, start: str, status: int
) -> None:
    """Or else it would be kept for minutes, as often as a client has connections."""
    method, path = start.split(" ")
    framings = [b"Content-Length: %d\r\n" % (LIMIT - 1), b"Transfer-Encoding: chunked\r\n"]
    for framing, begun in zip(framings, (b"", b"20000\r\n" + b"x" * 0x20000), strict=True):
        with rest.connect(magid.port) as connection:
            connection.sendall(bodies.head_of(method, path, framing) + begun)
            (answer,) = rest.answers(rest.until_closed(connection))
        assert answer.status == status, answer


def test_the_limit_of_messages_is_said(client: httpx.Client) -> None:
    body = json.dumps({"messages": said("Hi", 5000)}).encode()
    answer = client.post("/v1/chat/completions", content=body, headers=JSON)
    assert answer.status_code == 400
    assert "5000 messages, over 4096" in answer.json()["error"]["message"]


# -- the API ---------------------------------------------------------------------------------------


def path_of(route: Route) -> str:
    return re.sub(r"{\w+}", "nobody", route.path)


@pytest.mark.parametrize("route", SMALL_WRITES, ids=lambda route: f"{route.method} {route.path}")
def test_a_body_larger_than_any_decision(magid: Running, route: Route) -> None:
    body = b'{"x":[' + b"1," * (MAX_BODY_BYTES // 2) + b"1]}"
    answer = magid.client.request(route.method, path_of(route), content=body, headers=JSON)
    assert answer.status_code == 413
    assert str(MAX_BODY_BYTES) in answer.json()["message"]


def test_an_error_for_each_of_many_values_is_not_made(magid: Running) -> None:
    few, many = ([1] * count for count in (MAX_VALUES - 10, MAX_VALUES + 10))
    fields = {"name": "x", "enabledModels": few}
    answer = magid.client.post("/api/models/profiles", json=fields)
    assert len(answer.json()["details"]["errors"]) == 10
    answer = magid.client.post("/api/models/profiles", json={**fields, "enabledModels": many})
    assert answer.status_code == 400
    assert str(MAX_VALUES) in answer.json()["message"]


def test_a_text_without_an_end_is_passed_over_once(magid: Running) -> None:
    """With the commas in it, and not again from each of its quotes: that took ten seconds."""
    for path in ("/api/session", "/api/route/explain"):  # the first one needs no token
        body = b'{"token":"' + b'\\",' * 20_000
        answer = magid.client.post(path, content=body, headers=JSON)
        assert answer.status_code == 400, answer.text
        assert "values" not in answer.json()["message"]


@pytest.mark.parametrize("route", WRITES, ids=lambda route: f"{route.method} {route.path}")
def test_a_body_in_crumbs_is_not_read_to_its_end(magid: Running, route: Route) -> None:
    """Behind the answer the rest is thrown away as it comes."""
    sent = bodies.request(route.method, path_of(route), b" " * 60_000, 1)
    with rest.connect(magid.port) as connection:
        connection.sendall(sent)
        answer = rest.answers(rest.until_closed(connection))[0]
    assert answer.status == 400
    assert str(MAX_SMALL_CHUNKS) in json.loads(answer.body)["message"]


def test_a_large_request_is_explained_as_a_small_one(magid: Running) -> None:
    def explained(text: str) -> dict[str, object]:
        fields = {"model": "auto", "messages": said(f"Prove it step by step. {text} Why?")}
        answer = magid.client.post("/api/route/explain", json={"request": fields})
        assert answer.status_code == 200, answer.text
        found: dict[str, object] = answer.json()
        return found

    small, large = explained("word " * 2000), explained("word " * 150_000)
    assert (large["tier"], large["parts"]) == (small["tier"], small["parts"])
    assert explained(", [{" * 10_000)["tier"] == small["tier"]  # a text and no values
    hostile = b'{"request":{"x":[' + b"[]," * 300_000 + b"1]}}"
    answer = magid.client.post("/api/route/explain", content=hostile, headers=JSON)
    assert answer.status_code == 400
    assert "too many parts" in answer.json()["message"]
