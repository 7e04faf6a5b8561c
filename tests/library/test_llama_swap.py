"""llama-swap's configuration, as its documentation describes it."""

import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magid.errors import InvalidInput
from magid.library import llama_swap
from magid.library.foreign import ForeignModel

CONFIGURATION = b"""\
healthCheckTimeout: 500
macros:
  server: "/opt/llama/llama-server --port ${PORT} --host 127.0.0.1"
  base: ${server} -ngl 99
models:
  qwen:
    cmd: |
      ${base}
      # the file
      --model /models/qwen.gguf
      -c 8192 -np 2 --temp 0.7 --jinja --no-webui
      --lora /models/lora.gguf --ctx-size many
    aliases: [gpt-4o]
    ttl: 300
    env: [CUDA_VISIBLE_DEVICES=0]
    filters:
      stripParams: "temperature, model, top_p"
      setParams: {top_k: 5}
      setParamsByID:
        "${MODEL_ID}:high": {chat_template_kwargs: {reasoning_effort: high}}
  image:
    cmd: docker run --rm -v /m:/m ghcr.io/ggml-org/llama.cpp:server-cuda -hf org/x-GGUF:Q8_0
    ttl: 0
  other:
    cmd: python -m vllm.serve x
groups: {small: {swap: false}}
"""


def models(text: bytes) -> dict[str, ForeignModel]:
    return {model.name: model for model in llama_swap.parse(text, "config.yaml").models}


def test_a_configuration() -> None:
    found = models(CONFIGURATION)
    qwen = found["qwen"]
    assert qwen.path == "/models/qwen.gguf"
    assert qwen.settings == {
        "nGpuLayers": 99,
        "ctxSize": 8192,
        "parallel": 2,
        "extraArgs": ["--temp", "0.7", "--jinja"],
        "start": "on-demand",
        "idleStopSeconds": 300,
    }
    plain = {"set": {"top_k": 5}, "strip": ["temperature", "top_p"]}
    high = {"top_k": 5, "chat_template_kwargs": {"reasoning_effort": "high"}}
    assert qwen.names == {"qwen": plain, "gpt-4o": plain, "qwen:high": {**plain, "set": high}}
    assert qwen.faults == (
        "env has no counterpart",
        "--lora names a file or folder, which is not allowed",
        "--ctx-size many: ctxSize must be a whole number, also with K or M",
    )
    image = found["image"]
    assert (image.repository, image.tag, image.faults) == ("org/x-GGUF", "Q8_0", ())
    assert "idleStopSeconds" not in image.settings
    assert found["other"].faults == ("its command starts 'python', not llama-server",)
    (fault,) = llama_swap.parse(CONFIGURATION, "c").faults
    assert fault.startswith("groups: ")


@pytest.mark.parametrize("text", [b"", b"models: []", b"models: {", b"a: &x {}\nmodels: *x"])
def test_what_is_none_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidInput):
        llama_swap.parse(text, "config.yaml")


def test_macros_that_never_end_are_a_fault() -> None:
    text = b"macros: {a: '${b}${b}', b: '${a}${a}'}\nmodels: {x: {cmd: 'llama-server ${a}'}}"
    (fault,) = models(text)["x"].faults
    assert fault.startswith("its command cannot be read: ")


@settings(max_examples=30)
@given(st.dictionaries(st.text(max_size=9), st.one_of(st.none(), st.text(), st.integers())))
def test_no_command_makes_it_raise(keys: dict[str, object]) -> None:
    text = json.dumps({"models": {"x": {"cmd": "llama-server -m a", **keys}}}).encode()
    with suppress(InvalidInput):  # what YAML cannot hold
        llama_swap.parse(text, "c")
