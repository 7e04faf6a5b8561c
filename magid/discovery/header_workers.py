"""`python -m magid.discovery.header_workers`: looks at the files of one model folder.

In a process of its own (see `workers`): the folder may be a mount that does not answer, and a
thread that parses megabytes of headers holds the interpreter for milliseconds at a time, for which
every request would wait. A lower priority while headers are read keeps it behind the event loop
where cores are few.
"""

import os
from contextlib import suppress
from typing import Any, Final

from magid.discovery.gguf_file import read_head
from magid.discovery.header_cache import Unusable, kept_metadata, packed, read_facts
from magid.discovery.links import follow
from magid.discovery.naming import text
from magid.discovery.walker import File, look_at, why_unusable
from magid.errors import GgufError
from magid.host.workers import Life, answer, requests

_NICENESS: Final = 10


def carried_out(request: Any) -> Any:
    """What is asked, done. Blocks for as long as the folder does."""
    match request:
        case ["walk", root, others]:
            return _walked(root, frozenset(others))
        case ["follow", link, within, late]:
            return follow(link, within, late)
        case ["read", path]:
            return _read(path)
        case ["begin", path]:
            return _begun(path)
        case ["usable", path]:
            return why_unusable(path) or []
        case ["be nice"]:
            with suppress(OSError):
                os.nice(_NICENESS)
            return None  # a sign of life
        case _:
            raise ValueError(request)


def _walked(root: str, others: frozenset[str]) -> Any:
    look = look_at(root, others, Life())
    return [
        look.top, look.files, look.links, look.marks, look.revisions, look.broken, look.reason,
        look.is_absent, look.empty,
    ]  # fmt: skip


def _read(path: str) -> Any:
    reading = read_facts(path)
    return [reading.is_lasting if isinstance(reading, Unusable) else True, packed(reading)]


def _begun(path: str) -> Any:
    """The pairs of a first listing; [] for a file that has no usable beginning."""
    try:
        head = read_head(path)
    except GgufError:
        return []
    return [kept_metadata(head.metadata), text(head.metadata, "general.name")]


def as_file(packed_file: Any) -> File:
    path, real, key = packed_file
    return File(path, real, tuple(key))


def main() -> None:
    """Answer each request on stdin with a line on stdout."""
    with suppress(BrokenPipeError):
        for request in requests():
            answer(carried_out(request))


if __name__ == "__main__":
    main()
