"""What a broken or hostile file gets from the header reader: its reason, in little memory."""

import os
import re
import socket
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from magid.discovery.gguf_file import HEADER_LIMIT, read_head, read_header
from magid.discovery.gguf_format import GgufHead, GgufHeader, parse_header
from magid.errors import GgufError
from tests.support import gguf_bytes as raw

MIB = 1 << 20
NOBODY = 65_534


def _model(*keys: bytes) -> bytes:
    return raw.model(keys)


def _file_of(*tensors: bytes, behind: int = 4096) -> bytes:
    return raw.padded(raw.header((), tensors)) + bytes(behind)


def _tensor_of(dimensions: int) -> bytes:
    return raw.string("t") + struct.pack("<I", dimensions) + struct.pack("<4QIQ", *[1] * 6)


FILES: dict[str, tuple[bytes, str]] = {
    # what is not GGUF, or not one that is read
    "empty": (b"", "is empty"),
    "zip": (b"PK\3\4" + bytes(40), "is not a GGUF file: it starts with b'PK"),
    "zeros": (bytes(4096), r"is not a GGUF file: it starts with b'\x00"),
    "page": (b"<!DOCTYPE html>", "is not a GGUF file: it starts with b'<!DOCTYP'"),
    "git lfs": (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
    "magic alone": (b"GGUF", "is truncated: at least 4 bytes are missing"),
    "part of the magic": (b"GG", "is truncated"),
    "version 0": (raw.header(version=0), "is GGUF version 0"),
    "version 1": (raw.header(version=1), "version 1, and only 2 and 3 can be read; convert"),
    "version 4": (raw.header(version=4), "version 4, and only 2 and 3 can be read; a newer magid"),
    "big endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "is a big-endian GGUF file"),
    # counts
    "2^63 keys": (raw.header(n_keys=2**63), "claims 9223372036854775808 keys"),
    "2^64-1 tensors": (raw.header(n_tensors=2**64 - 1), "claims 18446744073709551615 tensors"),
    "4097 keys": (raw.header(n_keys=4097) + bytes(MIB), "claims 4097 keys; the limit is 4096"),
    "65537 tensors": (raw.header(n_tensors=65_537) + bytes(4 * MIB), "claims 65537 tensors"),
    "no keys": (raw.header(n_keys=1), "is truncated: at least 14 bytes are missing"),
    "no tensors": (raw.header(n_tensors=100), "is truncated: at least 3300 bytes are missing"),
    # keys
    "key of 2^62": (raw.header([struct.pack("<Q", 2**62) + bytes(40)]), "a key of 46116860184"),
    "key of 257": (_model(raw.scalar("k" * 257, raw.U8, 1)), "a key of 257 bytes; the limit"),
    "empty key": (_model(raw.scalar("", raw.U8, 1)), "a key is empty"),
    "key not UTF-8": (_model(raw.scalar(b"a\xff\x1b", raw.U8, 1)), r"'a\\xff\x1b' is not UTF-8"),
    "key twice": (_model(raw.text("a.b", "x"), raw.scalar("a.b", raw.U8, 1)), "key 'a.b' twice"),
    "array twice": (
        _model(raw.array("a.b", raw.U8, [0] * 2000), raw.text("a.b", "x")), "key 'a.b' twice"),
    # values
    "type 13": (
        _model(raw.string("a") + struct.pack("<IQQ", 13, 0, 0)), "'a' has the unknown type 13"),
    "type 2^32-1": (
        _model(raw.string("a") + struct.pack("<IQQ", 2**32 - 1, 0, 0)), "unknown type 4294967295"),
    "string of 2^62": (
        _model(raw.string("a") + struct.pack("<IQ", raw.STRING, 2**62)), "the text of 'a' of 46"),
    "string of 2^64-1": (
        _model(raw.string("a") + struct.pack("<IQ", raw.STRING, 2**64 - 1)), "the text of 'a' of"),
    "string over its limit": (_model(raw.text("a", b"x" * (MIB + 1))), "of 1048577 bytes; the"),
    "string over the end": (
        raw.header([raw.string("a") + struct.pack("<IQ", raw.STRING, 10_000)]), "is truncated"),
    "too much text": (
        _model(*(raw.text(f"a{i}", b"x" * MIB) for i in range(9))), "more than 8 MiB of text"),
    # arrays
    "array of arrays": (_model(raw.array_head("a", raw.ARRAY, 1)), "the array 'a' holds arrays"),
    "nested 5000 deep": (
        _model(raw.string("a") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 5000),
        "the array 'a' holds arrays"),
    "array of type 99": (_model(raw.array_head("a", 99, 0)), "has elements of the unknown type 99"),
    "array of 2^40 numbers": (_model(raw.array_head("a", raw.F64, 2**40)), "is truncated: at"),
    "array of 2^61 numbers": (_model(raw.array_head("a", raw.U64, 2**61)), "is truncated: at"),
    "array of 2^64-1 strings": (_model(raw.array_head("a", raw.STRING, 2**64 - 1)), "is truncated"),
    "array of 2^40 strings in 10 MB": (
        raw.header([raw.array_head("a", raw.STRING, 2**40)]) + bytes(10_000_000), "is truncated"),
    "long array with a string of 2^63": (
        raw.header([raw.strings("a", ["x"] * 2000 + [struct.pack("<Q", 2**63)] * 2)[:-32]])
        + struct.pack("<Q", 2**63) + bytes(100), "is truncated"),
    "too many elements": (
        _model(*(raw.array(f"a{i}", raw.U8, [0] * 1024) for i in range(65))), "more than 65536 el"),
    # alignment
    "alignment 0": (_model(raw.scalar("general.alignment", raw.U32, 0)), "its alignment 0 is not"),
    "alignment 33": (_model(raw.scalar("general.alignment", raw.U32, 33)), "alignment 33 is not"),
    "alignment of 64 bits": (
        _model(raw.scalar("general.alignment", raw.U64, 32)), "alignment is not a 32-bit number"),
    "alignment in words": (_model(raw.text("general.alignment", "32")), "is not a 32-bit number"),
    "alignment in an array": (
        _model(raw.array("general.alignment", raw.U32, [32])), "is not a 32-bit number"),
    "alignment beyond the end": (
        raw.model([raw.scalar("general.alignment", raw.U32, 2**31)], raw.Block(1)),
        "is truncated: 21474"),
    # tensors
    "no dimensions": (_file_of(_tensor_of(0)), "the tensor 't' has 0 dimensions"),
    "5 dimensions": (_file_of(_tensor_of(5)), "the tensor 't' has 5 dimensions"),
    "2^32-1 dimensions": (_file_of(_tensor_of(2**32 - 1)), "has 4294967295 dimensions"),
    "2^256 elements": (_file_of(raw.tensor("t", (2**64 - 1,) * 4)), "the tensor 't' has 115792"),
    "product over 2^64": (_file_of(raw.tensor("t", (2**33, 2**33))), "73786976294838206464 elem"),
    "unknown type": (_file_of(raw.tensor("t", (8,), 2**31)), "has the unknown type 2147483648"),
    "half a block": (_file_of(raw.tensor("t", (33,), 8)), "'t' has rows with incomplete blocks"),
    "tensor twice": (_file_of(*[raw.tensor("t", (8,))] * 2), "it has the tensor 't' twice"),
    "name of 2^62": (
        raw.header((), [struct.pack("<Q", 2**62) + bytes(40)]), "a tensor's name has 46116860184"),
    "name with escapes": (_file_of(raw.tensor("\x1b]0;x\a", (33,), 8)), r"'\x1b]0;x\x07' has rows"),
    "not aligned": (_file_of(raw.tensor("t", (8,), 0, 8)), "the tensor 't' is not aligned"),
    "the same data twice": (
        _file_of(raw.tensor("t", (8,)), raw.tensor("u", (8,))), "is damaged: its tensors overlap"),
    "data within other data": (
        _file_of(raw.tensor("t", (64,)), raw.tensor("u", (8,), 0, 64)), "its tensors overlap"),
    "offset beyond the end": (
        _file_of(raw.tensor("t", (8,), 0, 8192), behind=32), "is truncated: 8192 bytes"),
    "offset of 2^64-32": (_file_of(raw.tensor("t", (8,), 0, 2**64 - 32)), "is truncated: 1844674"),
    "unknown type beyond the end": (
        _file_of(raw.tensor("t", (8,), 77, 8192), behind=32), "is truncated: 8160 bytes"),
    "data beyond the end": (
        _file_of(raw.tensor("t", (1024,)), behind=4000), "is truncated: 96 bytes are missing"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "reason"), FILES.values(), ids=FILES)
def test_a_wrong_file_gets_its_reason(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    with pytest.raises(GgufError, match=re.escape(reason)) as caught:
        read_header(path)
    message = str(caught.value)
    assert message.startswith(("is ", "has "))
    assert message.isprintable()
    assert str(path) not in message
    with suppress(GgufError):
        assert isinstance(read_head(path), GgufHead)


# --- what is no file -----------------------------------------------------------------------------


def _link_to_itself(path: Path) -> Path:
    path.symlink_to(path)
    return path


def _socket(path: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path.name)  # the whole path can be longer than a socket's may be
    return path


def _made(make: Callable[[Path], object]) -> Callable[[Path], Path]:
    def made(path: Path) -> Path:
        make(path)
        return path

    return made


PLACES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda path: path, "cannot be read: No such file or directory"),
    "below a file": (lambda _: Path(__file__) / "x", "cannot be read: Not a directory"),
    "directory": (_made(Path.mkdir), "is not a regular file"),
    "fifo": (_made(os.mkfifo), "is not a regular file"),
    "socket": (_socket, "cannot be read: No such device or address"),
    "/dev/zero": (lambda _: Path("/dev/zero"), "is not a regular file"),
    "/dev/random": (lambda _: Path("/dev/random"), "is not a regular file"),
    "link to itself": (_link_to_itself, "cannot be read: Too many levels of symbolic links"),
    "name too long": (lambda path: path.with_name("x" * 300), "cannot be read: File name too long"),
    "NUL in the name": (lambda _: Path("a\0b"), "cannot be read: no file can have this path"),
    "lone surrogate": (lambda _: Path("a\ud800"), "cannot be read: no file can have this path"),
}


@pytest.mark.parametrize("read", [read_header, read_head])
@pytest.mark.parametrize(("make", "reason"), PLACES.values(), ids=PLACES)
def test_what_is_no_file_gets_its_reason(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    read: Callable[[Path], object],
    make: Callable[[Path], Path],
    reason: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GgufError) as caught:
        read(make(tmp_path / "model.gguf"))
    assert str(caught.value) == reason


@contextmanager
def _without_privilege() -> Iterator[None]:
    """Root may read everything: for a moment, be someone else."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_file_that_may_not_be_read_gets_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(_model())
    path.chmod(0)
    with _without_privilege(), pytest.raises(GgufError) as caught:
        read_header(path)
    assert str(caught.value) == "cannot be read: Permission denied"


def _descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.gguf", tmp_path / "bad.gguf"
    good.write_bytes(_model())
    bad.write_bytes(_model(raw.array_head("a", raw.ARRAY, 1)))
    before = _descriptors()
    for path in (good, bad, tmp_path):
        for read in (read_header, read_head):
            try:
                read(path)
            except GgufError:
                assert path is not good
    assert _descriptors() == before


# --- anything at all -----------------------------------------------------------------------------

TAILS = st.binary(max_size=400)
PIECES = st.one_of(
    TAILS,
    st.integers(0, 2**64 - 1).map(lambda n: struct.pack("<Q", n)),
    st.integers(0, 40).map(lambda n: struct.pack("<Q", n)),
    st.integers(0, 14).map(lambda n: struct.pack("<I", n)),
    st.sampled_from(
        [raw.text("a.b", "x"), raw.array_head("c", raw.STRING, 2), raw.tensor("t", (4, 4))]
    ),
)


@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(
    pieces=st.lists(PIECES, max_size=12),
    counts=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    missing=st.integers(0, 600),
)
def test_any_bytes_give_a_header_or_a_reason(
    pieces: list[bytes], counts: tuple[int, int], missing: int
) -> None:
    data = raw.header(n_tensors=counts[0], n_keys=counts[1]) + b"".join(pieces)
    for size in (len(data), len(data) + missing):  # the whole file, and the beginning of one
        for exact in (False, True):
            with suppress(GgufError):
                assert isinstance(parse_header(data, size, exact=exact), GgufHeader)


# --- memory --------------------------------------------------------------------------------------


def _sparse(path: Path, start: bytes, size: int) -> Path:
    with path.open("wb") as file:
        file.write(start)
        file.truncate(size)
    return path


def _endless_tokens() -> bytes:
    return raw.header([raw.array_head("tokenizer.ggml.tokens", raw.STRING, 10**7)])


def _many_empty_tokens() -> bytes:
    return raw.header([raw.array_head("tokenizer.ggml.tokens", raw.STRING, 10**6)], n_tensors=9)


def _much_text() -> bytes:
    """8 MiB in which one letter of each value makes all the others take 4 bytes."""
    return raw.header([raw.text(f"a{i}", "😀" + "x" * (MIB - 4)) for i in range(8)], n_keys=9)


def _many_numbers() -> bytes:
    return raw.header(
        [raw.array(f"a{i}", raw.I64, [-(10**9)] * 1024) for i in range(64)], n_keys=65
    )


def _many_false_keys() -> bytes:
    false = bytes(7) + b"tokenizer.ggml.!"
    return raw.header([raw.array_head("a", raw.STRING, 2000) + false * 400_000], n_keys=4000)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_endless_tokens, "has a header of more than 64 MiB"),
        (_many_empty_tokens, "a tensor's name|dimensions"),
        (_much_text, "a key is empty"),
        (_many_numbers, "a key is empty"),
        (_many_false_keys, "is truncated|is damaged"),
    ],
)
def test_memory_is_that_of_the_header_and_little_more(
    tmp_path: Path, make: Callable[[], bytes], reason: str
) -> None:
    path = _sparse(tmp_path / "model.gguf", make(), 1 << 34)
    tracemalloc.start()
    try:
        with pytest.raises(GgufError, match=reason):
            read_header(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < HEADER_LIMIT + 48 * MIB
