"""Makes the bytes of GGUF files, right ones and wrong ones, with nothing checked on the way."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
CODES = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?",
         U64: "Q", I64: "q", F64: "d"}  # fmt: skip

Vocabulary = tuple[list[bytes], list[bytes]]


def string(text: bytes | str) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def scalar(key: bytes | str, kind: int, value: float) -> bytes:
    return string(key) + struct.pack(f"<I{CODES[kind]}", kind, value)


def text(key: bytes | str, value: bytes | str) -> bytes:
    return string(key) + struct.pack("<I", STRING) + string(value)


def array(key: bytes | str, kind: int, values: Sequence[float]) -> bytes:
    return array_head(key, kind, len(values)) + struct.pack(f"<{len(values)}{CODES[kind]}", *values)


def strings(key: bytes | str, values: Sequence[bytes | str]) -> bytes:
    return array_head(key, STRING, len(values)) + b"".join(map(string, values))


def array_head(key: bytes | str, kind: int, count: int) -> bytes:
    return string(key) + struct.pack("<IIQ", ARRAY, kind, count)


def tensor(name: bytes | str, shape: Sequence[int], kind: int = 0, offset: int = 0) -> bytes:
    return (
        string(name)
        + struct.pack("<I", len(shape))
        + struct.pack(f"<{len(shape)}Q", *shape)
        + struct.pack("<IQ", kind, offset)
    )


def header(
    keys: Sequence[bytes] = (),
    tensors: Sequence[bytes] = (),
    *,
    version: int = 3,
    n_keys: int | None = None,
    n_tensors: int | None = None,
) -> bytes:
    """Everything before the padding; the counts are the true ones unless they are given."""
    counts = (
        len(tensors) if n_tensors is None else n_tensors,
        len(keys) if n_keys is None else n_keys,
    )
    return b"GGUF" + struct.pack("<IQQ", version, *counts) + b"".join([*keys, *tensors])


def padded(raw: bytes, alignment: int = 32) -> bytes:
    return raw + bytes(-len(raw) % alignment)


@dataclass(frozen=True)
class Block:
    """Float tensors one behind the other, all of the same shape."""

    count: int = 3
    shape: tuple[int, ...] = (8, 4)

    @property
    def infos(self) -> list[bytes]:
        return [
            tensor(f"blk.{i}.attn_q.weight", self.shape, 0, i * self.size)
            for i in range(self.count)
        ]

    @property
    def size(self) -> int:
        """Bytes of one tensor with its padding."""
        elements = 1
        for dimension in self.shape:
            elements *= dimension
        return -(-4 * elements // 32) * 32

    @property
    def data(self) -> bytes:
        return b"\xa5" * (self.count * self.size)


def model(keys: Sequence[bytes] = (), block: Block | None = None) -> bytes:
    """A whole, valid file."""
    block = block or Block()
    return padded(header(keys, block.infos)) + block.data


def vocabulary(random: Random, n_tokens: int, n_merges: int) -> Vocabulary:
    """Tokens and merges of a usual length, some of which are not UTF-8 by themselves."""
    letters = b"etaoinshrdlu ETA.,xyz\xc4\xa0(kgmbp0123"
    tokens = [bytes(random.choices(letters, k=random.randint(1, 12))) for _ in range(n_tokens)]
    merges = [bytes(random.choices(letters, k=random.randint(5, 21))) for _ in range(n_merges)]
    return tokens, merges


def tokenizer_keys(vocabulary: Vocabulary, *, behind: Sequence[bytes] = ()) -> list[bytes]:
    """The keys of a byte-pair tokenizer in the order in which converters write them."""
    tokens, merges = vocabulary
    return [
        text("general.architecture", "qwen3"),
        scalar("qwen3.context_length", U32, 40_960),
        text("tokenizer.ggml.model", "gpt2"),
        strings("tokenizer.ggml.tokens", tokens),
        array("tokenizer.ggml.token_type", I32, [1] * len(tokens)),
        array("tokenizer.ggml.scores", F32, [0.5] * len(tokens)),
        strings("tokenizer.ggml.merges", merges),
        *behind,
    ]


ENDING = (
    scalar("tokenizer.ggml.bos_token_id", U32, 1),
    text("tokenizer.chat_template", "{% for m in messages %}…{% endfor %}"),
    scalar("general.quantization_version", U32, 2),
)
"""Keys that stand behind the merges in most files."""
