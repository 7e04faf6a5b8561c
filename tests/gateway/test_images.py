"""An image goes to a model with a real projector, in each dialect, and into its prompt."""

import base64
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support import fleets, ggufs, tiny_clip
from tests.support.fleets import SMALL
from tests.support.rest import Parts
from tests.support.running import Running

pytestmark = pytest.mark.slow

SEER = "seer_0p0b_f16_balanced"
QUESTION = "What is it?"


def png(side: int = tiny_clip.SIDE) -> str:
    """A square with a slope of colours, in base64."""
    rows = (bytes([0, *((x + y) % 256 for x in range(3 * side))]) for y in range(side))

    def part(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b""))
    content = b"\x89PNG\r\n\x1a\n" + b"".join(part(*each) for each in parts)
    return base64.b64encode(content).decode()


def write(models: Path) -> None:
    """Both in one tier: the one without a projector is the smaller one."""
    fleets.write_small(models)
    ggufs.write_chat_model(models / "seer" / "Seer-F16.gguf", name="Seer", quantization="F16")
    tiny_clip.write_projector(models / "seer" / "mmproj-Seer-F32.gguf", name="Seer")


@pytest.fixture(scope="module")
def magid(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with fleets.fleet(parts, tmp_path_factory.mktemp("images"), write) as running:
        yield running


@pytest.fixture
def client(magid: Running) -> Iterator[httpx.Client]:
    with fleets.client(magid) as opened:
        yield opened


def openai(model: str, image: str | None) -> tuple[str, dict[str, Any]]:
    content: list[dict[str, Any]] = [{"type": "text", "text": QUESTION}]
    if image:
        url = {"url": f"data:image/png;base64,{image}"}
        content.append({"type": "image_url", "image_url": url})
    return "/v1/chat/completions", {
        **fleets.chat(model),
        "messages": [{"role": "user", "content": content}],
    }


def anthropic(model: str, image: str | None) -> tuple[str, dict[str, Any]]:
    content: list[dict[str, Any]] = [{"type": "text", "text": QUESTION}]
    if image:
        source = {"type": "base64", "media_type": "image/png", "data": image}
        content.append({"type": "image", "source": source})
    return "/v1/messages", {
        **fleets.chat(model),
        "messages": [{"role": "user", "content": content}],
    }


def ollama(model: str, image: str | None) -> tuple[str, dict[str, Any]]:
    message = {"role": "user", "content": QUESTION} | ({"images": [image]} if image else {})
    options = {"num_predict": 4}
    return "/api/chat", {
        "model": model, "messages": [message], "stream": False, "options": options,
    }  # fmt: skip


def said(answer: dict[str, Any]) -> tuple[str, int]:
    """The text, and the tokens of the prompt."""
    match answer:
        case {"choices": [{"message": {"content": str(text)}}], "usage": {"prompt_tokens": count}}:
            return text, count
        case {"content": [{"text": str(text)}], "usage": dict(usage)}:
            return text, usage["input_tokens"] + usage.get("cache_read_input_tokens", 0)
        case {"message": {"content": str(text)}, "prompt_eval_count": count}:
            return text, count
        case _:
            raise AssertionError(answer)


@pytest.mark.parametrize("model", [SEER, "auto"])
@pytest.mark.parametrize("dialect", [openai, anthropic, ollama])
def test_an_image(client: httpx.Client, dialect: Any, model: str) -> None:
    counts = []
    for image in (None, png()):
        path, body = dialect(SEER if image is None else model, image)
        answer = client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-magi-model"] == SEER
        text, count = said(answer.json())
        assert ggufs.ANSWER.startswith(text)
        assert text
        counts.append(count)
    without, with_image = counts
    assert with_image >= without + tiny_clip.TOKENS


@pytest.mark.parametrize("dialect", [openai, anthropic, ollama])
def test_to_a_model_that_cannot_see(client: httpx.Client, dialect: Any) -> None:
    path, body = dialect(SMALL, png())
    answer = client.post(path, json=body)
    assert answer.status_code == 400
    assert f"it has no projector for them; {SEER} can" in answer.text


def test_what_is_told_of_it(magid: Running) -> None:
    shown = magid.get(f"/api/models/{SEER}")
    assert (shown["abilities"]["images"], shown["abilities"]["audio"]) == (True, False)
    assert [companion["kind"] for companion in shown["companions"]] == ["mmproj"]
