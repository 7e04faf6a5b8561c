"""Parses the header of a GGUF model file: bounded, fast, without other libraries. Pure.

The format is little-endian: magic, version, two counts, key/value pairs, tensor infos, padding,
tensor data (ggml-org/ggml, docs/gguf.md). Versions 2 and 3 have the same layout.

Every count and length comes from the file, so it is checked against a limit and against the size
of the file before it is used. Only `GgufError` is raised. Files are read with pread and not
mapped: a mapped file that another program truncates kills the process with SIGBUS.

What can be trusted. Most of a header is the vocabulary, hundreds of thousands of strings that
magid does not need. Instead of walking them, the reader searches for the next plausible key and
accepts the result only if the whole header is then consistent: the exact number of keys, all of
them well-formed and unique, the exact number of tensors, their data without a gap from the end of
the header to the end of the file, and no further key after it. Otherwise it walks string by
string. A token that merely contains the text of a key is never accepted, because the next 8 bytes
would have to be the length of the next key. A crafted file, with a second header inside a token,
can be. All that gains its author is labels (name, template, parameter count) other than those that
llama.cpp shows, which the plain header could have had as well. So the labels may be used to list
and sort models, but no argv, limit or sandbox may depend on them.
"""

import struct
from collections.abc import Mapping
from itertools import repeat
from math import prod
from typing import Final, TypeAlias

from msgspec import Struct, field

from magid.discovery.gguf_strings import (
    MAX_NAME,
    NEEDLES,
    TOKEN_BYTES,
    U32,
    U64,
    Cursor,
    Jump,
    ShortError,
    next_key,
    skip_strings,
)
from magid.discovery.gguf_tensors import Tensor, add_up, data_size, pad, shown
from magid.errors import GgufError
from magid.wording.counts import counted

Value: TypeAlias = "bool | int | float | str | tuple[Value, ...]"


ARRAY_LIMIT: Final = 1024
"""Longer arrays are counted but not kept; per-layer settings have one element per layer."""

_MAX_KEYS: Final = 4096  # real files have 20 to 60
_MAX_TENSORS: Final = 65_536  # the biggest real models have about 2,000
_MAX_STRING: Final = 1 << 20  # one value; chat templates and licences have up to 100 KiB
_MAX_TEXT: Final = 8 << 20  # all values together: decoded text can take 4 times its bytes
_MAX_ELEMENTS: Final = 65_536  # kept array elements of one file: an int takes 36 bytes, not 1
_MAX_DIMS: Final = 4  # GGML_MAX_DIMS
_DEFAULT_ALIGNMENT: Final = 32
_COUNTS: Final = struct.Struct("<QQ")
_TENSOR_TAIL: Final = {n: struct.Struct(f"<{n}QIQ") for n in range(1, _MAX_DIMS + 1)}
_MIN_KEY: Final = 14  # length, one letter, type, one byte
_MIN_TENSOR: Final = 33  # length, one letter, dimension count, one dimension, type, offset


_UINT32, _STRING, _ARRAY = 4, 8, 9
_SCALARS: Final = {
    0: "B", 1: "b", 2: "H", 3: "h", _UINT32: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"
}  # fmt: skip
_SCALAR_LAYOUT: Final = {kind: struct.Struct("<" + code) for kind, code in _SCALARS.items()}


class GgufHeader(Struct, frozen=True):
    """The header of one file. A shard's header covers that shard only; the caller adds them up.

    Invalid UTF-8 in text is replaced by U+FFFD; floats can be NaN or infinite.
    """

    version: int
    metadata: Mapping[str, Value]  # without arrays of more than ARRAY_LIMIT elements
    array_lengths: Mapping[str, int]  # of every array, kept or not
    tensor_count: int  # 0 in a first shard that holds only metadata
    parameter_count: int  # elements of all tensors
    routed_expert_parameter_count: int  # those in experts that the router chooses from
    type_elements: Mapping[int, int]  # ggml type id -> elements
    tensor_bytes: int  # without padding; if a type is unknown, all bytes after the header
    header_bytes: int  # offset of the tensor data, a multiple of the alignment
    has_nextn: bool = False  # tensors of layers that predict further tokens (MTP)
    embedding_bytes: int = 0  # of token_embd.weight
    output_bytes: int = 0  # of output.weight


class GgufHead(Struct, frozen=True):
    """The content of a file's first 16 KiB: enough to list it before the whole header is read."""

    version: int
    metadata: Mapping[str, Value]  # the pairs that are complete in those bytes
    tensor_count: int


def bits_per_weight(header: GgufHeader) -> float:
    """Returns the average of bits per parameter; 0.0 for a file without parameters."""
    if not header.parameter_count:
        return 0.0
    return 8 * header.tensor_bytes / header.parameter_count


def parse_header(data: bytes, file_size: int, *, exact: bool = False) -> GgufHeader:
    """Parses the first bytes of a file that is `file_size` bytes long. Pure.

    With `exact` it walks every string. Otherwise it jumps over long string arrays, as the module's
    docstring describes, and walks only if the result is not consistent. Raises GgufError, and its
    subclass ShortError if `data` does not contain the whole header.
    """
    jump = None if exact else Jump()
    try:
        header, sure = _parse(Cursor(data, file_size), jump)
    except ShortError:
        raise
    except GgufError:
        if jump is None or not jump.used:
            raise
        sure = False
    else:
        if jump is None or not jump.used or sure:
            return header
    return _parse(Cursor(data, file_size), None)[0]


class Metadata(Struct):
    """The metadata found so far, and the size of what is kept."""

    values: dict[str, Value] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    text: int = 0  # bytes
    elements: int = 0


def _parse(cursor: Cursor, jump: Jump | None) -> tuple[GgufHeader, bool]:
    """Returns the header, and whether it is consistent, so that its jumps were right.

    A crafted file can be consistent and still mislead; see the module's docstring.
    """
    version, tensor_count, key_count = preamble(cursor)
    found = Metadata()
    key_values(cursor, key_count, found, jump)
    alignment = _alignment(found.values)
    tensors = add_up(_tensor_infos(cursor, tensor_count), alignment)
    start = pad(cursor.pos, alignment)
    beyond = cursor.file_size - (start + tensors.end)
    if tensor_count and beyond < 0:
        raise GgufError(f"is truncated: {counted(-beyond, 'byte is', 'bytes are')} missing")
    header = GgufHeader(
        version=version,
        metadata=found.values,
        array_lengths=found.lengths,
        tensor_count=tensor_count,
        parameter_count=tensors.parameters,
        routed_expert_parameter_count=tensors.routed,
        type_elements=tensors.by_type,
        tensor_bytes=tensors.known_bytes if tensors.sized else cursor.file_size - start,
        header_bytes=start,
        has_nextn=tensors.has_nextn,
        embedding_bytes=tensors.embedding_bytes,
        output_bytes=tensors.output_bytes,
    )
    fits = tensors.seamless and beyond < alignment
    return header, fits and not _key_follows(cursor, jump)


def _key_follows(cursor: Cursor, jump: Jump | None) -> bool:
    """Whether there is a key after the supposed end, which may then be inside a token."""
    if jump is None or not jump.used:
        return False
    return next_key(cursor.data, cursor.pos, NEEDLES[0]) is not None


def preamble(cursor: Cursor) -> tuple[int, int, int]:
    """Returns version, tensor count and key count; checks both counts for plausibility."""
    _check_magic(cursor.data)
    cursor.pos = 4
    (version,) = cursor.take(U32)
    _check_version(version)
    tensor_count, key_count = cursor.take(_COUNTS)
    for count, limit, what in (
        (key_count, _MAX_KEYS, "keys"),
        (tensor_count, _MAX_TENSORS, "tensors"),
    ):
        if count > limit:
            raise GgufError(f"is damaged: it claims {count} {what}; the limit is {limit}")
    least = cursor.pos + key_count * _MIN_KEY + tensor_count * _MIN_TENSOR
    if least > cursor.file_size:
        cursor.need(least)
    return version, tensor_count, key_count


def _check_magic(data: bytes) -> None:
    if not data:
        raise GgufError("is empty")
    if data.startswith(b"version https://git-lfs"):
        raise GgufError("is a Git LFS pointer; `git lfs pull` downloads the file itself")
    if not b"GGUF".startswith(data[:4]):
        raise GgufError(f"is not a GGUF file: it starts with {data[:8]!r}")


def _check_version(version: int) -> None:
    if version in (2, 3):
        return
    if version and version & 0xFFFF == 0:  # a small number with its bytes reversed
        raise GgufError("is a big-endian GGUF file; convert it for a little-endian machine")
    hint = "convert the model again" if version < 2 else "a newer magid may read it"
    raise GgufError(f"is GGUF version {version}, and only 2 and 3 can be read; {hint}")


def key_values(cursor: Cursor, count: int, found: Metadata, jump: Jump | None) -> None:
    for _ in range(count):
        key = _key(cursor)
        if key in found.values or key in found.lengths:
            raise GgufError(f"is damaged: it has the key {key!r} twice")
        (kind,) = cursor.take(U32)
        if key == "general.alignment" and kind != _UINT32:
            raise GgufError("is damaged: general.alignment is not a 32-bit number")
        if kind == _ARRAY:
            _array(cursor, key, found, jump)
        elif kind == _STRING:
            found.values[key] = _text(cursor, key, found)
        elif kind in _SCALAR_LAYOUT:
            (found.values[key],) = cursor.take(_SCALAR_LAYOUT[kind])
        else:
            raise GgufError(f"is damaged: the value of {key!r} has the unknown type {kind}")


def _key(cursor: Cursor) -> str:
    raw = cursor.string(MAX_NAME, "a key")
    if not raw:
        raise GgufError("is damaged: a key is empty")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise GgufError(f"is damaged: the key {shown(raw)} is not UTF-8") from None


def _text(cursor: Cursor, key: str, found: Metadata) -> str:
    raw = cursor.string(_MAX_STRING, f"the text of {key!r}")
    found.text += len(raw)
    if found.text > _MAX_TEXT:
        raise GgufError(f"has more than {_MAX_TEXT >> 20} MiB of text in its header")
    return raw.decode(errors="replace")


def _array(cursor: Cursor, key: str, found: Metadata, jump: Jump | None) -> None:
    (kind,) = cursor.take(U32)
    (count,) = cursor.take(U64)
    if kind != _STRING and kind not in _SCALARS:
        what = "holds arrays" if kind == _ARRAY else f"has elements of the unknown type {kind}"
        raise GgufError(f"is damaged: the array {key!r} {what}")
    least = 8 if kind == _STRING else _SCALAR_LAYOUT[kind].size
    guess = cursor.pos + count * TOKEN_BYTES if kind == _STRING else 0
    cursor.need(cursor.pos + count * least, guess)
    if count <= ARRAY_LIMIT:
        found.values[key] = _short_array(cursor, key, kind, count, found)
    elif kind == _STRING:
        skip_strings(cursor, count, jump)
    else:
        cursor.pos += count * least
    found.lengths[key] = count


def _short_array(
    cursor: Cursor, key: str, kind: int, count: int, found: Metadata
) -> tuple[Value, ...]:
    found.elements += count
    if found.elements > _MAX_ELEMENTS:
        raise GgufError(f"has more than {_MAX_ELEMENTS} elements in its short arrays")
    if kind == _STRING:
        return tuple(_text(cursor, key, found) for _ in range(count))
    return cursor.take(struct.Struct(f"<{count}{_SCALARS[kind]}"))


def _alignment(values: Mapping[str, Value]) -> int:
    alignment = values.get("general.alignment", _DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise GgufError(f"is damaged: its alignment {alignment} is not a power of two")
    return alignment


def _tensor_infos(cursor: Cursor, count: int) -> list[Tensor]:
    """Reads `count` tensor infos; each is checked by itself."""
    data, pos = cursor.data, cursor.pos
    length_at, dimensions_at = U64.unpack_from, U32.unpack_from
    infos = []
    try:
        for _ in repeat(None, count):
            (length,) = length_at(data, pos)
            if length > MAX_NAME:
                raise GgufError(f"is damaged: a tensor's name has {length} bytes")
            name = data[pos + 8 : pos + 8 + length]
            pos += 8 + length
            (dimensions,) = dimensions_at(data, pos)
            if (layout := _TENSOR_TAIL.get(dimensions)) is None:
                raise GgufError(
                    f"is damaged: the tensor {shown(name)} has {counted(dimensions, 'dimension')}"
                )
            *shape, kind, offset = layout.unpack_from(data, pos + 4)
            pos += 4 + layout.size
            elements = prod(shape)
            infos.append((name, elements, kind, data_size(name, shape[0], elements, kind), offset))
    except struct.error:
        cursor.need(len(data) + 1)
    cursor.pos = pos
    return infos
