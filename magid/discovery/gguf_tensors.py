"""Tensors of a GGUF file: sizes of their types, sums, and consistency checks. Pure."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Final, TypeAlias

from msgspec import Struct, field

from magid.errors import GgufError

_MAX_ELEMENTS_OF_TENSOR: Final = 2**63 - 1  # ggml counts in int64
_MAX_TYPE: Final = 1023  # some forks have types of their own from 142 on; higher is damage

TYPE_SIZES: Final[Mapping[int, tuple[int, int]]] = {
    # F32, F16, I8, I16, I32, I64, F64, BF16
    0: (1, 4), 1: (1, 2), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 30: (1, 2),
    # Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q8_1
    2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40),
    # Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, Q8_K
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292),
    # IQ2_XXS, IQ2_XS, IQ3_XXS, IQ1_S, IQ4_NL, IQ3_S, IQ2_S, IQ4_XS, IQ1_M
    16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110),
    22: (256, 82), 23: (256, 136), 29: (256, 56),
    # TQ1_0, TQ2_0, MXFP4, NVFP4, Q1_0
    34: (256, 54), 35: (256, 66), 39: (32, 17), 40: (64, 36), 41: (128, 18),
}  # fmt: skip
"""ggml type id -> (elements per block, bytes per block); from ggml's type_traits."""

_ROUTED_EXPERT: Final = re.compile(rb"\.ffn_(?:gate|up|down|gate_up)_exps")

_NEXTN: Final = b".nextn."

_SHOWN: Final = 64  # bytes of a name: GGML_MAX_NAME

Tensor: TypeAlias = tuple[bytes, int, int, int | None, int]
"""Name, elements, type, bytes of data (None: the type is unknown), offset."""


class TensorSums(Struct):
    parameters: int = 0
    routed: int = 0
    by_type: dict[int, int] = field(default_factory=dict)
    known_bytes: int = 0
    embedding_bytes: int = 0  # of token_embd.weight
    output_bytes: int = 0  # of output.weight
    end: int = 0  # of the data, relative to its start
    seamless: bool = True  # all types are known, and each tensor begins where the previous ended
    sized: bool = True  # all types are known
    has_nextn: bool = False  # layers that predict further tokens (MTP)


def data_size(name: bytes, row: int, elements: int, kind: int) -> int | None:
    """Returns the bytes of a tensor's data; None for an unknown type. Raises GgufError.

    A type newer than the table must not make a file unusable; but then truncation of the file may
    go unnoticed.
    """
    if elements > _MAX_ELEMENTS_OF_TENSOR:
        raise GgufError(f"is damaged: the tensor {shown(name)} has {elements} elements")
    if (sizes := TYPE_SIZES.get(kind)) is None:
        if kind > _MAX_TYPE:
            raise GgufError(f"is damaged: the tensor {shown(name)} has the unknown type {kind}")
        return None
    block, block_bytes = sizes
    if row % block:
        raise GgufError(f"is damaged: the tensor {shown(name)} has rows with incomplete blocks")
    return elements // block * block_bytes


def add_up(infos: list[Tensor], alignment: int) -> TensorSums:
    """Checks the tensors against each other and adds them up. Raises GgufError."""
    tensors = TensorSums()
    by_type, end = tensors.by_type, 0
    for name, elements, kind, size, offset in infos:
        if offset % alignment:
            raise GgufError(f"is damaged: the tensor {shown(name)} is not aligned")
        by_type[kind] = by_type.get(kind, 0) + elements
        if offset != pad(end, alignment) or size is None:
            tensors.seamless = False
        end = max(end, offset + (size or 0))
        if name == b"token_embd.weight":
            tensors.embedding_bytes = size or 0
        elif name == b"output.weight":
            tensors.output_bytes = size or 0
        if b"_exps" in name and _ROUTED_EXPERT.search(name):
            tensors.routed += elements
        if _NEXTN in name:
            tensors.has_nextn = True
    if len({info[0] for info in infos}) < len(infos):
        [(name, _)] = Counter(info[0] for info in infos).most_common(1)
        raise GgufError(f"is damaged: it has the tensor {shown(name)} twice")
    tensors.parameters = sum(by_type.values())
    tensors.sized = all(kind in TYPE_SIZES for kind in by_type)
    tensors.known_bytes = sum(info[3] or 0 for info in infos)
    tensors.end = end
    if tensors.known_bytes > end:  # otherwise a small file could claim any size
        raise GgufError("is damaged: its tensors overlap")
    return tensors


def pad(value: int, alignment: int) -> int:
    return (value + alignment - 1) & -alignment


def shown(raw: bytes) -> str:
    """Returns a name for a message: quoted, shortened, without control characters."""
    more = "..." if len(raw) > _SHOWN else ""
    return ascii(raw[:_SHOWN].decode(errors="backslashreplace")) + more
