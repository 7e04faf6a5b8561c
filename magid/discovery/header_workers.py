"""`python -m magid.discovery.header_workers`: lists and reads the files of one model folder.

This is a process of its own (see `host.workers`), because the folder may be a mount that does not
answer, and because a thread that parses megabytes of headers would hold the interpreter lock for
milliseconds, which would delay every request. While it reads headers it has a lower priority, so
that the event loop comes first on a machine with few cores.
"""

import os
from contextlib import suppress
from typing import Any, Final

from magid.discovery.gguf_file import read_head
from magid.discovery.header_cache import Unusable, kept_metadata, packed, read_facts
from magid.discovery.links import follow
from magid.discovery.naming import text
from magid.discovery.walker import File, walk
from magid.errors import GgufError
from magid.host.workers import Heartbeat, serve

_NICENESS: Final = 10


def carry_out(request: Any) -> Any:
    """Carries out one request from `roots.Root`; returns the answer. Blocks as the folder does."""
    match request:
        case ["walk", root, others]:
            return _walk(root, frozenset(others))
        case ["follow", link, within, late]:
            return follow(link, within, late)
        case ["read", path]:
            return _read(path)
        case ["begin", path]:
            return _begin(path)
        case ["be nice"]:
            with suppress(OSError):
                os.nice(_NICENESS)
            return None  # which is a heartbeat
        case _:
            raise ValueError(request)


def _walk(root: str, others: frozenset[str]) -> Any:
    listing = walk(root, others, Heartbeat())
    return [
        listing.top, listing.files, listing.links, listing.marks, listing.revisions,
        listing.broken, listing.reason, listing.is_absent, listing.empty,
    ]  # fmt: skip


def _read(path: str) -> Any:
    reading = read_facts(path)
    return [reading.is_lasting if isinstance(reading, Unusable) else True, packed(reading)]


def _begin(path: str) -> Any:
    """Returns a file's first pairs and its name; [] if the beginning cannot be used."""
    try:
        head = read_head(path)
    except GgufError:
        return []
    return [kept_metadata(head.metadata), text(head.metadata, "general.name")]


def as_file(packed_file: Any) -> File:
    path, real, key = packed_file
    return File(path, real, tuple(key))


def main() -> None:
    """Answers each request on stdin with a line on stdout."""
    serve(carry_out)


if __name__ == "__main__":
    main()
