"""The file of the state directory that keeps what servers took beyond their predictions.

What cannot be used in it counts as nothing; that it cannot be written is not an error.
"""

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from magid.files.cache_file import read_cache, write_cache

NAME: Final = "overheads.json"
MOST: Final = 2 << 30  # of one server; more is another program's doing
_SCHEMA: Final = 1
_MOST_BYTES: Final = 64 << 10
_MOST_BACKENDS: Final = 32

Sizes = Annotated[tuple[Annotated[int, Meta(ge=0, le=MOST)], ...], Meta(min_length=1)]


class OverheadVersions(Struct, frozen=True):
    """What the figures were learned with."""

    llama_server: str
    changed_at: float  # of its file, seconds since the epoch
    drivers: str  # as `host.driver_versions` tells them


class _OverheadFile(Struct, frozen=True):
    schema: int
    versions: OverheadVersions
    seen: Annotated[dict[str, Sizes], Meta(max_length=_MOST_BACKENDS)]


def read_overheads(path: Path, versions: OverheadVersions) -> dict[str, tuple[int, ...]]:
    """Returns bytes by back end, those of the last start last; of these versions only. Blocks."""
    content = read_cache(path, _MOST_BYTES)
    if content is not None:
        with suppress(msgspec.DecodeError, RecursionError):
            read = msgspec.json.decode(content, type=_OverheadFile)
            if (read.schema, read.versions) == (_SCHEMA, versions):
                return read.seen
    return {}


def write_overheads(
    path: Path, versions: OverheadVersions, seen: dict[str, tuple[int, ...]]
) -> None:
    """Blocks."""
    write_cache(path, msgspec.json.encode(_OverheadFile(_SCHEMA, versions, seen)))
