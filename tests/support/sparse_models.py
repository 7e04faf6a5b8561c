"""Models of real sizes, in sparse files: their headers are whole, and their weights are a hole.

The dimensions are those of the models that they are named after, and the types of the weights those
of usual files with four to five bits a weight. A file of 48 GiB takes 3 MB of a disk. llama-server
predicts the memory of each, and loads it on a hollow GPU (`tests.support.fake_gpu`).
"""

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tests.support import gguf_bytes

F32, F16, Q8_0, Q4_K, Q6_K, MXFP4 = 0, 1, 8, 12, 14, 39
_BLOCKS = {F32: (1, 4), F16: (1, 2), Q8_0: (32, 34), Q4_K: (256, 144), Q6_K: (256, 210),
           MXFP4: (32, 17)}  # fmt: skip  # numbers and bytes of a block

Tensor = tuple[str, tuple[int, ...], int]
Pairs = Mapping[str, float | str]


def write(folder: Path, name: str) -> Path:
    """Writes one of `MODELS`."""
    architecture, pairs, vocabulary, tensors = MODELS[name]()
    infos, size = [], 0
    for tensor, shape, wanted in tensors:
        kind = _storable(shape, wanted)
        infos.append(gguf_bytes.tensor(tensor, shape, kind, size))
        numbers, length = _BLOCKS[kind]
        size += -(-math.prod(shape) // numbers * length // 32) * 32
    keys = [gguf_bytes.text("general.architecture", architecture), *_vocabulary_keys(vocabulary)]
    keys += [_key(f"{architecture}.{k}", value) for k, value in pairs.items()]
    keys.append(_key(f"{architecture}.vocab_size", vocabulary))
    head = gguf_bytes.padded(gguf_bytes.header(keys, infos))
    path = folder / f"{name}.gguf"
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + size)
    return path


def _storable(shape: tuple[int, ...], kind: int) -> int:
    """A row that is no multiple of the type's block has another type, as llama-quantize does it."""
    fallbacks = (kind, Q8_0, F16)
    return next(one for one in fallbacks if shape[0] % _BLOCKS[one][0] == 0)


def _key(key: str, value: float | str) -> bytes:
    match value:
        case bool():
            return gguf_bytes.scalar(key, gguf_bytes.BOOL, value)
        case int():
            return gguf_bytes.scalar(key, gguf_bytes.U32, value)
        case float():
            return gguf_bytes.scalar(key, gguf_bytes.F32, value)
        case str():
            return gguf_bytes.text(key, value)


def _vocabulary_keys(size: int) -> list[bytes]:
    return [
        gguf_bytes.text("tokenizer.ggml.model", "test"),
        gguf_bytes.strings("tokenizer.ggml.tokens", [f"t{number}" for number in range(size)]),
        gguf_bytes.array("tokenizer.ggml.token_type", gguf_bytes.I32, [1] * size),
        gguf_bytes.array("tokenizer.ggml.scores", gguf_bytes.F32, [0.0] * size),
    ]


# -- the parts -----------------------------------------------------------------------------------


def _ends(width: int, vocabulary: int, kind: int = Q4_K, output: int | None = Q6_K) -> list[Tensor]:
    """What stands before and behind the layers. Without an output, that is the embedding."""
    tensors: list[Tensor] = [
        ("token_embd.weight", (width, vocabulary), kind),
        ("output_norm.weight", (width,), F32),
    ]
    if output is not None:
        tensors.append(("output.weight", (width, vocabulary), output))
    return tensors


def _layers(count: int, layer: Callable[[int], list[Tensor]]) -> Iterator[Tensor]:
    for number in range(count):
        yield from ((f"blk.{number}.{name}", shape, kind) for name, shape, kind in layer(number))


def _attention(
    width: int, heads: int, kv_heads: int, head: int, kind: int = Q4_K, values: int = Q6_K
) -> list[Tensor]:
    return [
        ("attn_norm.weight", (width,), F32),
        ("attn_q.weight", (width, heads * head), kind),
        ("attn_k.weight", (width, kv_heads * head), kind),
        ("attn_v.weight", (width, kv_heads * head), values),
        ("attn_output.weight", (heads * head, width), kind),
    ]


def _feed(width: int, feed: int, part: str = "") -> list[Tensor]:
    return [
        (f"ffn_gate{part}.weight", (width, feed), Q4_K),
        (f"ffn_up{part}.weight", (width, feed), Q4_K),
        (f"ffn_down{part}.weight", (feed, width), Q6_K),
    ]


def _experts(width: int, feed: int, count: int) -> list[Tensor]:
    return [
        ("ffn_gate_inp.weight", (width, count), F32),
        ("ffn_gate_exps.weight", (width, feed, count), Q4_K),
        ("ffn_up_exps.weight", (width, feed, count), Q4_K),
        ("ffn_down_exps.weight", (feed, width, count), Q6_K),
    ]


def _norms(**widths: int) -> list[Tensor]:
    return [(f"{name}.weight", (width,), F32) for name, width in widths.items()]


def _basic(width: int, layers: int, feed: int, context: int) -> dict[str, float | str]:
    return {
        "context_length": context,
        "embedding_length": width,
        "block_count": layers,
        "feed_forward_length": feed,
        "attention.layer_norm_rms_epsilon": 1e-6,
    }


def _heads(heads: int, kv_heads: int, head: int) -> dict[str, float | str]:
    return {
        "attention.head_count": heads,
        "attention.head_count_kv": kv_heads,
        "attention.key_length": head,
        "attention.value_length": head,
        "rope.freq_base": 1e6,
    }


# -- the models ----------------------------------------------------------------------------------

Model = tuple[str, Pairs, int, list[Tensor]]  # architecture, pairs, size of the vocabulary, tensors


def _llama(width: int, layers: int, heads: int, feed: int) -> Model:
    pairs = _basic(width, layers, feed, 131_072) | _heads(heads, 8, 128)

    def layer(_number: int) -> list[Tensor]:
        return [*_attention(width, heads, 8, 128), *_norms(ffn_norm=width), *_feed(width, feed)]

    tensors = [*_ends(width, 128_256), *_norms(rope_freqs=64), *_layers(layers, layer)]
    return "llama", pairs | {"rope.dimension_count": 128}, 128_256, tensors


def _qwen3() -> Model:
    width, feed = 4096, 12_288

    def layer(_number: int) -> list[Tensor]:
        norms = _norms(ffn_norm=width, attn_q_norm=128, attn_k_norm=128)
        return [*_attention(width, 32, 8, 128), *norms, *_feed(width, feed)]

    pairs = _basic(width, 36, feed, 40_960) | _heads(32, 8, 128)
    return "qwen3", pairs, 151_936, [*_ends(width, 151_936), *_layers(36, layer)]


def _gemma3() -> Model:
    """Five of six layers keep a window of 1024 tokens; the output is the embedding."""
    width, feed, vocabulary = 5376, 21_504, 262_208

    def layer(_number: int) -> list[Tensor]:
        norms = _norms(
            ffn_norm=width,
            post_attention_norm=width,
            post_ffw_norm=width,
            attn_q_norm=128,
            attn_k_norm=128,
        )
        return [*_attention(width, 32, 16, 128), *norms, *_feed(width, feed)]

    pairs = _basic(width, 62, feed, 131_072) | _heads(32, 16, 128)
    pairs |= {"attention.sliding_window": 1024}
    tensors = [*_ends(width, vocabulary, Q6_K, None), *_layers(62, layer)]
    return "gemma3", pairs, vocabulary, tensors


def _qwen3_moe() -> Model:
    width, feed, experts = 2048, 768, 128

    def layer(_number: int) -> list[Tensor]:
        norms = _norms(ffn_norm=width, attn_q_norm=128, attn_k_norm=128)
        return [*_attention(width, 32, 4, 128), *norms, *_experts(width, feed, experts)]

    pairs = _basic(width, 48, 6144, 40_960) | _heads(32, 4, 128)
    pairs |= {
        "expert_feed_forward_length": feed,
        "expert_count": experts,
        "expert_used_count": 8,
    }
    return "qwen3moe", pairs, 151_936, [*_ends(width, 151_936), *_layers(48, layer)]


def _deepseek2() -> Model:
    """Its cache has one compressed row for all heads (MLA)."""
    width, heads, rank, experts, feed = 2048, 16, 512, 64, 1408

    def layer(number: int) -> list[Tensor]:
        attention: list[Tensor] = [
            *_norms(attn_norm=width, attn_kv_a_norm=rank, ffn_norm=width),
            ("attn_q.weight", (width, heads * 192), Q4_K),
            ("attn_kv_a_mqa.weight", (width, rank + 64), Q4_K),
            ("attn_k_b.weight", (128, rank, heads), Q8_0),
            ("attn_v_b.weight", (rank, 128, heads), Q8_0),
            ("attn_output.weight", (heads * 128, width), Q4_K),
        ]
        if number == 0:
            return [*attention, *_feed(width, 10_944)]
        shared = _feed(width, 2 * feed, "_shexp")
        return [*attention, *_experts(width, feed, experts), *shared]

    pairs = _basic(width, 27, 10_944, 163_840) | _heads(heads, 1, rank + 64) | {
        "attention.value_length": rank,
        "attention.kv_lora_rank": rank,
        "attention.key_length_mla": 192,
        "attention.value_length_mla": 128,
        "rope.dimension_count": 64,
        "leading_dense_block_count": 1,
        "expert_feed_forward_length": feed,
        "expert_count": experts,
        "expert_used_count": 6,
        "expert_shared_count": 2,
        "expert_weights_scale": 1.0,
        "expert_gating_func": 1,
    }  # fmt: skip
    return "deepseek2", pairs, 102_400, [*_ends(width, 102_400), *_layers(27, layer)]


def _qwen3_next() -> Model:
    """Every fourth layer has a cache, the others a state of fixed size."""
    width, heads, head, experts, feed = 2048, 16, 256, 512, 512
    inner, groups = 4096, 32

    def layer(number: int) -> list[Tensor]:
        if (number + 1) % 4 == 0:
            mixing = [
                *_attention(width, heads, 2, head),
                *_norms(attn_q_norm=head, attn_k_norm=head),
            ]
            mixing[1] = ("attn_q.weight", (width, 2 * heads * head), Q4_K)  # with a gate
        else:
            mixing = [
                *_norms(attn_norm=width, ssm_norm=128),
                ("attn_qkv.weight", (width, 2 * inner), Q4_K),
                ("attn_gate.weight", (width, inner), Q4_K),
                ("ssm_ba.weight", (width, 2 * groups), Q4_K),
                ("ssm_conv1d.weight", (4, 2 * inner), F32),
                ("ssm_dt.bias", (groups,), F32),
                ("ssm_a", (groups,), F32),
                ("ssm_out.weight", (inner, width), Q4_K),
            ]
        norms = _norms(post_attention_norm=width, ffn_gate_inp_shexp=width)
        return [*mixing, *norms, *_experts(width, feed, experts), *_feed(width, feed, "_shexp")]

    pairs = _basic(width, 48, 5120, 262_144) | _heads(heads, 2, head) | {
        "rope.dimension_count": 64,
        "expert_feed_forward_length": feed,
        "expert_shared_feed_forward_length": feed,
        "expert_count": experts,
        "expert_used_count": 10,
        "full_attention_interval": 4,
        "ssm.conv_kernel": 4,
        "ssm.state_size": 128,
        "ssm.group_count": 16,
        "ssm.time_step_rank": groups,
        "ssm.inner_size": inner,
    }  # fmt: skip
    return "qwen3next", pairs, 151_936, [*_ends(width, 151_936), *_layers(48, layer)]


def _gpt_oss() -> Model:
    """Every second layer keeps a window of 128 tokens; the experts' weights are MXFP4."""
    width, heads, kv_heads, head, experts = 2880, 64, 8, 64, 32

    def layer(_number: int) -> list[Tensor]:
        tensors: list[Tensor] = [
            *_attention(width, heads, kv_heads, head, Q8_0, Q8_0),
            ("attn_q.bias", (heads * head,), F32),
            ("attn_k.bias", (kv_heads * head,), F32),
            ("attn_v.bias", (kv_heads * head,), F32),
            ("attn_output.bias", (width,), F32),
            *_norms(attn_sinks=heads, post_attention_norm=width),
            ("ffn_gate_inp.weight", (width, experts), F32),
            ("ffn_gate_inp.bias", (experts,), F32),
        ]
        for part in ("gate", "up", "down"):
            tensors.append((f"ffn_{part}_exps.weight", (width, width, experts), MXFP4))
            tensors.append((f"ffn_{part}_exps.bias", (width, experts), F32))
        return tensors

    pairs = _basic(width, 24, width, 131_072) | _heads(heads, kv_heads, head) | {
        "expert_feed_forward_length": width,
        "expert_count": experts,
        "expert_used_count": 4,
        "attention.sliding_window": 128,
        "rope.dimension_count": 64,
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": 32.0,
        "rope.scaling.original_context_length": 4096,
    }  # fmt: skip
    tensors = [*_ends(width, 201_088, Q8_0, Q8_0), *_layers(24, layer)]
    return "gpt-oss", pairs, 201_088, tensors


def _mamba2() -> Model:
    """No layer has a cache: each slot has a state of fixed size, whatever the context."""
    width, inner, state, rank = 2560, 5120, 128, 80

    def layer(_number: int) -> list[Tensor]:
        return [
            *_norms(attn_norm=width),
            ("ssm_in.weight", (width, 2 * inner + 2 * state + rank), Q8_0),
            ("ssm_conv1d.weight", (4, inner + 2 * state), F32),
            ("ssm_conv1d.bias", (inner + 2 * state,), F32),
            ("ssm_dt.bias", (rank,), F32),
            ("ssm_a", (1, rank), F32),
            ("ssm_d", (1, rank), F32),
            ("ssm_norm.weight", (inner, 1), F32),
            ("ssm_out.weight", (inner, width), Q8_0),
        ]

    pairs = _basic(width, 64, 0, 1_048_576) | {
        "attention.head_count": 0,
        "ssm.conv_kernel": 4,
        "ssm.inner_size": inner,
        "ssm.state_size": state,
        "ssm.time_step_rank": rank,
        "ssm.group_count": 1,
    }
    return "mamba2", pairs, 50_288, [*_ends(width, 50_288, Q8_0, None), *_layers(64, layer)]


MODELS: dict[str, Callable[[], Model]] = {
    "llama-8b": lambda: _llama(4096, 32, 32, 14_336),
    "llama-70b": lambda: _llama(8192, 80, 64, 28_672),
    "qwen3-8b": _qwen3,
    "gemma3-27b": _gemma3,
    "qwen3-30b-a3b": _qwen3_moe,
    "deepseek-v2-lite": _deepseek2,
    "qwen3-next-80b-a3b": _qwen3_next,
    "gpt-oss-20b": _gpt_oss,
    "mamba2-2.7b": _mamba2,
}
