"""A daemon with real servers behind its gateway, for tests of the gateway."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.support import ggufs
from tests.support.deadlines import DEADLINE_S
from tests.support.rest import Parts
from tests.support.running import Running

SMALL = "small_0p0b_q40_fast"
MEDIUM = "medium_0p0b_f16_balanced"
THINKER = "thinker_thinking_0p0b_f16_powerful"
VECTORS = "vectors_embedding_0p0b_f16_balanced"
CALLER = "caller_0p0b_f16_balanced"
RANKER = "ranker_reranker_0p0b_f16_balanced"
PROFILE = """\
name: Test
enabled_models: ['*']
aliases: {gpt-4o: powerful, my-model: small_0p0b_q40_fast}
"""
DEFAULTS = "{n_threads: 1, parallel: 2, ctx_size: 32768}"
LONG = 32_768  # tokens: so many take the tiny model seconds


def write_small(models: Path) -> None:
    ggufs.write_chat_model(models / "Small-Q4_0.gguf", name="Small", quantization="Q4_0")


def write_conversations(models: Path) -> None:
    """Three, one for each tier."""
    write_small(models)
    ggufs.write_chat_model(
        models / "Medium-F16.gguf", name="Medium", quantization="F16", context=LONG
    )
    ggufs.write_chat_model(
        models / "Thinker-Thinking-F16.gguf",
        name="Thinker Thinking",
        template=ggufs.THINKING_TEMPLATE,
        answer=ggufs.THINKING_ANSWER,
        quantization="F16",
    )


def write_every_kind(models: Path) -> None:
    """Those, an embedding model and a reranker."""
    write_conversations(models)
    ggufs.write_embedding_model(models / "Vectors-Embedding-F16.gguf", quantization="F16")
    ggufs.write_embedding_model(
        models / "Ranker-Reranker-F16.gguf", pooling="rank", quantization="F16"
    )


def write_with_caller(models: Path) -> None:
    """Those, and a model that calls the tool `look`, whatever it is asked."""
    write_every_kind(models)
    ggufs.write_chat_model(
        models / "Caller-F16.gguf",
        name="Caller",
        quantization="F16",
        template=ggufs.TOOL_TEMPLATE,
        answer=ggufs.TOOL_ANSWER,
    )


@contextmanager
def fleet(
    parts: Parts,
    folder: Path,
    write_models: Callable[[Path], None] = write_every_kind,
    *,
    profile: str = PROFILE,
    defaults: str = DEFAULTS,
    configuration: str = "",
    ports: int = 6,
    locally: bool = False,
) -> Iterator[Running]:
    """Ready; ended behind the block. `locally`: see Running."""
    folder.mkdir(parents=True, exist_ok=True)
    low = parts.free_ports(ports)
    running = Running(
        folder,
        port=parts.free_port(),
        port_range=(low, low + ports - 1),
        llama_server=parts.llama_server,
    )
    running.configuration.write_text(
        f"port_range: [{low}, {low + ports - 1}]\nserver_defaults: {defaults}\n"
        "restart: {limit: 5, first_delay: 0.1, max_delay: 0.2}\n" + configuration
    )
    if locally:
        running.listen_locally()
    (running.profiles / "test.yaml").write_text(profile)
    write_models(running.models)
    with running, running.client:
        running.wait_ready()
        yield running


def chat(model: str = "auto", text: str = "Hello", **more: Any) -> dict[str, Any]:
    """The body of a request for a few tokens."""
    return {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": 4,
        **more,
    }


def client(magid: Running) -> httpx.Client:
    """Of the gateway: its answers are llama-server's, in no schema of ours."""
    return httpx.Client(base_url=magid.url, timeout=DEADLINE_S, trust_env=False)
