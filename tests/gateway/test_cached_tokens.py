"""Tokens of a prompt that its server had in its cache count like all others, in each dialect."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateway.test_infill import CODER, TOKENS
from tests.support import fleets, ggufs
from tests.support.fleets import SMALL
from tests.support.rest import Parts
from tests.support.running import Running

pytestmark = pytest.mark.slow

TEXT = "Read these words once, and then again. " * 20
TALK = [{"role": "user", "content": TEXT}]
COUNTED = {"stream_options": {"include_usage": True}}


@pytest.fixture(scope="module")
def magid(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One slot for each model, so that the second request finds the prompt of the first."""

    def write(models: Path) -> None:
        fleets.write_small(models)
        ggufs.write_chat_model(
            models / "Coder-F16.gguf", name="Coder", quantization="F16", metadata=TOKENS
        )

    defaults = "{n_threads: 1, parallel: 1, ctx_size: 8192}"
    folder = tmp_path_factory.mktemp("cached")
    with fleets.fleet(parts, folder, write, defaults=defaults, locally=True) as running:
        yield running


@pytest.fixture
def client(magid: Running) -> Iterator[httpx.Client]:
    with fleets.client(magid) as opened:
        yield opened


# What is asked, and where its answer has all tokens of the prompt; "" where it does not say.
ASKED: dict[str, tuple[str, dict[str, Any], str]] = {
    "chat": ("/v1/chat/completions", {"messages": TALK, "max_tokens": 4}, "prompt_tokens"),
    "text": ("/v1/completions", {"prompt": TEXT, "max_tokens": 4}, "prompt_tokens"),
    "responses": ("/v1/responses", {"input": TEXT, "max_output_tokens": 4}, "input_tokens"),
    "anthropic": ("/v1/messages", {"messages": TALK, "max_tokens": 4}, ""),
    "own": ("/completion", {"prompt": TEXT, "n_predict": 4}, "tokens_evaluated"),
    "infill": (
        "/infill",
        {"model": CODER, "input_prefix": TEXT, "input_suffix": "x", "n_predict": 4},
        "tokens_evaluated",
    ),
    "ollama chat": (
        "/api/chat",
        {"messages": TALK, "options": {"num_predict": 4}},
        "prompt_eval_count",
    ),
    "ollama text": (
        "/api/generate",
        {"prompt": TEXT, "options": {"num_predict": 4}, "raw": True},
        "prompt_eval_count",
    ),
    "ollama infill": (
        "/api/generate",
        {"model": CODER, "prompt": TEXT, "suffix": "x", "options": {"num_predict": 4}},
        "prompt_eval_count",
    ),
}


def figures_of(answer: httpx.Response) -> dict[str, Any]:
    """All numbers of an answer by name, whatever part has them; the last of a name counts."""
    found: dict[str, Any] = {}

    def look(value: Any) -> None:
        for name, each in value.items() if isinstance(value, dict) else ():
            if isinstance(each, int):
                found[name] = each
            look(each)

    for line in answer.text.splitlines():
        data = line.removeprefix("data: ")
        if data.startswith("{"):
            look(json.loads(data))
    return found


def counted(magid: Running, answer: httpx.Response) -> dict[str, Any]:
    """What magid has counted for this request."""

    def row() -> dict[str, Any] | None:
        rows = magid.get("/api/requests")["requests"]
        found = [one for one in rows if one["id"] == answer.headers["x-request-id"]]
        return found[0] if found and found[0]["outcome"] == "ok" else None

    magid.wait_for("its end", lambda: row() is not None)
    ended = row()
    assert ended is not None
    return ended


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("name", ASKED)
def test_cached_tokens_are_a_part_of_the_prompt(
    magid: Running, client: httpx.Client, name: str, *, is_stream: bool
) -> None:
    path, fields, told = ASKED[name]
    body = {"model": SMALL, **fields, "stream": is_stream}
    if is_stream and path in ("/v1/chat/completions", "/v1/completions"):
        body |= COUNTED
    first, second = (client.post(path, json=body) for _ in range(2))
    assert (first.status_code, second.status_code) == (200, 200), second.text
    before, now = counted(magid, first), counted(magid, second)
    assert now["cachedTokens"] > 50
    assert now["promptTokens"] == before["promptTokens"] > now["cachedTokens"]
    figures = figures_of(second)
    if told:
        assert figures[told] == now["promptTokens"], figures
    if name == "anthropic":  # which counts them apart
        assert figures["cache_read_input_tokens"] == now["cachedTokens"]
        assert figures["input_tokens"] == now["promptTokens"] - now["cachedTokens"]
    if "cached_tokens" in figures:
        assert figures["cached_tokens"] == now["cachedTokens"]


def test_a_limit_counts_them(magid: Running) -> None:
    """The last one: from here on, a token is required."""
    magid.use_token(magid.make_token("rules", "admin"))
    headers = {"Authorization": f"Bearer {magid.make_token('twice', 'infer')}"}
    limit = {"tokensPerDay": 1_000_000}
    magid.ask("PUT", "/api/tokens/twice/limits", limit)
    body = {"model": SMALL, **ASKED["chat"][1]}
    with httpx.Client(base_url=magid.url, headers=headers, trust_env=False, timeout=120) as client:
        answers = [client.post("/v1/chat/completions", json=body) for _ in range(3)]
        used = sum(one.json()["usage"]["total_tokens"] for one in answers[:2])
        assert answers[1].json()["usage"]["prompt_tokens_details"]["cached_tokens"] > 50
        left = int(answers[2].headers["x-ratelimit-remaining-tokens"])
        assert left == limit["tokensPerDay"] - used
