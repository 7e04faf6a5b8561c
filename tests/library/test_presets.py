"""Presets of llama.cpp's router."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magid.errors import InvalidInput
from magid.library import presets

PRESETS = b"""\
version = 1
; for all
[*]
ctx-size = 16384
flash-attn = on
jinja = true
mmap = false

[coder]
model = /models/coder.gguf
mmproj = /models/mmproj.gguf
gpu-layers = 99
c = 4096
LLAMA_ARG_N_PARALLEL = 4
load-on-startup = true
sleep-idle-seconds = 60
spec-draft-model = /models/draft.gguf
[ggml-org/gemma-3-4b-it-GGUF:Q4_K_M]
temp = 0.5
sleep-idle-seconds = 60
jinja = false
"""


def test_presets() -> None:
    coder, gemma = presets.parse(PRESETS, "models-preset.ini").models
    assert (coder.name, coder.path, coder.names) == ("coder", "/models/coder.gguf", {"coder": {}})
    assert coder.settings == {
        "nGpuLayers": 99,
        "ctxSize": 4096,
        "parallel": 4,
        "extraArgs": ["--flash-attn", "on", "--jinja", "--no-mmap"],
        "start": "always",
    }
    assert coder.faults == ("--spec-draft-model names a file or folder, which is not allowed",)
    assert (gemma.repository, gemma.tag) == ("ggml-org/gemma-3-4b-it-GGUF", "Q4_K_M")
    assert gemma.settings == {
        "ctxSize": 16384,
        "extraArgs": ["--flash-attn", "on", "--no-jinja", "--no-mmap", "--temp", "0.5"],
        "start": "on-demand",
        "idleStopSeconds": 60,
    }
    assert gemma.faults == ()


@pytest.mark.parametrize("text", [b"", b"[*]\nctx-size = 1", b"[a\n", b"\xff\xfe[", b"x" * 2**21])
def test_what_is_none_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidInput, match="cannot import p: "):
        presets.parse(text, "p")


@settings(max_examples=50)
@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=300))
def test_no_text_makes_it_fail_otherwise(text: str) -> None:
    with suppress(InvalidInput):
        presets.parse(f"[a]\n{text}".encode(), "p")
