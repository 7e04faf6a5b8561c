"""Skips long string arrays in a GGUF header without creating the strings. Pure."""

import re
import struct
from contextlib import suppress
from itertools import repeat
from typing import Any, Final

from msgspec import Struct, field

from magid.errors import GgufError
from magid.wording.counts import counted

TOKEN_BYTES: Final = 48
"""Estimated header bytes per token, with its type, score and merges."""
MAX_NAME: Final = 256  # keys and tensor names; GGUF allows 65,535; ggml's tensor names have 63
_MAX_CANDIDATES: Final = 16  # keys tried for one jump; a hostile file can offer millions


U32: Final = struct.Struct("<I")
U64: Final = struct.Struct("<Q")
_LAST_VALUE_TYPE: Final = 12


_KEY: Final = re.compile(rb"[a-z0-9_.-]+")
_BEGINNINGS: Final = (b"tokenizer.ggml.", b"general.")  # of the keys that follow a vocabulary
NEEDLES: Final = tuple(bytes(7) + beginning for beginning in _BEGINNINGS)
"""With the upper 7 bytes of the key's length: a longer needle is found faster."""


class ShortError(GgufError):
    """The data ends within the header; `wanted` bytes of the file may be enough."""

    def __init__(self, wanted: int) -> None:
        super().__init__("has a longer header than the part that was read")
        self.wanted = wanted


class Cursor(Struct):
    """A position in the first bytes of a file; never moves beyond them."""

    data: bytes
    file_size: int
    pos: int = 0

    def need(self, end: int, guess: int = 0) -> None:
        """Checks that the data reaches `end`, which may come from the file and be absurd.

        Raises ShortError if more must be read: `guess` bytes, if that is more than `end`.
        """
        if end > self.file_size:
            missing = end - self.file_size
            raise GgufError(
                f"is truncated: at least "
                f"{counted(missing, 'byte is', 'bytes are')} missing in its header"
            )
        if end > len(self.data):
            raise ShortError(max(end, guess))

    def take(self, layout: struct.Struct) -> tuple[Any, ...]:
        end = self.pos + layout.size
        if end > len(self.data):
            self.need(end)
        values = layout.unpack_from(self.data, self.pos)
        self.pos = end
        return values

    def string(self, limit: int, what: str) -> bytes:
        (length,) = self.take(U64)
        end = self.pos + length
        if length > limit:
            raise GgufError(f"is damaged: {what} of {length} bytes; the limit is {limit}")
        if end > len(self.data):
            self.need(end)
        text = self.data[self.pos : end]
        self.pos = end
        return text


class Jump(Struct):
    """Finds the key after a long string array without walking it.

    Never searches again for a needle that was not found, so the cost of all searches is linear.
    """

    needles: list[bytes] = field(default_factory=lambda: list(NEEDLES))
    used: bool = False

    def target(self, data: bytes, start: int) -> int | None:
        for needle in tuple(self.needles):
            if (pos := next_key(data, start, needle)) is not None:
                self.used = True
                return pos
            self.needles.remove(needle)
        return None


def skip_strings(cursor: Cursor, count: int, jump: Jump | None) -> None:
    """Moves the cursor past `count` strings, each of which takes at least 8 bytes."""
    if jump is None:
        return _walk_strings(cursor, count)
    if (pos := jump.target(cursor.data, cursor.pos + 8 * count)) is not None:
        cursor.pos = pos
        return None
    plenty = cursor.pos + 2 * count * TOKEN_BYTES  # if these have no key, later bytes hardly do
    if len(cursor.data) < min(plenty, cursor.file_size):
        raise ShortError(plenty)
    return _walk_strings(cursor, count)


def _walk_strings(cursor: Cursor, count: int) -> None:
    """Reads each string's length, in about 0.1 us. The caller has checked `count`."""
    data, pos, length_at = cursor.data, cursor.pos, U64.unpack_from
    with suppress(struct.error, OverflowError):  # past the data, or past any memory
        for _ in repeat(None, count):
            pos += 8 + length_at(data, pos)[0]
        cursor.need(pos)
        cursor.pos = pos
        return
    cursor.need(pos + 8)


def next_key(data: bytes, start: int, needle: bytes) -> int | None:
    """Returns the position of the first key, at or after `start`, that the needle begins."""
    at = data.find(needle, start + 1)
    for _ in repeat(None, _MAX_CANDIDATES):
        if at < 0:
            return None
        if _is_key(data, at - 1):
            return at - 1
        at = data.find(needle, at + 1)
    return None


def _is_key(data: bytes, pos: int) -> bool:
    (length,) = U64.unpack_from(data, pos)
    end = pos + 8 + length
    if length > MAX_NAME or end + 4 > len(data) or not _KEY.fullmatch(data, pos + 8, end):
        return False
    return bool(U32.unpack_from(data, end)[0] <= _LAST_VALUE_TYPE)
