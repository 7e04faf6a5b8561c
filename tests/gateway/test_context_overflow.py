"""A prompt that does not fit: each client gets the error by which it shortens a conversation."""

import re
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import openai
import pytest

from tests.support import fleets
from tests.support.deadlines import DEADLINE_S
from tests.support.fleets import SMALL
from tests.support.rest import Parts
from tests.support.running import Running

pytestmark = pytest.mark.slow

ROOM = 512
# The tiny model takes each letter for a token, where magid's estimate takes 3.5 of them for one:
# the first one is llama-server's to refuse, the second one magid's.
FINDERS = {"llama-server": "a" * 1000, "magid": "a" * 10_000}
finders = pytest.mark.parametrize("text", FINDERS.values(), ids=FINDERS)


@pytest.fixture(scope="module")
def magid(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with fleets.fleet(
        parts, tmp_path_factory.mktemp("small"), fleets.write_small,
        defaults=f"{{n_threads: 1, parallel: 1, ctx_size: {ROOM}}}",
    ) as running:  # fmt: skip
        yield running


@pytest.fixture
def client(magid: Running) -> Iterator[httpx.Client]:
    with fleets.client(magid) as opened:
        yield opened


def check_numbers(text: str, prompt: int, room: int) -> None:
    assert room == ROOM
    assert prompt > 1000
    assert str(prompt) in text
    assert str(room) in text


@finders
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/chat/completions", "messages"),
        ("/v1/completions", "prompt"),
        ("/completion", "prompt"),
        ("/v1/responses", "input"),
    ],
)
def test_openais_and_llama_servers_words(
    client: httpx.Client, path: str, field: str, text: str, stream: bool
) -> None:
    given: Any = [{"role": "user", "content": text}] if field == "messages" else text
    answer = client.post(path, json={"model": SMALL, field: given, "stream": stream})
    assert answer.status_code == 400, answer.text
    assert answer.headers["content-type"].startswith("application/json")
    error = answer.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert error["type"] == "exceed_context_size_error"
    assert "maximum context length is" in error["message"]
    assert "exceeds the available context size" in error["message"]
    check_numbers(error["message"], error["n_prompt_tokens"], error["n_ctx"])


@finders
@pytest.mark.parametrize("stream", [False, True])
def test_anthropics_words(client: httpx.Client, text: str, stream: bool) -> None:
    body = fleets.chat(SMALL, text, stream=stream)
    answer = client.post("/v1/messages", json=body)
    assert answer.status_code == 400, answer.text
    found = answer.json()
    assert (found["type"], found["error"]["type"]) == ("error", "invalid_request_error")
    message = found["error"]["message"]
    numbers = re.match(r"prompt is too long: (\d+) tokens > (\d+) maximum", message)
    assert numbers, message
    check_numbers(message, int(numbers[1]), int(numbers[2]))


@finders
@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
def test_llama_servers_words_for_clients_of_ollama(
    client: httpx.Client, path: str, text: str
) -> None:
    given = (
        {"messages": [{"role": "user", "content": text}]} if "chat" in path else {"prompt": text}
    )
    answer = client.post(path, json={"model": SMALL, **given})
    assert answer.status_code == 400, answer.text
    message = answer.json()["error"]
    numbers = re.search(
        r"request \((\d+) tokens\) exceeds the available context size \((\d+) tokens\)", message
    )
    assert numbers, message
    check_numbers(message, int(numbers[1]), int(numbers[2]))


@finders
def test_the_libraries_see_it(magid: Running, text: str) -> None:
    with (
        openai.OpenAI(
            base_url=f"{magid.url}/v1", api_key="any", timeout=DEADLINE_S, max_retries=0
        ) as ai,
        pytest.raises(openai.BadRequestError) as refused,
    ):
        ai.responses.create(model=SMALL, input=text)
    assert refused.value.code == "context_length_exceeded"
    with (
        anthropic.Anthropic(
            base_url=magid.url, api_key="any", timeout=DEADLINE_S, max_retries=0
        ) as claude,
        pytest.raises(anthropic.BadRequestError, match="prompt is too long"),
    ):
        claude.messages.create(
            model=SMALL, max_tokens=4, messages=[{"role": "user", "content": text}]
        )


def test_other_errors_of_llama_server_stay_as_they_are(client: httpx.Client) -> None:
    answer = client.post("/v1/responses", json={"model": SMALL, "input": [{"type": "x"}]})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", 400)
