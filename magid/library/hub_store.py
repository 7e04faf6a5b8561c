"""Reads a cache of huggingface_hub or llama.cpp: the names of its models. Blocks."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from magid.discovery import hub_cache, kinds, links
from magid.discovery.naming import split_name
from magid.discovery.walker import File, is_below, walk
from magid.errors import InvalidInput
from magid.library.foreign import ForeignModel, ForeignModels

_IN_SNAPSHOT: Final = re.compile(r".*/models--([^/]+)/snapshots/[^/]+/(.+)", re.S)
_LATER_SHARD: Final = re.compile(r"-(?!00001)[0-9]{5}-of-[0-9]{5}\.gguf$", re.I)


def default_folder() -> str:
    """Returns the folder where llama.cpp would look: the first variable that is set."""
    for name, below in (
        ("LLAMA_CACHE", ""), ("HF_HUB_CACHE", ""), ("HUGGINGFACE_HUB_CACHE", ""),
        ("HF_HOME", "hub"), ("XDG_CACHE_HOME", "huggingface/hub"),
    ):  # fmt: skip
        if value := os.environ.get(name):
            return str(Path(value, below))
    return str(Path("~/.cache/huggingface/hub").expanduser())


def read(folder: str) -> ForeignModels:
    """Raises InvalidInput if the folder cannot be read or has no model of a hub."""
    top = os.path.realpath(folder)
    listing = walk(top, (), lambda: None)
    if listing.reason:
        raise InvalidInput(f"cannot import {folder}: it {listing.reason}")
    found = [links.follow(link, (top,), ()) for link in sorted(listing.links)]
    files = [*listing.files, *(one for one in found if isinstance(one, File))]
    current = hub_cache.current(files, dict(listing.revisions))
    models = tuple(_models(sorted(current)))
    if not models:
        raise InvalidInput(
            f"cannot import {folder}: it has no GGUF files in models--ORG--NAME/snapshots"
        )
    faults = [f"{path}: {why}" for path, why in listing.broken if is_below(path, [top])]
    return ForeignModels("hub cache", models, tuple(faults), folder=top)


def _models(files: list[File]) -> Iterator[ForeignModel]:
    """Yields each model with the names that clients of llama.cpp give it: ORG/NAME:Q4_K_M."""
    seen: set[str] = set()
    for file in files:
        match = _IN_SNAPSHOT.fullmatch(file.path)
        if match is None or _LATER_SHARD.search(file.name):
            continue
        if kinds.companion_kind(file.name, {}) is not None:
            continue
        repository = match[1].replace("--", "/", 1)
        tag = (split_name(file.name).encoding or "").upper()
        name = f"{repository}:{tag}" if tag else repository
        if name in seen:  # of several models in one repository the file tells them apart
            name = f"{repository}/{match[2].removesuffix('.gguf')}"
        seen.add(name)
        is_split = re.search(r"-of-[0-9]{5}\.gguf$", file.path) is not None
        yield ForeignModel(name, file.path if is_split else file.real, names={name: {}})
