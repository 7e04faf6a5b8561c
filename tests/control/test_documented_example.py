"""The examples in docs/gpus.md are what magid decides and prints."""

import argparse
from pathlib import Path
from typing import Any

import pytest

from magid.cli.verbs.gpus import gpus
from magid.control.devices import DeviceList
from magid.control.refusals import refusal
from magid.gpus.capacity import Capacity
from magid.gpus.placing import NoRoom, Question, Wish, steps_up_to
from magid.llama.placement import Placement
from magid.llama.spec import ServerSpec
from tests.support.placing import GIB, Predictor, answer, gpu, held, machine

TEXT = (Path(__file__).parents[2] / "docs/gpus.md").read_text()
PLAIN = " ".join(TEXT.split())
MOST = 32_768
STEPS = steps_up_to(MOST, None, 1)
QWEN = Predictor(4.017, per_4k=0.5667)
GEMMA = Predictor(16.25)
LLAMA = Predictor(4.307, per_4k=0.5429)
MISTRAL = Predictor(14.5)


def needs(predict: Predictor, ctx: int) -> str:
    found = predict(Question(("CUDA0",), ctx)).devices[0].need.total
    return f"{found / GIB:.1f}"


def place(name: str, steps: tuple[int, ...], predict: Predictor, room: Capacity) -> Placement:
    found = answer(Wish(name, steps=steps), room, predict)
    assert isinstance(found, Placement), found
    return found


def where(found: Placement) -> tuple[str, int | None]:
    return found.devices[0].name, found.ctx_size


def of(name: str, found: Placement) -> tuple[str, dict[str, float]]:
    return name, {one.name: one.need / GIB for one in found.devices}


def room(*servers: tuple[str, dict[str, float]]) -> Capacity:
    taken = {name: sum(s.get(name, 0.0) for _, s in servers) for name in ("CUDA0", "CUDA1")}
    return machine(
        gpu("CUDA0", 24 - taken["CUDA0"], 24), gpu("CUDA1", 12 - taken["CUDA1"], 12),
        holders=[held(*one) for one in servers],
    )  # fmt: skip


def test_where_four_models_go() -> None:
    assert f"`qwen3_8p0b` needs {needs(QWEN, 8192)} GiB with 8192 tokens" in PLAIN
    assert f"and {needs(QWEN, MOST)} GiB with 32768" in PLAIN
    qwen = place("qwen3_8p0b", STEPS, QWEN, room())
    assert where(qwen) == ("CUDA1", MOST)
    assert f"`gemma_27b` needs {float(needs(GEMMA, 8192)):g} GiB with 8192" in PLAIN
    gemma = place("gemma_27b", (8192,), GEMMA, room(of("qwen3_8p0b", qwen)))
    assert where(gemma) == ("CUDA0", 8192)
    assert f"`llama_8b` needs {needs(LLAMA, 4096)} GiB with 4096" in PLAIN
    assert f"and {needs(LLAMA, MOST)} GiB with 32768" in PLAIN
    two = (of("qwen3_8p0b", qwen), of("gemma_27b", gemma))
    llama = place("llama_8b", STEPS, LLAMA, room(*two))
    assert where(llama) == ("CUDA0", 8192)
    last = room(two[1], of("llama_8b", llama), two[0])
    refused = answer(Wish("mistral_24b"), last, MISTRAL)
    assert isinstance(refused, NoRoom)
    spec = ServerSpec("mistral_24b", 0, 8080, "127.0.0.1", "/m.gguf")
    assert refusal(spec, refused, DeviceList()).message in TEXT.splitlines()


class Answering:
    """The client of magictl, with one answer."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def call(self, *_words: str) -> Any:
        return self._answer


def listed(number: int, description: str, total: float, free: float, others: int,
           *models: str) -> Any:  # fmt: skip
    return {
        "name": f"CUDA{number}", "description": description, "kind": "discrete",
        "isPartition": False, "totalBytes": int(total * GIB), "freeBytes": int(free * GIB),
        "othersBytes": others, "servers": [{"modelId": model} for model in models],
        "alsoListedAs": [{"name": f"Vulkan{number}"}],
    }  # fmt: skip


def test_the_list_of_gpus(capsys: pytest.CaptureFixture[str]) -> None:
    answer = {
        "gpus": [
            listed(0, "NVIDIA GeForce RTX 4090", 23.5, 14.1, 0, "qwen3_8p0b_q4km_balanced"),
            listed(1, "NVIDIA GeForce RTX 3060", 11.6, 11.3, 300 << 20),
        ],
        "serversAnywhere": [], "problem": None, "listedAt": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    client: Any = Answering(answer)
    assert gpus(client, argparse.Namespace(json=False, refresh=False)) == 0
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    shown = TEXT[TEXT.index("$ magictl gpus") :].splitlines()[1 : 1 + len(printed)]
    assert [line.rstrip() for line in shown] == printed
