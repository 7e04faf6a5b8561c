"""Compressed bodies: whole, cut, damaged, and small ones that would be huge."""

import gzip
import random
import time
import zlib
from typing import Any

import pytest

from magid.errors import InvalidInput, TooLarge, UnsupportedMediaType
from magid.http.content_coding import coding_of, decoded

LIMIT = 2**20
TOO_LARGE = TooLarge("cannot take it")
NOISE = random.Random(1).randbytes(300_000)


def finished(body: bytes, coding: str, limit: int = LIMIT) -> tuple[bytes, float]:
    """The body, and how long the longest step took."""
    steps, longest = decoded(body, coding, limit, TOO_LARGE), 0.0
    while True:
        began = time.thread_time()
        try:
            next(steps)
        except StopIteration as end:
            return bytes(end.value), longest
        longest = max(longest, time.thread_time() - began)


def raw_deflate(data: bytes) -> bytes:
    return zlib.compress(data)[2:-4]


PACKERS: dict[str, Any] = {"gzip": gzip.compress, "deflate": zlib.compress, "raw": raw_deflate}


@pytest.mark.parametrize("name", PACKERS)
@pytest.mark.parametrize("data", [b"{}", b"", b"a" * LIMIT, NOISE, NOISE * 3])
def test_what_was_packed_comes_out(name: str, data: bytes) -> None:
    packed = PACKERS[name](data)
    assert finished(packed, "gzip" if name == "gzip" else "deflate")[0] == data


@pytest.mark.parametrize("name", PACKERS)
def test_a_small_body_that_would_be_huge(name: str) -> None:
    """It is refused by what has come of it so far, and no step takes long."""
    packed = PACKERS[name](b"\0" * (200 * LIMIT))
    assert len(packed) < LIMIT
    coding = "gzip" if name == "gzip" else "deflate"
    with pytest.raises(TooLarge):
        finished(packed, coding)
    with pytest.raises(TooLarge):
        finished(PACKERS[name](b"\0" * (LIMIT + 1)), coding)
    assert finished(packed, coding, 200 * LIMIT)[1] < 0.05


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


@pytest.mark.parametrize(
    ("given", "coding"),
    [("gzip", "gzip"), (" X-GZip ", "gzip"), ("deflate", "deflate"), ("identity", ""), ("", "")],
)
def test_codings_that_are_known(given: str, coding: str) -> None:
    assert coding_of(given) == coding


@pytest.mark.parametrize("given", ["br", "zstd", "gzip, gzip", "compress", "*"])
def test_others_are_named(given: str) -> None:
    with pytest.raises(UnsupportedMediaType, match="Content-Encoding: ") as refused:
        coding_of(given)
    assert given in refused.value.message
    assert "gzip" in refused.value.message
