"""The header reader against the gguf package's own."""

import struct
import tempfile
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from magid.discovery.gguf_file import HEAD_BYTES, read_head, read_header
from magid.discovery.gguf_format import (
    ARRAY_LIMIT,
    GgufHeader,
    Value,
    bits_per_weight,
    parse_header,
)
from magid.discovery.gguf_tensors import TYPE_SIZES
from magid.errors import GgufError
from tests.support import gguf_bytes as raw

Kind = gguf.GGUFValueType
Quant = gguf.GGMLQuantizationType
QUIET = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def parse(data: bytes, *, exact: bool = False) -> GgufHeader:
    return parse_header(data, len(data), exact=exact)


# --- the gguf package as oracle -----------------------------------------------------------------


def _integers(bits: int, *, signed: bool) -> st.SearchStrategy[int]:
    if signed:
        return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return st.integers(0, 2**bits - 1)


SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    Kind.UINT8: _integers(8, signed=False),
    Kind.INT8: _integers(8, signed=True),
    Kind.UINT16: _integers(16, signed=False),
    Kind.INT16: _integers(16, signed=True),
    Kind.UINT32: _integers(32, signed=False),
    Kind.INT32: _integers(32, signed=True),
    Kind.UINT64: _integers(64, signed=False),
    Kind.INT64: _integers(64, signed=True),
    Kind.FLOAT32: st.floats(width=32),
    Kind.FLOAT64: st.floats(),
    Kind.BOOL: st.booleans(),
    Kind.STRING: st.text(st.characters(codec="utf-8"), max_size=40),
}


@dataclass(frozen=True)
class Entry:
    kind: Any
    value: Any
    element: Any = None  # the type of an array's elements


ENTRIES = st.sampled_from(sorted(SCALARS)).flatmap(
    lambda kind: st.one_of(
        SCALARS[kind].map(lambda value: Entry(kind, value)),
        st.lists(SCALARS[kind], min_size=1, max_size=8).map(
            lambda values: Entry(Kind.ARRAY, values, kind)
        ),
    )
)
KEYS = st.from_regex(r"[a-z][a-z0-9_]{0,8}(\.[a-z0-9_]{1,8}){1,3}", fullmatch=True).filter(
    lambda key: key not in ("general.alignment", "general.architecture")
)
SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=4)  # in blocks along the row
TENSORS = st.dictionaries(
    st.from_regex(r"blk\.[0-9]\.(ffn_gate_exps|ffn_up_shexp|attn_q)\.weight", fullmatch=True),
    st.tuples(st.sampled_from(sorted(GGML_QUANT_SIZES)), SHAPES),
    max_size=6,
)
TYPES_OF_NUMPY = {
    Quant.F32: np.float32, Quant.F16: np.float16, Quant.F64: np.float64, Quant.I8: np.int8,
    Quant.I16: np.int16, Quant.I32: np.int32, Quant.I64: np.int64,
}  # fmt: skip


def _zeros(kind: Any, blocks: list[int]) -> Any:
    """The data of a tensor, as the writer wants it: bytes where numpy has no such type."""
    *rows, row = blocks
    if kind in TYPES_OF_NUMPY:
        return np.zeros(blocks, TYPES_OF_NUMPY[kind])
    return np.zeros([*rows, row * GGML_QUANT_SIZES[kind][1]], np.uint8)


def _write(path: Path, entries: dict[str, Entry], tensors: dict[str, Any]) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    for key, entry in entries.items():
        writer.add_key_value(key, entry.value, entry.kind, entry.element)
    for name, (kind, blocks) in tensors.items():
        writer.add_tensor(
            name, _zeros(kind, blocks), raw_dtype=None if kind in TYPES_OF_NUMPY else kind
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _plain(value: Any) -> Value:
    return tuple(value) if isinstance(value, list) else value


@QUIET
@given(
    entries=st.dictionaries(KEYS, ENTRIES, max_size=12),
    tensors=TENSORS,
    version=st.sampled_from([2, 3]),
)
def test_reads_what_the_gguf_package_reads(
    entries: dict[str, Entry], tensors: dict[str, Any], version: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        _write(path, entries, tensors)
        with path.open("r+b") as file:
            file.seek(4)
            file.write(struct.pack("<I", version))
        oracle = gguf.GGUFReader(path)
        header = read_header(path)
        head = read_head(path)
    expected = {
        key: _plain(field.contents())
        for key, field in oracle.fields.items()
        if not key.startswith("GGUF.")
    }
    # repr: it tells 1 from True and 0.0 from -0.0, and is the same for every NaN
    assert repr(header.metadata) == repr(expected)
    assert list(header.metadata) == ["general.architecture", *entries]
    assert header.version == head.version == version
    assert header.tensor_count == head.tensor_count == len(oracle.tensors)
    assert header.parameter_count == sum(int(t.n_elements) for t in oracle.tensors)
    assert header.tensor_bytes == sum(int(t.n_bytes) for t in oracle.tensors)
    assert header.header_bytes == oracle.data_offset
    assert header.routed_expert_parameter_count == sum(
        int(t.n_elements) for t in oracle.tensors if "ffn_gate_exps" in t.name
    )
    if len(repr(expected)) < HEAD_BYTES // 8:
        assert repr(head.metadata) == repr(expected)


def test_sizes_of_types_are_those_of_the_gguf_package() -> None:
    assert {int(kind): sizes for kind, sizes in GGML_QUANT_SIZES.items()} == TYPE_SIZES


# --- what a header says --------------------------------------------------------------------------


def test_counts_of_a_mixture_of_experts() -> None:
    shapes = {
        "token_embd.weight": (64, 100),
        "blk.0.ffn_gate_inp.weight": (64, 8),
        "blk.0.ffn_gate_exps.weight": (64, 32, 8),
        "blk.0.ffn_up_exps.weight": (64, 32, 8),
        "blk.0.ffn_down_exps.weight": (32, 64, 8),
        "blk.1.ffn_gate_up_exps.weight": (64, 64, 8),
        "blk.1.ffn_down_exps.bias": (64, 8),
        "blk.0.ffn_gate_shexp.weight": (64, 32),
    }
    infos, offset = [], 0
    for name, shape in shapes.items():
        infos.append(raw.tensor(name, shape, 0, offset))
        offset += -(-4 * prod(shape) // 32) * 32
    header = parse(raw.padded(raw.header((), infos)) + bytes(offset))
    assert header.parameter_count == sum(map(prod, shapes.values()))
    assert header.routed_expert_parameter_count == 3 * 64 * 32 * 8 + 64 * 64 * 8 + 64 * 8


def test_bits_per_weight_are_those_of_all_tensors() -> None:
    infos = [raw.tensor("a", (256, 2), 12, 0), raw.tensor("b", (32,), 0, 288)]
    header = parse(raw.padded(raw.header((), infos)) + bytes(288 + 128))
    assert header.type_elements == {12: 512, 0: 32}
    assert header.tensor_bytes == 288 + 128
    assert bits_per_weight(header) == (288 + 128) * 8 / 544


@pytest.mark.parametrize("padding", [0, 1, 31])
def test_a_shard_can_hold_the_metadata_alone(padding: int) -> None:
    header = parse(raw.header([raw.scalar("split.count", raw.U16, 3)]) + bytes(padding))
    assert header.tensor_count == header.parameter_count == header.tensor_bytes == 0
    assert header.metadata == {"split.count": 3}
    assert bits_per_weight(header) == 0.0


@pytest.mark.parametrize("kind", [42, 142])
def test_a_type_it_does_not_know_leaves_the_model_usable(kind: int) -> None:
    infos = [raw.tensor("a", (100,), kind, 0), raw.tensor("b", (8,), 0, 64)]
    header = parse(raw.padded(raw.header((), infos)) + bytes(96))
    assert header.parameter_count == 108
    assert header.type_elements == {kind: 100, 0: 8}
    assert header.tensor_bytes == 96


@pytest.mark.parametrize(("count", "kept"), [(0, True), (1, True), (1024, True), (1025, False)])
@pytest.mark.parametrize("of_strings", [False, True])
def test_long_arrays_are_counted_and_not_kept(*, count: int, kept: bool, of_strings: bool) -> None:
    assert ARRAY_LIMIT == 1024
    values = (
        raw.strings("a.b", ["x"] * count) if of_strings else raw.array("a.b", raw.U64, [7] * count)
    )
    header = parse(raw.model([values, raw.text("a.c", "behind")]))
    element = "x" if of_strings else 7
    assert header.array_lengths == {"a.b": count}
    assert header.metadata == ({"a.b": (element,) * count} if kept else {}) | {"a.c": "behind"}


def test_text_that_is_not_utf8_is_marked_and_not_refused() -> None:
    header = parse(raw.model([raw.text("general.name", b"ol\xe9"), raw.strings("a.b", [b"\xff"])]))
    assert header.metadata == {"general.name": "ol\ufffd", "a.b": ("\ufffd",)}


@pytest.mark.parametrize("alignment", [1, 8, 64, 4096])
def test_alignment_moves_the_data(alignment: int) -> None:
    keys = [raw.scalar("general.alignment", raw.U32, alignment)]
    start = raw.padded(raw.header(keys, raw.Block(1).infos), alignment)
    header = parse(start + raw.Block(1).data)
    assert header.header_bytes == len(start)


def test_a_bool_is_true_if_it_is_not_zero() -> None:
    keys = [raw.string(f"a.b{i}") + struct.pack("<IB", raw.BOOL, i) for i in range(3)]
    assert parse(raw.model(keys)).metadata == {"a.b0": False, "a.b1": True, "a.b2": True}


# --- the first 16 KiB ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "known"),
    [
        ([raw.text("a.a", "x"), raw.text("a.b", "y" * HEAD_BYTES), raw.text("a.c", "z")], ["a.a"]),
        ([raw.text("a.a", "x"), raw.strings("a.b", ["y"] * 5000)], ["a.a"]),
        ([raw.text("a.a", "x"), raw.array("a.b", raw.F32, [0.0] * 5000)], ["a.a"]),
        ([raw.text("a.a", "x"), raw.strings("a.b", [""] * 1500), raw.text("a.c", "z")],
         ["a.a", "a.c"]),
    ],
    ids=["text", "strings", "numbers", "fits"],
)  # fmt: skip
def test_head_is_what_came_before_the_first_that_did_not_fit(
    tmp_path: Path, keys: list[bytes], known: list[str]
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(raw.model(keys))
    head = read_head(path)
    assert list(head.metadata) == known
    assert (head.version, head.tensor_count) == (3, 3)


# --- damage --------------------------------------------------------------------------------------

SMALL = [
    raw.scalar("general.alignment", raw.U32, 32),
    raw.text("general.name", "tiny"),
    raw.strings("a.words", ["one", "two"]),
    raw.array("a.numbers", raw.I16, [1, -1]),
    raw.scalar("a.flag", raw.BOOL, 1),
]


def test_every_part_of_a_file_is_truncated(tmp_path: Path) -> None:
    whole = raw.model(SMALL)
    for length in range(1, len(whole)):
        with pytest.raises(GgufError, match=r"^is truncated: .*\d+ (byte is|bytes are) missing"):
            parse(whole[:length])
    path = tmp_path / "model.gguf"
    path.write_bytes(whole[:-5])
    with pytest.raises(GgufError, match=r"^is truncated: 5 bytes are missing$"):
        read_header(path)


@pytest.mark.parametrize("flip", [0xFF, 0x01, 0x80])
def test_any_wrong_byte_gives_a_header_or_a_reason(flip: int) -> None:
    whole = bytearray(raw.model(SMALL))
    refused = 0
    for at in range(len(whole) - len(raw.Block().data)):
        whole[at] ^= flip
        try:
            assert isinstance(parse(bytes(whole)), GgufHeader)
        except GgufError as error:
            refused += bool(str(error))
        whole[at] ^= flip
    assert refused > 100


# --- headers that are longer than what is read at once -------------------------------------------


@pytest.mark.parametrize("behind", [raw.ENDING, ()], ids=["keys behind", "nothing behind"])
@pytest.mark.parametrize(("tokens", "merges"), [(40_000, 30_000), (20_000, 200_000)])
def test_long_headers_of_big_files(
    tmp_path: Path, tokens: int, merges: int, behind: tuple[bytes, ...]
) -> None:
    block = raw.Block(2, (1 << 20, 512))  # 4 GiB, all of it a hole
    vocabulary = ([b"token"] * tokens, [b"to ken"] * merges)
    start = raw.padded(raw.header(raw.tokenizer_keys(vocabulary, behind=behind), block.infos))
    path = tmp_path / "model.gguf"
    with path.open("wb") as file:
        file.write(start)
        file.truncate(len(start) + 2 * block.size)
    header = read_header(path)
    assert header == parse_header(start, path.stat().st_size, exact=True)
    assert header.array_lengths["tokenizer.ggml.merges"] == merges
    assert header.parameter_count == 2 * (1 << 20) * 512
