"""Chooses the revision of each file in a cache of huggingface_hub or llama.cpp (same layout).

    models--ORG--NAME/refs/main                     the last known commit of `main`
    models--ORG--NAME/snapshots/COMMIT/PATH         a link into blobs/

A file that is in several snapshots counts once: from the snapshot of `main`, else from the latest
download. Without `main`, the user has requested each revision by name, so all count. A file that
is only in an older snapshot counts too: nothing has replaced it.
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
    """The part of `walker.File` that is used here."""

    @property
    def path(self) -> str: ...

    @property
    def key(self) -> tuple[int, int, int, int, int]: ...


Found = TypeVar("Found", bound=_Found)


def main_revision(folder: str) -> str | None:
    """Returns the commit of `main`, if the folder is a repository's. Blocks; never raises."""
    if not folder.rpartition("/")[2].startswith("models--"):
        return None
    with suppress(OSError), (Path(folder) / "refs" / "main").open("rb") as file:
        text = file.read(200).decode("ascii", "replace").strip()
        return text if _COMMIT.fullmatch(text) else None
    return None


def current(files: Iterable[Found], main: Mapping[str, str]) -> list[Found]:
    """Leaves out files that another revision replaces. `main`: repository -> commit. Pure."""
    kept: list[Found] = []
    versions: dict[tuple[str, str], list[tuple[str, Found]]] = defaultdict(list)
    for file in files:
        match = _SNAPSHOT.fullmatch(file.path)
        if match and match[1] in main:
            versions[match[1], match[3]].append((match[2], file))
        else:
            kept.append(file)
    for (folder, _), found in versions.items():
        of_main = [file for commit, file in found if commit == main[folder]]
        kept += of_main or [max((file for _, file in found), key=lambda file: file.key[3])]
    return kept


def repository(path: str) -> str | None:
    """Returns the folder of the repository that a cached file belongs to; None for other files."""
    match = _REPOSITORY.match(path)
    return match[1] if match else None
