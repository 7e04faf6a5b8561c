"""Tiny models of architectures whose memory no one formula gives: real llama-servers load them.

Their weights are noise; what counts is what of the context each layer keeps.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tests.support import gguf_writing, ggufs, tiny_llama
from tests.support.tiny_llama import HEADS, LAYERS, WIDTH

WINDOW = 1024
WORDS = tuple(f"word{number}" for number in range(16_000))  # so that weights count in MiB
_STATE, _INNER, _KERNEL, _RANK = 16, 2 * WIDTH, 4, 4

DIFFERENT = ("llama", "qwen3", "gemma2", "mamba")
_AS_LLAMA = (
    *("granite", "internlm2", "minicpm", "exaone", "smollm3", "ernie4_5", "mistral3", "deci"),
    *("xverse", "baichuan", "qwen2", "refact"),
)
_AS_QWEN3 = ("qwen3", "hunyuan-dense", "maincoder")
_NORMED_AFTERWARDS = ("olmo2", "exaone4")
NAMES = (
    *DIFFERENT, *_AS_LLAMA, *_AS_QWEN3[1:], *_NORMED_AFTERWARDS, "gemma", "gemma3"
)  # fmt: skip
_SCALES = ("attention.scale", "residual_scale", "embedding_scale", "logit_scale")


def write(path: Path, architecture: str) -> Path:
    """In gemma2 every second layer keeps a window, in mamba each a state of fixed size.

    The tensors of the others are those of llama, with norms that they have besides or instead.
    """
    words = tiny_llama.Vocabulary(WORDS)
    weights = tiny_llama.noise_weights(len(words.tokens), np.random.default_rng(0))
    pairs = ggufs._model_pairs("Demo", words, "F32", 1 << 20, architecture)
    pairs |= {f"{architecture}.{name}": 1.0 for name in _SCALES}
    if architecture.startswith("gemma"):
        del weights["output.weight"]  # it is the embedding
    if architecture in (*_AS_QWEN3, "gemma3", "exaone4"):
        weights |= _norms("attn_q_norm", "attn_k_norm", width=WIDTH // HEADS)
    if architecture == "olmo2":
        weights |= _norms("attn_q_norm", "attn_k_norm", width=WIDTH)
    if architecture in (*_NORMED_AFTERWARDS, "gemma2", "gemma3"):
        weights |= _norms("post_attention_norm", "post_ffw_norm", width=WIDTH)
    if architecture in _NORMED_AFTERWARDS:
        before = [n for n in weights if n.endswith((".attn_norm.weight", ".ffn_norm.weight"))]
        weights = {n: array for n, array in weights.items() if n not in before}
    if architecture in ("gemma2", "gemma3", "olmo2"):
        pairs[f"{architecture}.attention.sliding_window"] = WINDOW
    elif architecture == "mamba":
        weights = _mamba(weights)
        pairs |= {
            "mamba.ssm.conv_kernel": _KERNEL,
            "mamba.ssm.inner_size": _INNER,
            "mamba.ssm.state_size": _STATE,
            "mamba.ssm.time_step_rank": _RANK,
        }
    return gguf_writing.write_file(path, pairs, gguf_writing.encoded_weights(weights, "F32"))


def _norms(*names: str, width: int) -> dict[str, np.ndarray]:
    return {
        f"blk.{layer}.{name}.weight": np.ones(width) for layer in range(LAYERS) for name in names
    }


def _mamba(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    made = {name: array for name, array in weights.items() if not name.startswith("blk.")}
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        made |= {
            f"{block}attn_norm.weight": np.ones(WIDTH),
            f"{block}ssm_in.weight": np.ones((2 * _INNER, WIDTH)),
            f"{block}ssm_conv1d.weight": np.ones((_INNER, _KERNEL)),
            f"{block}ssm_conv1d.bias": np.ones(_INNER),
            f"{block}ssm_x.weight": np.ones((_RANK + 2 * _STATE, _INNER)),
            f"{block}ssm_dt.weight": np.ones((_INNER, _RANK)),
            f"{block}ssm_dt.bias": np.ones(_INNER),
            f"{block}ssm_a": -np.ones((_INNER, _STATE)),
            f"{block}ssm_d": np.ones(_INNER),
            f"{block}ssm_out.weight": np.ones((WIDTH, _INNER)),
        }
    return made
