"""Ollama's own Python client, unmodified, through the gateway to real llama-servers."""

import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import ollama
import pytest

from tests.support import fleets
from tests.support.deadlines import DEADLINE_S
from tests.support.fleets import MEDIUM, SMALL, THINKER, VECTORS
from tests.support.rest import Parts
from tests.support.running import Running

pytestmark = pytest.mark.slow

HELLO = [{"role": "user", "content": "Hello"}]
FEW: dict[str, Any] = {"num_predict": 4, "num_ctx": 100, "temperature": 0}


@pytest.fixture(scope="module")
def magid(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder, write = tmp_path_factory.mktemp("ollama"), fleets.write_with_caller
    with fleets.fleet(parts, folder, write, locally=True) as running:
        yield running


@pytest.fixture
def client(magid: Running) -> Iterator[ollama.Client]:
    with ollama.Client(host=magid.url, timeout=DEADLINE_S, trust_env=False) as made:
        yield made


def test_lists_and_facts(client: ollama.Client) -> None:
    names = {model.model for model in client.list().models}
    assert {f"{SMALL}:latest", "auto:latest", "gpt-4o:latest"} <= names
    shown = client.show(f"{SMALL}:latest")
    assert shown.capabilities == ["completion"]
    assert shown.modelinfo
    assert shown.modelinfo["llama.context_length"] > 0
    assert f"{SMALL}:latest" in {model.model for model in client.ps().models}
    assert client.show(VECTORS).capabilities == ["embedding"]


def test_conversations(client: ollama.Client) -> None:
    answer = client.chat(f"{SMALL}:latest", messages=HELLO, options=FEW, keep_alive="5m")
    assert answer.message.content == "I am a tiny"
    assert (answer.model, answer.done, answer.done_reason) == (f"{SMALL}:latest", True, "length")
    assert answer.eval_count == 4
    assert answer.prompt_eval_count
    assert answer.total_duration
    parts = list(client.chat("fast", messages=HELLO, options=FEW, stream=True))
    assert "".join(part.message.content or "" for part in parts) == "I am a tiny"
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert len(parts) > 3
    assert parts[-1].eval_count == 4


def test_thoughts_are_apart_from_the_answer(client: ollama.Client) -> None:
    whole = client.chat(THINKER, messages=HELLO, think=True)
    assert whole.message.thinking
    assert whole.message.content
    parts = list(client.chat(THINKER, messages=HELLO, think=True, stream=True))
    assert "".join(p.message.thinking or "" for p in parts) == whole.message.thinking
    assert "".join(p.message.content or "" for p in parts) == whole.message.content


def look(a: str) -> str:
    """Looks.

    Args:
      a: at what
    """
    return a


def test_tools(client: ollama.Client) -> None:
    answer = client.chat("Caller-F16", messages=HELLO, tools=[look])
    assert answer.message.tool_calls
    called = answer.message.tool_calls[0].function
    assert (called.name, called.arguments) == ("look", {"a": "b"})
    parts = list(client.chat("Caller-F16", messages=HELLO, tools=[look], stream=True))
    calls = [call for part in parts for call in part.message.tool_calls or ()]
    assert [(c.function.name, c.function.arguments) for c in calls] == [("look", {"a": "b"})]
    after: list[Any] = [*HELLO, answer.message,
                        {"role": "tool", "content": "seen", "tool_name": "look"}]  # fmt: skip
    assert client.chat("Caller-F16", messages=after, tools=[look]).done


def test_a_schema_reaches_the_model(client: ollama.Client) -> None:
    schema = {
        "type": "object", "properties": {"a": {"const": "b"}}, "required": ["a"],
        "additionalProperties": False,
    }  # fmt: skip
    answer = client.chat(SMALL, messages=HELLO, format=schema, options={"num_predict": 60})
    assert "".join((answer.message.content or "").split()).startswith('{"a":')
    text = (
        client.generate(SMALL, "Hello", format="json", options={"num_predict": 30}).response or ""
    )
    assert text.lstrip().startswith("{")


def test_texts(client: ollama.Client) -> None:
    answer = client.generate(SMALL, "Hello", system="Be brief.", options=FEW)
    assert answer.response == "I am a tiny"
    parts = list(client.generate(SMALL, "Hello", options=FEW, stream=True))
    assert "".join(part.response or "" for part in parts) == "I am a tiny"
    assert client.generate(SMALL, "Hello", raw=True, options=FEW).response
    raw = list(client.generate(SMALL, "Hello", raw=True, options=FEW, stream=True))
    assert raw[-1].done
    assert "".join(part.response or "" for part in raw)


def test_vectors(client: ollama.Client) -> None:
    answer = client.embed(VECTORS, ["a", "b"])
    assert [len(vector) for vector in answer.embeddings] == [64, 64]
    assert answer.prompt_eval_count
    assert list(client.embeddings(VECTORS, "a").embedding) == list(answer.embeddings[0])
    many = client.embed(VECTORS, [f"text {n}" for n in range(300)])
    assert len(many.embeddings) == 300


def test_errors(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError) as missing:
        client.chat("gone", messages=HELLO)
    assert missing.value.status_code == 404
    assert missing.value.error.startswith("cannot find model 'gone'")
    with pytest.raises(ollama.ResponseError) as streamed:
        list(client.chat("gone", messages=HELLO, stream=True))
    assert streamed.value.error.startswith("cannot find model 'gone'")
    with pytest.raises(ollama.ResponseError) as bad:
        client.chat(SMALL, messages=HELLO, options={"temperature": "hot"})
    assert bad.value.status_code in (400, 500)
    with pytest.raises(ollama.ResponseError, match="cannot see images"):
        client.chat(SMALL, messages=[{**HELLO[0], "images": ["iVBORw0KGgo="]}])
    with pytest.raises(ollama.ResponseError, match="is a model for embeddings"):
        client.chat(VECTORS, messages=HELLO)
    with pytest.raises(ollama.ResponseError) as copied:
        client.copy(SMALL, "another")
    assert copied.value.status_code == 501


def test_large_requests(client: ollama.Client, magid: Running) -> None:
    """They are not parsed as a whole: long texts and images are cut out, and put back."""
    text, numbers = "word " * 1_000, [1] * 40_000
    answer = client.generate(MEDIUM, text, context=numbers, options=FEW)
    assert answer.prompt_eval_count
    assert answer.prompt_eval_count > 5_000
    call = {"function": {"name": "look", "arguments": {"a": text}}}
    messages: list[Any] = [
        *HELLO,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": text},
    ]
    body = {
        "model": MEDIUM,
        "messages": messages,
        "options": FEW,
        "context": numbers,
        "stream": False,
    }
    with fleets.client(magid) as plain:
        whole = plain.post("/api/chat", json=body)
    assert (whole.status_code, whole.json().get("done")) == (200, True), whole.text
    with pytest.raises(ollama.ResponseError, match="cannot see images"):
        client.chat(SMALL, messages=[{**HELLO[0], "images": ["iVBO" * 30_000]}])


def test_records_and_routes(client: ollama.Client, magid: Running) -> None:
    client.chat("auto", messages=HELLO, options=FEW)
    row = magid.get("/api/requests")["requests"][0]
    assert (row["path"], row["outcome"], row["answerTokens"]) == ("/api/chat", "ok", 4)


def test_an_old_client_of_http(magid: Running) -> None:
    """HTTP/1.0 has no chunks: its stream ends with the connection."""
    body = json.dumps({"model": SMALL, "messages": HELLO, "options": FEW}).encode()
    head = b"POST /api/chat HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", magid.port), DEADLINE_S) as connection:
        connection.sendall(b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body))
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    lines = received.partition(b"\r\n\r\n")[2].splitlines()
    assert json.loads(lines[-1])["done"] is True


def test_loading_and_unloading(client: ollama.Client, magid: Running) -> None:
    assert client.generate(SMALL).done_reason == "load"
    assert client.generate(VECTORS, "").done_reason == "load"
    secret = magid.make_token("asks", "infer")
    admin = magid.make_token("rules", "admin")

    def unload(token: str) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}"}
        with httpx.Client(base_url=magid.url, headers=headers, trust_env=False) as made:
            return made.post("/api/generate", json={"model": SMALL, "keep_alive": 0})

    refused = unload(secret)
    assert (refused.status_code, list(refused.json())) == (403, ["error"])
    done = unload(admin)
    assert (done.status_code, done.json()["done_reason"]) == (200, "unload")
    assert "token rules: POST /api/generate: 200" in magid.log.read_text()
    headers = {"Authorization": f"Bearer {secret}"}
    with ollama.Client(host=magid.url, headers=headers, trust_env=False) as limited:
        assert limited.list().models
