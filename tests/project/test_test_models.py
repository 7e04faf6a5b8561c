"""The models that other tests are made of: a real llama-server takes them for what they are."""

import json
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import pytest

from tests.support import ggufs
from tests.support.deadlines import DEADLINE_S

_KEY = "a-key-of-this-test"
_PROMPT = "Hällo, 世界! 🙂 \x07"


class Server:
    """A llama-server of this test; `ask` sends JSON with the right key."""

    def __init__(self, port: int, process: "subprocess.Popen[str]", log: Path) -> None:
        self._base = f"http://127.0.0.1:{port}"
        self._process = process
        self._log = log

    def ask(self, path: str, body: object = None, key: str = _KEY) -> bytes:
        request = urllib.request.Request(
            self._base + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
        )
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(request, timeout=DEADLINE_S) as reply:
            answer: bytes = reply.read()
            return answer

    def wait(self) -> None:
        """Until /health is 200; the log if it never will be."""
        end = time.monotonic() + DEADLINE_S
        while time.monotonic() < end and self._process.poll() is None:
            try:
                self.ask("/health")
            except OSError:  # refused, or 503 while loading
                time.sleep(0.02)  # between two looks: llama-server tells nobody that it is ready
            else:
                return
        pytest.fail(f"llama-server does not serve the model:\n{self._log.read_text()}")


@contextmanager
def serving(program: Path, model: Path, port: int, *arguments: str) -> Iterator[Server]:
    """A ready server of this model; its files lie beside the model's folder."""
    key, log = model.parent / "key", model.parent / "log"
    key.write_text(_KEY + "\n")
    command = [str(program), "-m", str(model), "--alias", "demo", "--api-key-file", str(key)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--threads", "2", *arguments]
    command += ["--metrics", "--no-ui", "--offline", "--cors-origins", "localhost"]
    with (
        log.open("w") as output,
        subprocess.Popen(command, stdout=output, stderr=output, env={}, text=True) as process,
    ):
        try:
            server = Server(port, process, log)
            server.wait()
            yield server
        finally:
            process.terminate()


def _chat(**more: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": _PROMPT}], "max_tokens": 100, **more}


def _message(server: Server, **more: object) -> Any:
    return json.loads(server.ask("/v1/chat/completions", _chat(**more)))["choices"][0]


@pytest.mark.parametrize("quantization", ["F32", "F16", "Q8_0", "Q4_0"])
def test_a_chat_model_gives_its_answer(
    tmp_path: Path, llama_server: Path, free_port: Callable[[], int], quantization: str
) -> None:
    model = ggufs.write_chat_model(tmp_path / "m.gguf", quantization=quantization)
    with serving(llama_server, model, free_port()) as server:
        choice = _message(server)
        assert choice["message"]["content"] == ggufs.ANSWER
        assert choice["finish_reason"] == "stop"
        events = server.ask("/v1/chat/completions", _chat(stream=True)).decode()
        assert events.strip().endswith("data: [DONE]")
        chunks = [json.loads(line[6:]) for line in events.splitlines() if line[:7] == "data: {"]
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
        assert "".join(delta.get("content") or "" for delta in deltas) == ggufs.ANSWER
        tokens = json.loads(server.ask("/tokenize", {"content": _PROMPT}))["tokens"]
        assert json.loads(server.ask("/detokenize", {"tokens": tokens}))["content"] == _PROMPT


def test_another_answer_without_end(
    tmp_path: Path, llama_server: Path, free_port: Callable[[], int]
) -> None:
    model = ggufs.write_chat_model(tmp_path / "m.gguf", answer="on and", endless=True, seed=7)
    with serving(llama_server, model, free_port()) as server:
        choice = _message(server, max_tokens=5)
    assert choice["message"]["content"] == "on andon andon"
    assert choice["finish_reason"] == "length"


@pytest.mark.parametrize("template", ["THINKING_TEMPLATE", "TOGGLE_TEMPLATE"])
def test_a_thinking_model_thinks(
    tmp_path: Path, llama_server: Path, free_port: Callable[[], int], template: str
) -> None:
    model = ggufs.write_chat_model(
        tmp_path / "m.gguf",
        template=getattr(ggufs, template),
        answer="<think>\n" * (template == "TOGGLE_TEMPLATE") + ggufs.THINKING_ANSWER,
    )
    with serving(llama_server, model, free_port()) as server:
        message = _message(server)["message"]
    assert message["reasoning_content"].strip() == "Only one sentence is known here."
    assert message["content"] == "Then that must be the answer."


def test_a_model_in_shards(
    tmp_path: Path, llama_server: Path, free_port: Callable[[], int]
) -> None:
    paths = ggufs.write_split_model(tmp_path / "m", 3)
    assert [path.name for path in paths] == [f"m-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    with serving(llama_server, paths[0], free_port()) as server:
        assert _message(server)["message"]["content"] == ggufs.ANSWER


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_an_embedding_model(
    tmp_path: Path, llama_server: Path, free_port: Callable[[], int], pooling: str
) -> None:
    model = ggufs.write_embedding_model(tmp_path / "m.gguf", pooling=pooling)
    with serving(llama_server, model, free_port(), "--embedding") as server:
        answer = json.loads(server.ask("/v1/embeddings", {"input": ["one", "two"]}))
    first, second = (item["embedding"] for item in answer["data"])
    assert len(first) == len(second) == 64
    assert first != second


def test_a_reranker(tmp_path: Path, llama_server: Path, free_port: Callable[[], int]) -> None:
    model = ggufs.write_embedding_model(tmp_path / "m.gguf", pooling="rank")
    with serving(llama_server, model, free_port(), "--reranking") as server:
        body = {"query": "one", "documents": ["one two", "three"]}
        results = json.loads(server.ask("/v1/rerank", body))["results"]
    assert {result["index"] for result in results} == {0, 1}


@pytest.mark.parametrize(
    ("arguments", "parameters", "kind"),
    [
        ({"parameters_billions": 8.0}, 8_000_000_000, "Q4_K"),
        ({"parameters_billions": 0.6, "quantization": "F16"}, 600_000_000, "F16"),
        ({"parameters_billions": 14.8, "quantization": "IQ2_XXS"}, 14_800_000_000, "IQ2_XXS"),
        (
            {"parameters_billions": 30.0, "architecture": "qwen3moe", "experts": 128},
            30_000_000_000,
            "Q4_K",
        ),
    ],
)
def test_a_sparse_model_is_all_header(
    tmp_path: Path, arguments: dict[str, Any], parameters: int, kind: str
) -> None:
    path = ggufs.write_sparse_model(tmp_path / "m.gguf", vocabulary=100, **arguments)
    tensors = gguf.GGUFReader(path).tensors
    assert sum(int(tensor.n_elements) for tensor in tensors) == parameters
    assert {tensor.tensor_type.name for tensor in tensors} == {kind}
    last = max(tensor.data_offset + tensor.n_bytes for tensor in tensors)
    assert path.stat().st_size - 32 < last <= path.stat().st_size
    assert path.stat().st_blocks * 512 < 1_000_000


def test_files_that_are_no_models_say_so(tmp_path: Path) -> None:
    """Kind by the header: what a reader of the `gguf` package sees."""
    paths = [
        ggufs.write_mmproj(tmp_path / "mmproj.gguf"),
        ggufs.write_lora(tmp_path / "lora.gguf"),
        ggufs.write_imatrix(tmp_path / "imatrix.gguf"),
        ggufs.write_vocab_only(tmp_path / "vocab.gguf"),
    ]
    readers = [gguf.GGUFReader(path) for path in paths]
    kinds = [reader.fields["general.type"].contents() for reader in readers]
    assert kinds == ["mmproj", "adapter", "imatrix", "model"]
    assert [bool(reader.tensors) for reader in readers] == [True, True, True, False]


def test_metadata_is_added_replaced_and_taken_away(tmp_path: Path) -> None:
    given: dict[str, object] = {
        "general.size_label": "8B",
        "general.name": None,
        "llama.context_length": 4096,
        "x.list": [1.5, 2.5],
        "x.flag": True,
        "x.negative": -1,
    }
    path = ggufs.write_chat_model(tmp_path / "m.gguf", template=None, metadata=given)
    fields = gguf.GGUFReader(path).fields
    for key, value in given.items():
        assert (fields[key].contents() if key in fields else None) == value
    assert "tokenizer.chat_template" not in fields


def test_a_word_said_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="occurs twice"):
        ggufs.write_chat_model(tmp_path / "m.gguf", answer="on and on and on")
