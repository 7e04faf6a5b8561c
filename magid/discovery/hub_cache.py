"""The cache of huggingface_hub, and llama.cpp's, which is the same: which revision is meant.

    models--ORG--NAME/refs/main                     the commit that `main` was at last
    models--ORG--NAME/snapshots/COMMIT/PATH         a link into blobs/

A file of several snapshots counts once: as the one of `main` has it, else as it was downloaded
last. Where there is no `main`, each revision was asked for, and all count. A file
that only an older snapshot has stays: it was downloaded, and nothing took its place.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol, TypeVar

_SNAPSHOT: Final = re.compile(r"(.*/models--[^/]+)/snapshots/([^/]+)/(.+)", re.S)
_REPOSITORY: Final = re.compile(r"(.*/models--[^/]+)/(?:blobs|snapshots)/", re.S)
_COMMIT: Final = re.compile(r"[0-9A-Za-z._-]{1,100}")


class _Found(Protocol):
    """Of a `walker.File`, what is compared."""

    @property
    def path(self) -> str: ...

    @property
    def key(self) -> tuple[int, int, int, int, int]: ...


Found = TypeVar("Found", bound=_Found)


def main_revision(folder: str) -> str | None:
    """The commit of `main`, if this folder is a repository's. Blocks; never raises OSError."""
    if not folder.rpartition("/")[2].startswith("models--"):
        return None
    with suppress(OSError), (Path(folder) / "refs" / "main").open("rb") as file:
        text = file.read(200).decode("ascii", "replace").strip()
        return text if _COMMIT.fullmatch(text) else None
    return None


def current(files: Iterable[Found], main: Mapping[str, str]) -> list[Found]:
    """The files without those that another revision replaces. Pure. `main` is by repository."""
    kept: list[Found] = []
    versions: dict[tuple[str, str], list[tuple[str, Found]]] = defaultdict(list)
    for file in files:
        match = _SNAPSHOT.fullmatch(file.path)
        if match and match[1] in main:
            versions[match[1], match[3]].append((match[2], file))
        else:
            kept.append(file)
    for (folder, _), found in versions.items():
        meant = [file for commit, file in found if commit == main[folder]]
        kept += meant or [max((file for _, file in found), key=lambda file: file.key[3])]
    return kept


def repository(path: str) -> str | None:
    """The folder of the repository that a file of a cache belongs to; None outside of one."""
    match = _REPOSITORY.match(path)
    return match[1] if match else None
