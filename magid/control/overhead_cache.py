"""The file of the state directory that keeps what servers took beyond their predictions.

What cannot be used in it counts as nothing; that it cannot be written is not an error.
"""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from magid.files.cache_file import read_cache, write_cache

NAME: Final = "overheads.json"
MOST: Final = 2 << 30  # of one server; more is another program's doing
_SCHEMA: Final = 2  # before, all figures counted for one engine
_MOST_BYTES: Final = 256 << 10
_MOST_ENGINES, _MOST_BACKENDS = 64, 32

Sizes = Annotated[tuple[Annotated[int, Meta(ge=0, le=MOST)], ...], Meta(min_length=1)]


class OverheadVersions(Struct, frozen=True):
    """What the figures were learned with."""

    llama_server: str
    changed_at: float  # of its file, seconds since the epoch
    drivers: str  # as `host.driver_versions` tells them


class KeptOverheads(Struct, frozen=True):
    """What servers of one engine took: bytes by back end, those of the last start last."""

    versions: OverheadVersions
    seen: Annotated[dict[str, Sizes], Meta(max_length=_MOST_BACKENDS)]


class _OverheadFile(Struct, frozen=True):
    schema: int
    engines: Annotated[dict[str, KeptOverheads], Meta(max_length=_MOST_ENGINES)]


def read_overheads(path: Path) -> dict[str, KeptOverheads]:
    """Returns what is kept, by the name of the engine. Blocks."""
    content = read_cache(path, _MOST_BYTES)
    if content is not None:
        with suppress(msgspec.DecodeError, RecursionError):
            read = msgspec.json.decode(content, type=_OverheadFile)
            if read.schema == _SCHEMA:
                return read.engines
    return {}


def write_overheads(path: Path, engines: Mapping[str, KeptOverheads]) -> None:
    """Writes those of 64 engines at most. Blocks."""
    last = dict(list(engines.items())[-_MOST_ENGINES:])
    write_cache(path, msgspec.json.encode(_OverheadFile(_SCHEMA, last)))
