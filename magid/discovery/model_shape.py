"""The dimensions of a model by which its memory can be estimated, from its header. Pure."""

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from magid.discovery.naming import number, text

_MOST: Final = 1 << 50  # of anything: a header may claim what it likes
_F32: Final = 4
_RECURRENT: Final = frozenset({"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"})
_TOKENS: Final = "tokenizer.ggml.tokens"


class ModelShape(Struct, frozen=True, array_like=True):
    """Sizes of one model; 0 where the header does not say. A shard's are those of its tensors."""

    weights: int = 0  # bytes of all tensors
    embedding: int = 0  # of those, the matrix of the tokens, which stays in the machine's memory
    output: int = 0  # and the output matrix; 0: it is the matrix of the tokens again
    keys: int = 0  # elements of the cache for each token of the context, in all layers together
    values: int = 0
    state: int = 0  # bytes for each slot, whatever the context
    width: int = 0  # embedding_length
    vocabulary: int = 0

    def __add__(self, other: "ModelShape") -> "ModelShape":
        """Returns the shape of two shards: only the first has metadata."""
        return ModelShape(
            self.weights + other.weights, self.embedding + other.embedding,
            self.output + other.output, self.keys, self.values, self.state, self.width,
            self.vocabulary,
        )  # fmt: skip


def shape_of(
    metadata: Mapping[str, object], array_lengths: Mapping[str, int], tensors: tuple[int, int, int]
) -> ModelShape:
    """Returns the shape by a whole header; `tensors` are bytes: all, `token_embd`, `output`.

    The cache is an upper bound: a window, of which most headers do not say in which layers it is,
    counts as the whole context. The rules are those of llama.cpp (llama-hparams.cpp): n_embd_k_gqa,
    n_embd_v_gqa, n_embd_r, n_embd_s.
    """
    header = _Header(metadata, text(metadata, "general.architecture") or "")
    keys, values = _cached(header)
    return ModelShape(
        *tensors, min(keys, _MOST), min(values, _MOST), min(_state(header), _MOST),
        header["embedding_length"],
        array_lengths.get(_TOKENS, 0) or header["vocab_size"],
    )  # fmt: skip


class _Header(Struct, frozen=True):
    metadata: Mapping[str, object]
    architecture: str

    def __getitem__(self, key: str) -> int:
        return number(self.metadata, f"{self.architecture}.{key}") or 0

    def total(self, key: str, layers: int) -> int:
        """Returns the sum over all layers of a number that may differ by layer."""
        value = self.metadata.get(f"{self.architecture}.{key}")
        if isinstance(value, tuple):
            numbers = [n for n in value if isinstance(n, int) and not isinstance(n, bool)]
            return sum(n for n in numbers if 0 <= n <= _MOST)
        return layers * self[key]


def _cached(header: _Header) -> tuple[int, int]:
    """Returns the elements of keys and values that the cache has for each token."""
    if header.architecture in _RECURRENT:
        return 0, 0
    if header.metadata.get(f"{header.architecture}.attention.causal") is False:
        return 0, 0  # an encoder keeps nothing
    layers = _attention_layers(header)
    heads = header.total("attention.head_count_kv", layers)
    heads = heads or header.total("attention.head_count", layers)
    if header["attention.kv_lora_rank"] and header["attention.key_length_mla"]:
        return layers * header["attention.key_length"], 0  # the values are a part of the keys
    width = header["embedding_length"] // max(1, header["attention.head_count"])
    return (
        heads * (header["attention.key_length"] or width),
        heads * (header["attention.value_length"] or width),
    )


def _attention_layers(header: _Header) -> int:
    """Returns the layers with attention; of some hybrids, each so manieth has it."""
    return header["block_count"] // max(1, header["full_attention_interval"])


def _state(header: _Header) -> int:
    inner, size = header["ssm.inner_size"], header["ssm.state_size"]
    layers = header["block_count"]
    if header["full_attention_interval"]:
        layers -= _attention_layers(header)
    kept = max(0, header["ssm.conv_kernel"] - 1) * (inner + 2 * header["ssm.group_count"] * size)
    return _F32 * layers * (kept + size * inner)
