"""Writes GGUF files of every kind: tiny models that a real llama-server runs, and mere headers.

A chat model made here knows one answer and gives it whatever it is asked, at several thousand
tokens a second; so a test can tell by the text which model answered.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np

from tests.support import tiny_llama
from tests.support.gguf_writing import encoded_weights, padded, write_file, writer_of

CHAT_TEMPLATE = (
    "{% for message in messages %}<s>{{ message['role'] }}\n{{ message['content'] }}</s>\n"
    "{% endfor %}{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
# The model always thinks: its turn begins inside the thought.
THINKING_TEMPLATE = (
    "{% for message in messages %}<s>{{ message['role'] }}\n"
    "{% if message['reasoning_content'] %}<think>\n{{ message['reasoning_content'] }}\n</think>\n\n"
    "{% endif %}{{ message['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n<think>\n{% endif %}"
)
# The caller may forbid the thought: an empty one is put in its place.
TOGGLE_TEMPLATE = THINKING_TEMPLATE.replace(
    "<s>assistant\n<think>\n{% endif %}",
    "<s>assistant\n{% if enable_thinking is defined and enable_thinking is false %}"
    "<think>\n\n</think>\n\n{% endif %}{% endif %}",
)
# The way of Hermes and Qwen, which llama-server knows from the template.
TOOL_TEMPLATE = (
    "{% if tools %}<s>system\n<tools>{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}"
    '</tools>\nAnswer with <tool_call>\n{"name": NAME, "arguments": OBJECT}\n</tool_call></s>\n'
    "{% endif %}{% for message in messages %}<s>{{ message['role'] }}\n"
    "{% if message.tool_calls %}{% for call in message.tool_calls %}<tool_call>\n"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}\n'
    "</tool_call>{% endfor %}{% else %}{{ message['content'] }}{% endif %}</s>\n"
    "{% endfor %}{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
TOOL_ANSWER = '<tool_call>\n{"name": "look", "arguments": {"a": "b"}}\n</tool_call>'
ANSWER = "I am a tiny demo model: this sentence is all there ever was to learn."
THINKING_ANSWER = "Only one sentence is known here.\n</think>\n\nThen that must be the answer."

_POOLING = {"none": 0, "mean": 1, "cls": 2, "last": 3, "rank": 4}


def write_chat_model(
    path: Path,
    *,
    name: str = "Demo",
    template: str | None = CHAT_TEMPLATE,
    quantization: str = "F32",
    metadata: Mapping[str, object] | None = None,
    seed: int = 0,
    context: int = 2048,
    answer: str = ANSWER,
    endless: bool = False,
) -> Path:
    """A model of a few 100 KB that a real llama-server loads and answers `answer` with.

    No word may occur twice in `answer`. An `endless` model begins again instead of ending: it
    answers until max_tokens, or the context, is used up. `metadata` adds keys, replaces them, or
    with None takes them away.
    """
    words = tiny_llama.Vocabulary(tiny_llama.pieces(answer))
    pairs = _model_pairs(name, words, quantization, context)
    if template is not None:
        pairs["tokenizer.chat_template"] = template
    tensors = encoded_weights(tiny_llama.chain_weights(words, seed, endless=endless), quantization)
    return write_file(path, pairs | dict(metadata or {}), tensors)


def write_wide_model(path: Path, *, name: str, width: int, feed: int, layers: int) -> Path:
    """A model of any size, of random numbers in F16, that a real llama-server runs; it babbles.

    All layers hold the same numbers: a large file is written in seconds.
    """
    words = tiny_llama.Vocabulary(())
    random = np.random.default_rng(0)
    shapes = {
        **{f"attn_{x}": (width, width) for x in ("q", "k", "v", "output")},
        "ffn_gate": (feed, width),
        "ffn_up": (feed, width),
        "ffn_down": (width, feed),
        "attn_norm": (width,),
        "ffn_norm": (width,),
    }
    own = {x: random.normal(scale=0.02, size=shape) for x, shape in shapes.items()}
    one = encoded_weights(own, "F16")
    few = {x: random.normal(size=(len(words.tokens), width)) for x in ("token_embd", "output")}
    ends = encoded_weights({**few, "output_norm": np.ones(width)}, "F16")
    tensors = {f"{x}.weight": found for x, found in ends.items()}
    for layer in range(layers):
        tensors |= {f"blk.{layer}.{x}.weight": found for x, found in one.items()}
    pairs = _model_pairs(name, words, "F16", 2048) | {
        "llama.embedding_length": width,
        "llama.block_count": layers,
        "llama.feed_forward_length": feed,
        **{f"llama.attention.head_count{x}": width // 64 for x in ("", "_kv")},
        **{f"llama.attention.{x}_length": 64 for x in ("key", "value")},
        "llama.rope.dimension_count": 64,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }
    return write_file(path, pairs, tensors)


def write_embedding_model(
    path: Path,
    *,
    name: str = "Demo Embedding",
    pooling: str = "mean",
    quantization: str = "F32",
    metadata: Mapping[str, object] | None = None,
    seed: int = 0,
    context: int = 2048,
) -> Path:
    """A model of 64-number embeddings, `pooling` none, mean, cls, last or rank.

    `rank` makes a reranker, of the architecture `qwen3`: of the two used here, the one that
    llama-server takes a classifier from.
    """
    words = tiny_llama.Vocabulary(())
    random = np.random.default_rng(seed)
    weights = tiny_llama.noise_weights(len(words.tokens), random)
    architecture = "llama"
    if pooling == "rank":
        architecture = "qwen3"
        weights["cls.output.weight"] = random.normal(size=(2, tiny_llama.WIDTH))
        for layer in range(tiny_llama.LAYERS):
            weights |= {
                f"blk.{layer}.attn_{x}_norm.weight": np.ones(tiny_llama.WIDTH // tiny_llama.HEADS)
                for x in "qk"
            }
    pairs = _model_pairs(name, words, quantization, context, architecture)
    pairs[f"{architecture}.pooling_type"] = _POOLING[pooling]
    if pooling == "cls":  # the first token has to see the others
        pairs[f"{architecture}.attention.causal"] = False
    if pooling == "rank":
        pairs["qwen3.classifier.output_labels"] = ["yes", "no"]
    return write_file(path, pairs | dict(metadata or {}), encoded_weights(weights, quantization))


def write_split_model(
    prefix: Path,
    shards: int = 2,
    *,
    name: str = "Demo Split",
    quantization: str = "F32",
    metadata: Mapping[str, object] | None = None,
    seed: int = 0,
    answer: str = ANSWER,
) -> list[Path]:
    """A chat model in several files, `PREFIX-00001-of-0000N.gguf` and so on, in their order."""
    words = tiny_llama.Vocabulary(tiny_llama.pieces(answer))
    pairs = _model_pairs(name, words, quantization, 2048)
    pairs["tokenizer.chat_template"] = CHAT_TEMPLATE
    tensors = encoded_weights(tiny_llama.chain_weights(words, seed, endless=False), quantization)
    names, step = list(tensors), math.ceil(len(tensors) / shards)
    paths = []
    for number in range(shards):
        split = {"split.no": number, "split.count": shards, "split.tensors.count": len(names)}
        own = {key: tensors[key] for key in names[number * step : (number + 1) * step]}
        all_pairs = (pairs | dict(metadata or {})) if number == 0 else {}
        path = prefix.with_name(f"{prefix.name}-{number + 1:05d}-of-{shards:05d}.gguf")
        paths.append(write_file(path, all_pairs | split, own))
    return paths


def write_mmproj(
    path: Path, *, name: str = "Demo", metadata: Mapping[str, object] | None = None
) -> Path:
    """A vision projector's header with one tensor: a companion of a model, not a model."""
    pairs = {
        "general.architecture": "clip",
        "general.type": "mmproj",
        "general.name": name,
        "clip.has_vision_encoder": True,
        "clip.projector_type": "mlp",
        "clip.vision.embedding_length": tiny_llama.WIDTH,
    }
    tensors = {"v.patch_embd.weight": np.zeros((8, tiny_llama.WIDTH))}
    return write_file(path, pairs | dict(metadata or {}), encoded_weights(tensors, "F16"))


def write_tensors(
    path: Path, pairs: Mapping[str, object], tensors: Mapping[str, np.ndarray]
) -> Path:
    """A file of these, in F32."""
    return write_file(path, pairs, encoded_weights(tensors, "F32"))


def write_lora(path: Path, *, name: str = "Demo", architecture: str = "llama") -> Path:
    """A LoRA adapter of rank 4 for one matrix."""
    pairs = {
        "general.architecture": architecture,
        "general.type": "adapter",
        "general.name": name,
        "adapter.type": "lora",
        "adapter.lora.alpha": 16.0,
    }
    matrix = "blk.0.attn_q.weight.lora_"
    tensors = {
        f"{matrix}a": np.zeros((4, tiny_llama.WIDTH)),
        f"{matrix}b": np.zeros((tiny_llama.WIDTH, 4)),
    }
    return write_file(path, pairs, encoded_weights(tensors, "F32"))


def write_imatrix(path: Path) -> Path:
    """An importance matrix, as llama-imatrix writes it: no architecture, sums per matrix."""
    pairs = {
        "general.type": "imatrix",
        "imatrix.datasets": ["calibration.txt"],
        "imatrix.chunk_count": 1,
        "imatrix.chunk_size": 512,
    }
    matrix = "blk.0.attn_q.weight."
    tensors = {
        f"{matrix}in_sum2": np.ones((1, tiny_llama.WIDTH)),
        f"{matrix}counts": np.ones((1, 1)),
    }
    return write_file(path, pairs, encoded_weights(tensors, "F32"))


def write_vocab_only(path: Path, *, name: str = "Demo") -> Path:
    """A tokenizer with no tensor at all, as converters write it with --vocab-only."""
    return write_file(path, _model_pairs(name, tiny_llama.Vocabulary(()), "F32", 2048), {})


def write_sparse_model(
    path: Path,
    *,
    parameters_billions: float,
    quantization: str = "Q4_K_M",
    architecture: str = "llama",
    metadata: Mapping[str, object] | None = None,
    vocabulary: int = 0,
    experts: int = 0,
    experts_used: int = 0,
) -> Path:
    """A header as of a big model over a hole: costs no disk, cannot be loaded.

    Parameters are rounded to 256 (to 256 an expert). With `experts` nine tenths of them are in
    the experts' matrices, the rest is shared. `vocabulary` tokens come with as many merges.
    """
    tensor_type = gguf.GGMLQuantizationType[_tensor_type(quantization)]
    pairs: dict[str, object] = {
        "general.architecture": architecture,
        "general.file_type": _file_type(quantization),
        f"{architecture}.context_length": 32768,
        f"{architecture}.embedding_length": 256,
        f"{architecture}.block_count": 1,
    }
    if vocabulary:
        pairs |= _big_vocabulary(vocabulary)
    shapes = _shapes(round(parameters_billions * 1e9), experts)
    if experts:
        pairs[f"{architecture}.expert_count"] = experts
        pairs[f"{architecture}.expert_used_count"] = experts_used
    writer = writer_of(path, pairs | dict(metadata or {}))
    block, size = gguf.GGML_QUANT_SIZES[tensor_type]
    for name, shape in shapes.items():
        stored = (*shape[:-1], shape[-1] // block * size)
        tensor_bytes = math.prod(stored)
        writer.add_tensor_info(
            name, stored, np.dtype(np.uint8), tensor_bytes, raw_dtype=tensor_type
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    head = padded(path.stat().st_size)
    data = sum(padded(math.prod(shape) // block * size) for shape in shapes.values())
    with path.open("r+b") as file:
        file.truncate(head + data)
    return path


# --- what the files hold --------------------------------------------------------------------


def _model_pairs(
    name: str,
    words: tiny_llama.Vocabulary,
    quantization: str,
    context: int,
    architecture: str = "llama",
) -> dict[str, object]:
    tokens = words.tokens
    own = {
        "context_length": context,
        "embedding_length": tiny_llama.WIDTH,
        "block_count": tiny_llama.LAYERS,
        "feed_forward_length": tiny_llama.FEED,
        "attention.head_count": tiny_llama.HEADS,
        "attention.head_count_kv": tiny_llama.HEADS,
        "attention.key_length": tiny_llama.WIDTH // tiny_llama.HEADS,
        "attention.value_length": tiny_llama.WIDTH // tiny_llama.HEADS,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.dimension_count": tiny_llama.WIDTH // tiny_llama.HEADS,
        "vocab_size": len(tokens),
    }
    return {
        "general.architecture": architecture,
        "general.type": "model",
        "general.name": name,
        "general.file_type": _file_type(quantization),
        **{f"{architecture}.{key}": value for key, value in own.items()},
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [-float(index) for index in range(len(tokens))],
        "tokenizer.ggml.token_type": words.types,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_space_prefix": False,
    }


def _big_vocabulary(size: int) -> dict[str, object]:
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": [f"token{index}" for index in range(size)],
        "tokenizer.ggml.token_type": [tiny_llama.NORMAL] * size,
        "tokenizer.ggml.merges": [f"to ken{index}" for index in range(size)],
    }


def _shapes(parameters: int, experts: int) -> dict[str, tuple[int, ...]]:
    """Tensors of a sparse model, rows last: a few, so that no writer has to loop for long."""
    if not experts:
        return {"token_embd.weight": (max(1, round(parameters / 256)), 256)}
    rows = max(1, round(parameters * 0.9 / experts / 256))
    shared = max(1, round(parameters / 256) - rows * experts)
    return {
        "token_embd.weight": (shared, 256),
        "blk.0.ffn_up_exps.weight": (experts, rows, 256),
    }


def _tensor_type(quantization: str) -> str:
    """`Q4_K_M` -> `Q4_K`: the type of most tensors in a file of this name."""
    base = (
        quantization.rsplit("_", 1)[0] if quantization[-2:] in ("_S", "_M", "_L") else quantization
    )
    names = {kind.name for kind in gguf.GGMLQuantizationType}
    return quantization if quantization in names else base


def _file_type(quantization: str) -> int:
    prefix = "ALL_" if quantization == "F32" else "MOSTLY_"
    return int(gguf.LlamaFileType[prefix + quantization].value)
