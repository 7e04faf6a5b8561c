"""Reads the header of a GGUF file, with as few reads as possible."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from magid.discovery.gguf_format import (
    GgufHead,
    GgufHeader,
    Metadata,
    key_values,
    parse_header,
    preamble,
)
from magid.discovery.gguf_strings import Cursor, ShortError
from magid.errors import GgufError

HEAD_BYTES: Final = 16 << 10
"""Bytes that `read_head` reads: general.* and <architecture>.* come first and take 2 to 8 KiB."""

HEADER_LIMIT: Final = 64 << 20
"""Bytes. Vocabularies of 150,000 to 260,000 tokens with their merges take 7 to 20 MiB."""

_FIRST_READ: Final = 256 << 10
"""Bytes. Enough for small models and for all shards but the first, and to see how much is left."""


def read_header(path: str | os.PathLike[str]) -> GgufHeader:
    """Reads the whole header. Blocks: about 2 ms for a big vocabulary in the page cache.

    Refuses everything but regular files, so no FIFO or device can hang it. Takes memory for the
    header, at most HEADER_LIMIT, and for the kept values. Raises GgufError, also if the file
    cannot be opened or read.
    """
    with _regular_file(path) as (fd, size):
        wanted = _FIRST_READ
        while wanted < HEADER_LIMIT:
            try:
                return parse_header(_pread(fd, min(wanted, size)), size)
            except ShortError as short:
                wanted = max(2 * wanted, short.wanted)
        return _read_to_limit(fd, size)


def _read_to_limit(fd: int, size: int) -> GgufHeader:
    data = _pread(fd, min(HEADER_LIMIT, size))
    try:
        return parse_header(data, size)
    except ShortError:
        with suppress(ShortError):  # it may still be there
            return parse_header(data, size, exact=True)
    raise GgufError(f"has a header of more than {HEADER_LIMIT >> 20} MiB")


def read_head(path: str | os.PathLike[str]) -> GgufHead:
    """Reads the beginning of a header: one pread of HEAD_BYTES. Blocks. Raises GgufError."""
    with _regular_file(path) as (fd, size):
        cursor = Cursor(_pread(fd, min(HEAD_BYTES, size)), size)
        version, tensor_count, key_count = preamble(cursor)
        found = Metadata()
        with suppress(ShortError):
            key_values(cursor, key_count, found, None)
        return GgufHead(version, found.values, tensor_count)


@contextmanager
def _regular_file(path: str | os.PathLike[str]) -> Iterator[tuple[int, int]]:
    """Opens a regular file; yields its descriptor and size. Does not block on a FIFO."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise GgufError(f"cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # a NUL, or a letter that the file system's encoding lacks
        raise GgufError("cannot be read: no file can have this path") from error
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise GgufError("is not a regular file")
        yield fd, status.st_size
    except OSError as error:
        raise GgufError(f"cannot be read: {error.strerror or error}") from error
    except MemoryError:
        raise GgufError("cannot be read: not enough memory for its header") from None
    finally:
        os.close(fd)


def _pread(fd: int, size: int) -> bytes:
    """Returns the first `size` bytes, in one read unless the file system returns fewer."""
    data = os.pread(fd, size, 0)
    while len(data) < size:
        more = os.pread(fd, size - len(data), len(data))
        if not more:
            raise GgufError("shrank while magid was reading it; scan again when it is complete")
        data += more
    return data
