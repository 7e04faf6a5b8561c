"""/infill: code between a beginning and an end, by a model that was made for it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support import fleets, ggufs
from tests.support.fleets import SMALL, VECTORS
from tests.support.rest import Parts
from tests.support.running import Running

pytestmark = pytest.mark.slow

CODER = "coder_0p0b_f16_balanced"
TOKENS = {
    f"tokenizer.ggml.fim_{name}_token_id": 3 + n for n, name in enumerate(("pre", "suf", "mid"))
}
BODY = {"input_prefix": "def f():\n    ", "input_suffix": "\n", "n_predict": 2}


@pytest.fixture(scope="module")
def magid(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    def write(models: Path) -> None:
        fleets.write_every_kind(models)
        ggufs.write_chat_model(
            models / "Coder-F16.gguf", name="Coder", quantization="F16", metadata=TOKENS
        )

    with fleets.fleet(parts, tmp_path_factory.mktemp("infill"), write) as running:
        yield running


@pytest.fixture
def client(magid: Running) -> Iterator[httpx.Client]:
    with fleets.client(magid) as opened:
        yield opened


@pytest.mark.parametrize("name", [CODER, "Coder-F16", "auto", "fast", "powerful", None])
def test_the_model_that_can_answers(client: httpx.Client, name: str | None) -> None:
    body: dict[str, Any] = BODY if name is None else {**BODY, "model": name}
    answer = client.post("/infill", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-magi-model"] == CODER
    assert "content" in answer.json()


def test_models_that_cannot(client: httpx.Client) -> None:
    answer = client.post("/infill", json={**BODY, "model": SMALL})  # llama-server's own word
    assert answer.status_code == 501
    assert "Infill is not supported" in answer.json()["error"]["message"]
    answer = client.post("/infill", json={**BODY, "model": VECTORS})
    assert answer.status_code == 400


def test_an_answer_without_figures_is_counted_by_its_size(client: httpx.Client) -> None:
    """A client that chooses the fields of its answer does not get around the limit of its token."""

    def used() -> tuple[int, int]:
        rows = client.get("/api/usage?by=model").json()["rows"]
        found = [
            (row["promptTokens"], row["answerTokens"]) for row in rows if row["model"] == CODER
        ]
        return found[0] if found else (0, 0)

    before = used()
    body = {**BODY, "model": CODER, "n_predict": 20, "response_fields": ["content"]}
    body["input_prefix"] = "word " * 100
    answer = client.post("/infill", json=body)
    assert answer.json().keys() == {"content"}
    prompt, answered = (after - was for after, was in zip(used(), before, strict=True))
    assert prompt > 100
    assert answered == int(len(answer.content) / 3.5)


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_suffix_in_ollamas_api(client: httpx.Client, *, is_stream: bool) -> None:
    body = {"prompt": "def f():\n    ", "suffix": "\n", "options": {"num_predict": 2}}
    answer = client.post("/api/generate", json={**body, "model": "auto", "stream": is_stream})
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-magi-model"] == CODER
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert "".join(line["response"] for line in lines)
    assert (lines[-1]["done"], lines[-1]["done_reason"]) == (True, "length")
    assert lines[-1]["eval_count"] == 2
