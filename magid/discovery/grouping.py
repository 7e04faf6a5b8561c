"""Which files are one model. Pure.

`NAME-00001-of-00003.gguf` and so on are one. llama-server is given the first file and finds the
others by their names, so that a model counts only if all its shards are in one folder and say the
same as their names. Names with "." or "_" before the number are joined too, as one model with one
fault: llama-server 0.7.0 refuses them ("invalid split file name").
"""

import re
from collections.abc import Sequence
from itertools import groupby
from typing import Final

from msgspec import Struct

from magid.discovery.header_cache import HeaderFacts, Reading, Unusable
from magid.discovery.naming import number
from magid.discovery.walker import File

_SHARD: Final = re.compile(r"(.+)[-._]([0-9]{1,5})-of-([0-9]{1,5})\.gguf", re.I | re.S)


class Parts(Struct, frozen=True):
    """The files that make, or should make, one model; sorted by number."""

    files: tuple[File, ...]
    numbers: tuple[int, ...] = (1,)
    count: int = 1  # of the shards, by their names


def join(files: Sequence[File]) -> list[Parts]:
    """Put the files together that belong together; in path order of the first file of each."""
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
    """Why these files are no model, as a reason for a person; None if they are one."""
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
        return f"calls itself shard {wrong[0]} of {count}"
    if len(present) < len(parts.numbers):
        twice = next(n for n in parts.numbers if parts.numbers.count(n) > 1)
        return f"shard {twice} of {count} is there twice"
    if len(present) == count:
        return None
    if count - len(present) > 1:
        return f"{count - len(present)} of its {count} shards are missing"
    missing = next(n for n in range(1, count + 1) if n not in present)
    return f"shard {missing} of {count} is missing"


def _wrong_names(parts: Parts) -> str | None:
    """llama.cpp builds the names of the others from the first's, in this one form."""
    for number_, file in zip(parts.numbers, parts.files, strict=True):
        ending = f"-{number_:05d}-of-{parts.count:05d}.gguf"
        if parts.count > 1 and not file.name.endswith(ending):
            return f"shard {number_} of {parts.count} is not named as such; rename it to *{ending}"
    return None


def _wrong_headers(parts: Parts, facts: Sequence[HeaderFacts]) -> str | None:
    """What llama.cpp would refuse at load: split.no, .count and .tensors.count must agree."""
    for number_, file, own in zip(parts.numbers, parts.files, facts, strict=True):
        count = number(own.metadata, "split.count") or 1
        if count != parts.count:
            place = _place(number_, parts.count, file)
            if parts.count == 1:
                return f"is one of {count} shards by its header, but not by its name; rename it"
            return f"{place}belongs to a model of {count} shards by its header (split.count)"
        place_in_header = number(own.metadata, "split.no")
        if count > 1 and place_in_header != number_ - 1:
            place = _place(number_, parts.count, file)
            return f"{place}is another shard by its header (split.no)"
    tensors = sum(own.tensor_count for own in facts)
    wanted = number(facts[0].metadata, "split.tensors.count")
    if parts.count > 1 and wanted is not None and wanted != tensors:
        return f"its shards have {tensors} tensors together, and should have {wanted}"
    return None
