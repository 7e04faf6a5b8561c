"""Bodies that a client has compressed: decoded in steps, within bounds. Pure.

A few bytes can stand for many: without a bound on their ratio, a thousand small requests at once
would take as much memory as a thousand of the largest ones.

zstd needs Debian's python3-zstandard, the only importer of which this is. Brotli is not read:
Debian's python3-brotli cannot bound what comes of one step.
"""

import zlib
from collections.abc import Generator, Iterator
from functools import cache
from types import ModuleType

from magid.errors import InvalidInput, TooLarge, UnsupportedMediaType

_GZIP, _DEFLATE, _ZSTD = "gzip", "deflate", "zstd"
_ALIASES = {"": "", "identity": "", "x-gzip": _GZIP, **{n: n for n in (_GZIP, _DEFLATE, _ZSTD)}}
_STEP_BYTES = 16_384  # that are decoded at once
_STEP_OUT_BYTES = 65_536  # that come of it: half a millisecond
# Of zstd, four bytes can be a block of 128 KiB: so of one step come 4 MiB at most.
_ZSTD_STEP_BYTES = 128
_ZSTD_WINDOW_BYTES = 8 * 2**20  # RFC 9659: the most that an encoder may ask for
MAX_RATIO = 64  # JSON with long texts shrinks to a fifth, lists of equal numbers to a fiftieth
FREE_BYTES = 2**20  # that may come of any body, however small it is


@cache
def _zstandard() -> ModuleType | None:
    """The library, where it is installed. Imported with the first body that needs it."""
    try:
        import zstandard
    except ImportError:
        return None
    return zstandard


def coding_of(given: str) -> str:
    """The coding that a Content-Encoding names; empty for none.

    Raises UnsupportedMediaType, which names it.
    """
    coding = _ALIASES.get(given.strip().lower())
    if coding == _ZSTD and _zstandard() is None:
        raise UnsupportedMediaType(
            f"cannot read a body with Content-Encoding: {_ZSTD}: the machine of magid lacks "
            f"python3-zstandard; send it as it is, or as {_GZIP} or {_DEFLATE}"
        )
    if coding is None:
        raise UnsupportedMediaType(
            f"cannot read a body with Content-Encoding: {given[:80]}; send it as it is, or as "
            + (
                f"{_GZIP} or {_DEFLATE}"
                if _zstandard() is None
                else f"{_GZIP}, {_DEFLATE} or {_ZSTD}"
            )
        )
    return coding


def decoded(
    body: bytes | bytearray, coding: str, limit: int, too_large: TooLarge
) -> Generator[None, None, bytearray]:
    """The body in steps of about half a millisecond each.

    Raises `too_large` as soon as more than `limit` bytes come of it, TooLarge where more than
    MAX_RATIO times its own size and FREE_BYTES do, and InvalidInput for what is not of this coding
    or does not end with it.
    """
    whole = bytearray()
    by_ratio = max(FREE_BYTES, MAX_RATIO * len(body))
    if by_ratio < limit:
        limit, too_large = by_ratio, _out_of_ratio()
    for piece in _unpacked(body) if coding == _ZSTD else _inflated(body, coding):
        whole += piece
        if len(whole) > limit:
            raise too_large
        yield
    return whole


def _inflated(body: bytes | bytearray, coding: str) -> Iterator[bytes]:
    """Yields what comes of each step, of gzip or deflate. Raises InvalidInput."""
    decoder = zlib.decompressobj(_window_bits(body, coding))
    try:
        for at in range(0, len(body), _STEP_BYTES):
            rest = bytes(body[at : at + _STEP_BYTES])
            while rest:
                if decoder.eof:
                    raise _malformed(coding)
                yield decoder.decompress(rest, _STEP_OUT_BYTES)
                rest = decoder.unconsumed_tail or decoder.unused_data
        # What the last step may have left: no more input, and up to so much output.
        while not decoder.eof and (more := decoder.decompress(b"", _STEP_OUT_BYTES)):
            yield more
    except zlib.error:
        raise _malformed(coding) from None
    if not decoder.eof:
        raise _malformed(coding)


def _unpacked(body: bytes | bytearray) -> Iterator[bytes]:
    """Yields what comes of each step, of zstd. Raises InvalidInput."""
    library = _zstandard()
    assert library is not None  # or `coding_of` has refused it
    decoder = library.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES).decompressobj()
    try:
        for at in range(0, len(body), _ZSTD_STEP_BYTES):
            if decoder.eof:
                raise _malformed(_ZSTD)
            yield decoder.decompress(bytes(body[at : at + _ZSTD_STEP_BYTES]))
    except library.ZstdError:
        raise _malformed(_ZSTD) from None
    if not decoder.eof or decoder.unused_data:
        raise _malformed(_ZSTD)


def _window_bits(body: bytes | bytearray, coding: str) -> int:
    """As zlib takes it. By `deflate` some clients mean it without the header of zlib."""
    if coding == _GZIP:
        return 16 + zlib.MAX_WBITS
    has_header = len(body) > 1 and body[0] & 15 == 8 and not (body[0] * 256 + body[1]) % 31
    return zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS


def _out_of_ratio() -> TooLarge:
    return TooLarge(
        f"cannot read the request body: it grows to more than {MAX_RATIO} times its size; send it "
        "uncompressed"
    )


def _malformed(coding: str) -> InvalidInput:
    return InvalidInput(
        f"cannot read the request body: it is not one whole {coding}, as its Content-Encoding says"
    )
