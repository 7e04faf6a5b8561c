"""Compressed bodies: whole, cut, damaged, and small ones that would be huge."""

import gzip
import random
import subprocess
import sys
import zlib
from typing import Any

import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from magid.errors import InvalidInput, TooLarge, UnsupportedMediaType
from magid.http.content_coding import FREE_BYTES, coding_of, decoded

LIMIT = 2**20
TOO_LARGE = TooLarge("cannot take it")
NOISE = random.Random(1).randbytes(300_000)


def finished(body: bytes, coding: str, limit: int = LIMIT) -> tuple[bytes, int]:
    """The body, and the number of steps it took."""
    steps, count = decoded(body, coding, limit, TOO_LARGE), 0
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return bytes(end.value), count
        count += 1


def raw_deflate(data: bytes) -> bytes:
    return zlib.compress(data)[2:-4]


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


PACKERS: dict[str, Any] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "raw": raw_deflate,
    "zstd": zstd,
}
CODINGS = {name: name if name != "raw" else "deflate" for name in PACKERS}


@pytest.mark.parametrize("name", PACKERS)
@pytest.mark.parametrize("data", [b"{}", b"", b"a" * LIMIT, NOISE, NOISE * 3])
def test_what_was_packed_comes_out(name: str, data: bytes) -> None:
    packed = PACKERS[name](data)
    assert finished(packed, CODINGS[name])[0] == data


@pytest.mark.parametrize("name", PACKERS)
def test_a_small_body_that_would_be_huge(name: str) -> None:
    """It is refused by what has come of it so far, and no step takes long."""
    packed = PACKERS[name](b"\0" * (200 * LIMIT))
    assert len(packed) < LIMIT
    coding = CODINGS[name]
    with pytest.raises(TooLarge) as refused:
        finished(packed, coding)
    assert refused.value is TOO_LARGE
    with pytest.raises(TooLarge):
        finished(PACKERS[name](b"\0" * (LIMIT + 1)), coding)


@pytest.mark.parametrize("name", PACKERS)
def test_what_comes_of_a_body_is_bounded_by_its_own_size(name: str) -> None:
    """Many small bodies at once may not take the memory of many of the largest ones."""
    coding = CODINGS[name]
    with pytest.raises(TooLarge, match="more than 64 times its size; send it uncompressed"):
        finished(PACKERS[name](b"\0" * (2 * FREE_BYTES)), coding, 32 * LIMIT)
    whole = (NOISE[:100_000] + bytes(2_000_000)) * 2
    body, steps = finished(PACKERS[name](whole), coding, 32 * LIMIT)
    assert body == whole
    least = len(whole) // 65_536 if name != "zstd" else 200_000 // 128
    assert steps >= least, "each step decodes a bounded part"


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{}", gzip.compress(NOISE, mtime=0)[:-1], gzip.compress(NOISE, mtime=0)[:1000],
        gzip.compress(b"{}", mtime=0) + b"x",
        gzip.compress(NOISE, mtime=0) + gzip.compress(b"{}", mtime=0),
        gzip.compress(NOISE, mtime=0)[:-8] + b"\0" * 8, zlib.compress(b"{}"),
    ],
)  # fmt: skip
def test_what_is_not_one_whole_gzip(body: bytes) -> None:
    with pytest.raises(InvalidInput, match="not one whole gzip"):
        finished(body, "gzip")


def streamed_zstd(data: bytes) -> bytes:
    """Without its size in the head, as a client that compresses on its way sends it."""
    packer = zstandard.ZstdCompressor().compressobj()
    return packer.compress(data) + packer.flush()


WIDE = zstandard.ZstdCompressionParameters(window_log=27, enable_ldm=True)  # 128 MiB


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{}", zstd(NOISE)[:-1], zstd(NOISE)[:1000], zstd(b"{}") + b"x",
        zstd(NOISE) + zstd(b"{}"), gzip.compress(b"{}", mtime=0), streamed_zstd(b"{}")[:-1],
    ],
)  # fmt: skip
def test_what_is_not_one_whole_zstd(body: bytes) -> None:
    with pytest.raises(InvalidInput, match="not one whole zstd"):
        finished(body, "zstd")


def test_a_zstd_that_asks_for_too_much_memory() -> None:
    packer = zstandard.ZstdCompressor(compression_params=WIDE).compressobj()
    body = packer.compress(NOISE) + packer.flush()
    with pytest.raises(InvalidInput, match="not one whole zstd"):
        finished(body, "zstd")
    assert finished(streamed_zstd(NOISE), "zstd")[0] == NOISE


def full_step_then(rest: str) -> bytes:
    """Raw deflate: a byte more than one step puts out, then these bits, all in the last byte.

    The block has two codes of one bit: 0 is a zero byte, 1 ends the block.
    """
    head = "0" + "01"  # each number with its lowest bit first: not the last block; own codes
    lengths = "00000" + "00000" + "0111"  # 257 literals, 1 distance, 18 lengths of codes
    order = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1)
    codes = "".join("100" if symbol in (18, 1) else "000" for symbol in order)
    zeros = "".join("1" + f"{count - 11:07b}"[::-1] for count in (138, 117))
    bits = head + lengths + codes + "0" + zeros + "0" + "0" + "0" * 65_537 + rest
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[at : at + 8][::-1], 2) for at in range(0, len(bits), 8))


@pytest.mark.parametrize("rest", ["1" + "0" + "11", "1" + "1" + "11", "", "1"])
def test_what_follows_a_full_step_is_malformed(rest: str) -> None:
    """All input is taken, but its last bits are read only when zlib is asked for more."""
    with pytest.raises(InvalidInput, match="not one whole deflate"):
        finished(full_step_then(rest), "deflate")


PACKED = [pack(data) for pack in PACKERS.values() for data in (b"{}", b"\0" * 65_536, NOISE)]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A body with some bytes of it replaced, left out or added."""
    body = bytearray(draw(st.sampled_from(PACKED)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(body)))
        body[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(body)


full_steps = st.builds(full_step_then, st.text("01", max_size=40))


@settings(max_examples=100, deadline=None)
@given(
    st.one_of(st.binary(max_size=300), damaged(), full_steps),
    st.sampled_from(sorted(set(CODINGS.values()))),
)
@example(full_step_then("1011"), "deflate")
def test_any_bytes_are_a_body_or_are_refused(body: bytes, coding: str) -> None:
    try:
        whole, _ = finished(body, coding)
    except (InvalidInput, TooLarge):
        return
    assert len(whole) <= LIMIT


@pytest.mark.parametrize(
    ("header", "coding"),
    [
        *(("gzip", "gzip"), (" X-GZip ", "gzip"), ("deflate", "deflate"), ("ZSTD", "zstd")),
        *(("identity", ""), ("", "")),
    ],
)
def test_codings_that_are_known(header: str, coding: str) -> None:
    assert coding_of(header) == coding


@pytest.mark.parametrize("header", ["br", "gzip, gzip", "zstd, gzip", "compress", "*"])
def test_others_are_named(header: str) -> None:
    with pytest.raises(UnsupportedMediaType, match="Content-Encoding: ") as refused:
        coding_of(header)
    assert header in refused.value.message
    assert "gzip, deflate or zstd" in refused.value.message


def test_zstd_where_the_library_is_not_installed() -> None:
    program = """
import sys
sys.modules["zstandard"] = None
from magid.errors import UnsupportedMediaType
from magid.http.content_coding import coding_of
try:
    coding_of("zstd")
except UnsupportedMediaType as error:
    print(error.message)
"""
    command = [sys.executable, "-I", "-c", program]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "Content-Encoding: zstd: the machine of magid lacks python3-zstandard" in said
