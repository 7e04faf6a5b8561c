"""Groups the shards of a model. Pure.

`NAME-00001-of-00003.gguf` and so on are one model. llama-server gets the first file and finds the
others by their names, so all shards must be in one folder, and their headers must agree with their
names. Names with "." or "_" before the number are grouped too, to report one broken model instead
of several: llama-server 0.7.0 refuses them ("invalid split file name").
"""

import re
from collections.abc import Sequence
from itertools import groupby
from typing import Final

from msgspec import Struct

from magid.discovery.header_cache import HeaderFacts, Reading, Unusable
from magid.discovery.naming import number
from magid.discovery.walker import File
from magid.wording.counts import counted

_SHARD: Final = re.compile(r"(.+)[-._]([0-9]{1,5})-of-([0-9]{1,5})\.gguf", re.I | re.S)


class Parts(Struct, frozen=True):
    """The files of one model, complete or not, sorted by number."""

    files: tuple[File, ...]
    numbers: tuple[int, ...] = (1,)
    count: int = 1  # number of shards, by their names


def join(files: Sequence[File]) -> list[Parts]:
    """Groups files into models, sorted by the path of the first file."""
    whole: list[Parts] = []
    shards: list[tuple[tuple[str, str, int], int, File]] = []
    for file in files:
        if match := _SHARD.fullmatch(file.name):
            shards.append(((file.folder, match[1], int(match[3])), int(match[2]), file))
        else:
            whole.append(Parts((file,)))
    for (_, _, count), group in groupby(sorted(shards), key=lambda shard: shard[0]):
        _, numbers, members = zip(*group, strict=True)
        whole.append(Parts(members, numbers, count))
    return sorted(whole, key=lambda parts: parts.files[0].path)


def problem(parts: Parts, readings: Sequence[Reading]) -> str | None:
    """Returns why these files cannot be a model, for a person; None if they can."""
    for number_, file, reading in zip(parts.numbers, parts.files, readings, strict=True):
        if isinstance(reading, Unusable):
            return f"{_place(number_, parts.count, file)}{reading.reason}"
    facts = [reading for reading in readings if isinstance(reading, HeaderFacts)]
    return _wrong_numbers(parts) or _wrong_headers(parts, facts) or _wrong_names(parts)


def _place(number_: int, count: int, file: File) -> str:
    return f"shard {number_} of {count} ({file.name}) " if count > 1 else ""


def _wrong_numbers(parts: Parts) -> str | None:
    present, count = set(parts.numbers), parts.count
    if wrong := [n for n in parts.numbers if not 1 <= n <= count]:
        return f"is named shard {wrong[0]} of {count}"
    if len(present) < len(parts.numbers):
        twice = next(n for n in parts.numbers if parts.numbers.count(n) > 1)
        return f"there are two files for shard {twice} of {count}"
    if len(present) == count:
        return None
    if count - len(present) > 1:
        return f"{count - len(present)} of its {counted(count, 'shard')} are missing"
    missing = next(n for n in range(1, count + 1) if n not in present)
    return f"shard {missing} of {count} is missing"


def _wrong_names(parts: Parts) -> str | None:
    """llama.cpp derives the names of the other shards from the first's, in exactly this form."""
    for number_, file in zip(parts.numbers, parts.files, strict=True):
        ending = f"-{number_:05d}-of-{parts.count:05d}.gguf"
        if parts.count > 1 and not file.name.endswith(ending):
            return f"shard {number_} of {parts.count} has the wrong name; rename it to *{ending}"
    return None


def _wrong_headers(parts: Parts, facts: Sequence[HeaderFacts]) -> str | None:
    """Finds what llama.cpp refuses to load: split.no, .count and .tensors.count must agree."""
    for number_, file, own in zip(parts.numbers, parts.files, facts, strict=True):
        count = number(own.metadata, "split.count") or 1
        if count != parts.count:
            place, said = _place(number_, parts.count, file), counted(count, "shard")
            if parts.count == 1:
                return f"is one of {said} by its header, but not by its name; rename it"
            return f"{place}belongs to a model of {said}, by its header (split.count)"
        place_in_header = number(own.metadata, "split.no")
        if count > 1 and place_in_header != number_ - 1:
            place = _place(number_, parts.count, file)
            return f"{place}has the header of another shard (split.no)"
    tensors = sum(own.tensor_count for own in facts)
    wanted = number(facts[0].metadata, "split.tensors.count")
    if parts.count > 1 and wanted is not None and wanted != tensors:
        return f"its shards have {counted(tensors, 'tensor')} instead of {wanted}"
    return None
