"""Finds the LoRA adapters of models: small files that change what a model answers. Pure.

An adapter is made for one model. It belongs to it as a projector does, so both are paired by the
same rules; its header has the architecture of its model.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final

from magid.discovery.found import Adapter
from magid.discovery.naming import file_stem, text
from magid.discovery.projectors import Pairing, candidate, pair
from magid.discovery.walker import File

MAX_ADAPTERS: Final = 16  # of one model: each takes memory
_UNUSUAL: Final = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST: Final = 64
_UNPASSABLE: Final = frozenset(",:")  # they end a path in llama-server's option --lora-scaled
_TAKEN: Final = "latest"  # Ollama's clients add it to the name of a model


def pair_adapters(
    models: Sequence[File],
    adapters: Sequence[File],
    readings: Mapping[str, Mapping[str, object]],
) -> Pairing:
    """Pairs models with the adapters near them, by architecture, folder and name."""
    if not adapters:
        return Pairing()
    offered = [
        candidate(file, readings[file.path], needs=_architecture(readings[file.path]))
        for file in adapters
    ]
    return pair([candidate(file, readings[file.path]) for file in models], offered, "LoRA adapter")


def _architecture(metadata: Mapping[str, object]) -> str:
    return text(metadata, "general.architecture") or ""


def adapters_of(files: Sequence[tuple[File, str]]) -> tuple[Adapter, ...]:
    """Returns the adapters of a model in the order of their names. `files` come with stamps.

    Of two with one name, the first in path order counts.
    """
    found: dict[str, Adapter] = {}
    for file, stamp in sorted(files, key=lambda pair: pair[0].path):
        name = _UNUSUAL.sub("-", file_stem(file.name)).strip("-")[:_LONGEST]
        if name and name != _TAKEN and _UNPASSABLE.isdisjoint(file.real):
            found.setdefault(name, Adapter(name, file.real, file.key[2], stamp))
    return tuple(found[name] for name in sorted(found)[:MAX_ADAPTERS])
