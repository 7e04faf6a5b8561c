"""Writes pairs and tensors as GGUF files, with the types that llama.cpp wants."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.quants import quantize

_WEIGHTS = {"F32", "F16", "Q8_0", "Q4_0"}  # what the gguf package can make of random numbers

type_of = gguf.GGUFValueType
_KINDS = {  # what llama.cpp wants otherwise than the value itself suggests
    "split.no": type_of.UINT16,
    "split.count": type_of.UINT16,
    "split.tensors.count": type_of.INT32,
    "tokenizer.ggml.token_type": type_of.INT32,
}


def encoded_weights(
    weights: Mapping[str, np.ndarray], quantization: str
) -> dict[str, tuple[np.ndarray, gguf.GGMLQuantizationType]]:
    """The tensors as they are stored; norms and the like always in F32, as converters do."""
    if quantization not in _WEIGHTS:
        raise ValueError(f"cannot make weights of {quantization}, only of {sorted(_WEIGHTS)}")
    encoded = {}
    for name, array in weights.items():
        small = array.ndim == 1 or array.shape[-1] % 32 != 0
        kind = gguf.GGMLQuantizationType["F32" if small else quantization]
        encoded[name] = (quantize(array.astype(np.float32), kind), kind)
    return encoded


def write_file(
    path: Path,
    pairs: Mapping[str, object],
    tensors: Mapping[str, tuple[np.ndarray, gguf.GGMLQuantizationType]],
) -> Path:
    writer = writer_of(path, pairs)
    for name, (array, kind) in tensors.items():
        writer.add_tensor(name, array, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def writer_of(path: Path, pairs: Mapping[str, object]) -> gguf.GGUFWriter:
    """A writer that knows these pairs; the architecture is one of them, or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    architecture = str(pairs.get("general.architecture", ""))
    writer = gguf.GGUFWriter(path, architecture)
    writer.kv_data[0].clear()
    for key, value, kind, part in _typed(pairs):
        writer.add_key_value(key, value, kind, sub_type=part)
    return writer


def _typed(
    pairs: Mapping[str, object],
) -> Iterator[tuple[str, Any, gguf.GGUFValueType, gguf.GGUFValueType | None]]:
    for key, value in pairs.items():
        if value is None:
            continue
        if isinstance(value, Sequence) and not isinstance(value, str):
            part = type_of.STRING if not value else _KINDS.get(key) or _value_type(value[0])
            yield key, list(value), type_of.ARRAY, part
        else:
            yield key, value, _KINDS.get(key) or _value_type(value), None


def _value_type(value: object) -> gguf.GGUFValueType:
    match value:
        case bool():
            return type_of.BOOL
        case int():
            if value < 0:
                return type_of.INT32
            return type_of.UINT32 if value < 2**32 else type_of.UINT64
        case float():
            return type_of.FLOAT32
        case str():
            return type_of.STRING
        case _:
            raise TypeError(f"cannot store a {type(value).__name__} in a GGUF file")


def padded(size: int) -> int:
    return -size % 32 + size  # GGUF's default alignment
