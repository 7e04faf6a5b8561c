"""The predictions that are kept, in memory and in a file of the state directory.

A file that cannot be read, or has another version's format, counts as empty; one that cannot be
written is not an error.
"""

import hashlib
import json
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from magid.files.cache_file import read_cache, write_cache
from magid.gpus.memory_table import Estimate

NAME: Final = "predictions.json"
MAX_KEPT: Final = 1000
_SCHEMA: Final = 1
_MOST_BYTES: Final = 16 << 20


class Prediction(Struct, frozen=True):
    """An estimate, or why there is none."""

    at: float  # seconds since the epoch
    estimate: Estimate | None = None
    problem: str = ""


class _PredictionFile(Struct, frozen=True):
    schema: int
    kept: dict[str, Prediction]  # the one that was used last comes last


def key_of(parts: tuple[object, ...]) -> str:
    """Returns a short name for what a prediction was made with."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


class PredictionCache:
    """The last MAX_KEPT predictions by their keys; those that were used longest ago go."""

    def __init__(self, path: Path | None) -> None:
        """Without `path`, keeps them in memory only. Reads nothing yet."""
        self._path = path
        self._kept: OrderedDict[str, Prediction] = OrderedDict()

    def load(self) -> None:
        """Reads the file. Blocks."""
        content = None if self._path is None else read_cache(self._path, _MOST_BYTES)
        if content is None:
            return
        with suppress(msgspec.DecodeError, RecursionError):
            read = msgspec.json.decode(content, type=_PredictionFile)
            if read.schema == _SCHEMA:
                self._kept = OrderedDict(read.kept)

    def get(self, key: str) -> Prediction | None:
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def put(self, key: str, made: Prediction) -> None:
        self._kept[key] = made
        while len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)

    def document(self) -> bytes:
        """Returns the content of the file."""
        return msgspec.json.encode(_PredictionFile(_SCHEMA, dict(self._kept)))

    def write(self, document: bytes) -> None:
        """Writes the file. Blocks, and may run in a thread."""
        if self._path is not None:
            write_cache(self._path, document)
