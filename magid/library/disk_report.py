"""Sorts files by whose they are: a model's, an unfinished download's, or none of these. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from msgspec import Struct

from magid.discovery import downloads
from magid.discovery.found import FoundModel
from magid.library.disk_usage import FileOnDisk, RootUsage
from magid.library.removal import files_of

_JOBS: Final = "/.downloads/"  # magid's own, of `library/job`


class ModelUsage(Struct, frozen=True):
    """What one model takes. `shared` of it also belongs to other models."""

    model_id: str
    size: int
    shared: int


class DiskReport(Struct, frozen=True):
    """All model folders. Sizes in bytes; each file counts once, whatever names it has."""

    roots: tuple[RootUsage, ...]
    models: tuple[ModelUsage, ...]  # the largest first
    unfinished: tuple[FileOnDisk, ...]
    others: tuple[FileOnDisk, ...]  # of no model; the largest first
    rest: int  # of files that are too small to be listed


def files_of_models(models: Mapping[str, FoundModel]) -> set[str]:
    """Returns the paths that `report` has to know the size of, however small they are."""
    return {path for found in models.values() for path in files_of(found)}


def report(roots: Sequence[RootUsage], models: Mapping[str, FoundModel]) -> DiskReport:
    """Sorts the files of all roots by whose they are."""
    by_path = {file.path: file for root in roots for file in root.files}
    owners: dict[str, set[str]] = {}
    for model_id, found in models.items():
        for path in files_of(found):
            if file := by_path.get(path):
                owners.setdefault(file.identity, set()).add(model_id)
    once = {file.identity: file for file in by_path.values()}
    free = [file for identity, file in once.items() if identity not in owners]
    unfinished = [file for file in free if _is_unfinished(file.path)]
    others = [file for file in free if not _is_unfinished(file.path)]
    return DiskReport(
        tuple(roots),
        tuple(_by_model(models, owners, once)),
        tuple(_largest_first(unfinished)),
        tuple(_largest_first(others)),
        sum(root.rest for root in roots),
    )


def _is_unfinished(path: str) -> bool:
    name = path.rpartition("/")[2]
    return _JOBS in path or name.endswith(".incomplete") or bool(downloads.file_of(name))


def _largest_first(files: Iterable[FileOnDisk]) -> list[FileOnDisk]:
    return sorted(files, key=lambda file: (-file.size, file.path))


def _by_model(
    models: Mapping[str, FoundModel],
    owners: Mapping[str, set[str]],
    once: Mapping[str, FileOnDisk],
) -> list[ModelUsage]:
    sizes = dict.fromkeys(models, 0)
    shared = dict.fromkeys(models, 0)
    for identity, names in owners.items():
        for name in names:
            sizes[name] += once[identity].size
            shared[name] += once[identity].size if len(names) > 1 else 0
    found = [ModelUsage(name, size, shared[name]) for name, size in sizes.items()]
    return sorted(found, key=lambda one: (-one.size, one.model_id))
