"""Variants of models that run: in each dialect, in lists, in explanations and in records."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from magid.gateway.routing.outline import WHOLE_BYTES
from tests.support import fleets, ggufs
from tests.support.fleets import SMALL, chat
from tests.support.rest import Parts
from tests.support.running import Running

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
HELLO = [{"role": "user", "content": "Hello"}]
pytestmark = pytest.mark.slow

THINKER = "thinker_thinking_0p0b_f16_balanced"
# Thinks, unless it is told not to: an empty thought is put in its place.
TEMPLATE = ggufs.THINKING_TEMPLATE.replace(
    "<think>\n{% endif %}",
    "<think>\n{% if enable_thinking is defined and enable_thinking is false %}\n</think>\n\n"
    "{% endif %}{% endif %}",
)
PROFILE = f"""\
name: Test
enabled_models: ['*']
aliases:
  thinker:short: {{model: {THINKER}, reasoning: 2}}
  thinker:fast: {{model: {THINKER}, reasoning: 0}}
  short: 'thinker:short'
  three: {{model: {SMALL}, set: {{max_tokens: 3}}}}
  brief: {{model: fast, system: You are brief., defaults: {{max_tokens: 2}}, strip: [seed]}}
  any: {{model: auto, set: {{max_tokens: 3}}}}
"""


@pytest.fixture(scope="module")
def magid(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    def write(models: Path) -> None:
        fleets.write_small(models)
        ggufs.write_chat_model(
            models / "Thinker-Thinking-F16.gguf", name="Thinker Thinking",
            template=TEMPLATE, answer=ggufs.THINKING_ANSWER, quantization="F16",
        )  # fmt: skip

    folder = tmp_path_factory.mktemp("variants")
    with fleets.fleet(parts, folder, write, profile=PROFILE) as running:
        yield running


@pytest.fixture
def client(magid: Running) -> Iterator[httpx.Client]:
    with fleets.client(magid) as opened:
        yield opened


def ask(client: httpx.Client, path: str, **body: Any) -> dict[str, Any]:
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def reasoning(client: httpx.Client, path: str, model: str) -> str:
    """What the model has thought, in this dialect."""
    if path == CHAT:
        message = ask(client, path, model=model, messages=HELLO)["choices"][0]["message"]
        return str(message.get("reasoning_content", ""))
    if path == RESPONSES:
        items = ask(client, path, model=model, input="Hello")["output"]
        parts = [p for item in items if item["type"] == "reasoning" for p in item["content"]]
        return "".join(part["text"] for part in parts)
    if path == MESSAGES:
        content = ask(client, path, model=model, messages=HELLO, max_tokens=100)["content"]
        return "".join(part.get("thinking", "") for part in content)
    answer = ask(client, path, model=model, messages=HELLO, stream=False)
    return str(answer["message"].get("thinking", ""))


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES, "/api/chat"])
def test_a_budget_ends_the_thought(client: httpx.Client, path: str) -> None:
    assert reasoning(client, path, THINKER).strip() == "Only one sentence is known here."
    assert reasoning(client, path, "thinker:short").strip() == "Only"
    assert reasoning(client, path, "short").strip() == "Only"


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES])
def test_a_model_that_is_told_not_to_think_is_told_so_by_its_template(
    client: httpx.Client, path: str
) -> None:
    def tokens(model: str) -> int:
        """Of the prompt: the empty thought is a part of it."""
        body = {"input": "Hello"} if path == RESPONSES else {"messages": HELLO}
        usage = ask(client, path, model=model, **body, max_tokens=9)["usage"]
        counts = [
            usage.get(n, 0) for n in ("prompt_tokens", "input_tokens", "cache_read_input_tokens")
        ]
        return int(sum(counts))

    assert tokens("thinker:fast") > tokens(THINKER)
    assert tokens("thinker:short") == tokens(THINKER)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": HELLO, "max_tokens": 9}),
        (CHAT, {"messages": HELLO, "max_completion_tokens": 9}),
        ("/v1/completions", {"prompt": "Hello", "max_tokens": 9}),
        (RESPONSES, {"input": "Hello", "max_output_tokens": 9}),
        (MESSAGES, {"messages": HELLO, "max_tokens": 9}),
        ("/api/chat", {"messages": HELLO, "options": {"num_predict": 9}, "stream": False}),
        ("/api/generate", {"prompt": "Hello", "options": {"num_predict": 9}, "stream": False}),
        ("/api/generate", {"prompt": "Hello", "raw": True, "stream": False}),
    ],
)
@pytest.mark.parametrize("name", ["three", "three:latest", "any"])
def test_what_is_set_wins_in_each_dialect(
    client: httpx.Client, path: str, body: dict[str, Any], name: str
) -> None:
    answer = ask(client, path, model=name, **body)
    usage = answer.get("usage", answer)
    counts = [usage.get(n) for n in ("completion_tokens", "output_tokens", "eval_count")]
    assert 3 in counts


def test_a_system_prompt_counts_in_each_dialect(client: httpx.Client) -> None:
    def counted(model: str) -> list[int]:
        return [
            ask(client, CHAT, model=model, messages=HELLO)["usage"]["prompt_tokens"],
            ask(client, RESPONSES, model=model, input="Hello")["usage"]["input_tokens"],
            ask(client, f"{MESSAGES}/count_tokens", model=model, messages=HELLO)["input_tokens"],
            ask(client, "/api/chat", model=model, messages=HELLO, stream=False)[
                "prompt_eval_count"
            ],
        ]

    with_prompt, without = counted("brief"), counted(SMALL)
    assert len(set(with_prompt)) == len(set(without)) == 1
    assert with_prompt[0] > without[0] + len("You are brief.") // 2
    for path in ("/v1/completions", "/infill"):
        refused = client.post(path, json={"model": "brief", "prompt": "Hello"})
        assert refused.status_code == 400
        assert "it has a system prompt" in refused.json()["error"]["message"]
    raw = client.post("/api/generate", json={"model": "brief", "prompt": "Hello", "raw": True})
    assert (raw.status_code, "it has a system prompt" in raw.json()["error"]) == (400, True)


def test_a_large_request_to_a_variant(client: httpx.Client) -> None:
    note = {"note": "x" * 2 * WHOLE_BYTES}  # which llama-server ignores
    usage = ask(client, CHAT, **chat("three", max_tokens=9, metadata=note))["usage"]
    assert usage["completion_tokens"] == 3


def test_variants_are_listed(client: httpx.Client, magid: Running) -> None:
    listed = {entry["id"]: entry for entry in client.get("/v1/models").json()["data"]}
    assert listed["brief"]["meta"] == {
        "kind": "alias",
        "leads_to": "fast",
        "variant": {"defaults": {"max_tokens": 2}, "strip": ["seed"], "system": True},
    }
    assert listed["short"]["meta"]["leads_to"] == THINKER
    assert listed["short"]["meta"]["variant"] == {"reasoning": 2}
    assert "variant" not in listed["Small-Q4_0"]["meta"]
    assert {"short", "thinker:fast"} <= set(listed[THINKER]["aliases"])
    assert client.get("/v1/models/brief").json() == listed["brief"]
    tags = {model["name"]: model for model in client.get("/api/tags").json()["models"]}
    assert {"thinker:fast", "brief:latest"} <= tags.keys()
    shown = magid.ask("GET", "/api/models/profiles/test")["aliases"]
    assert shown["thinker:fast"] == {"model": THINKER, "reasoning": 0}
    assert shown["short"] == "thinker:short"


def test_variants_are_explained_and_recorded(client: httpx.Client, magid: Running) -> None:
    explained = magid.ask("POST", "/api/route/explain", {"request": chat("brief")})
    assert explained["variant"] == {
        "name": "brief",
        "model": "fast",
        "system": "You are brief.",
        "defaults": {"max_tokens": 2},
        "strip": ["seed"],
    }
    assert (explained["model"], explained["pool"]) == ("brief", "fast")
    assert magid.ask("POST", "/api/route/explain", {"request": chat("fast")})["variant"] is None
    for model in ("short", SMALL):
        ask(client, CHAT, **chat(model))
    newest, before = magid.ask("GET", "/api/requests?limit=2")["requests"]
    assert (newest["model"], newest["variant"]) == (SMALL, None)
    assert (before["model"], before["variant"], before["modelId"]) == (
        "short", "thinker:short", THINKER,
    )  # fmt: skip
