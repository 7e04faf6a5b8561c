"""Decides which files of a model go: those below the library that no other model needs. Pure."""

from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct

from magid.discovery import ollama_store
from magid.discovery.found import FoundModel


class StayingFile(Struct, frozen=True):
    """A file that is not removed, and why; `reason` follows the path: "is in ..."."""

    path: str
    reason: str


class RemovalPlan(Struct, frozen=True):
    """The files of a model that go, links before what they lead to, and those that stay."""

    goes: tuple[str, ...]
    stays: tuple[StayingFile, ...]


def plan_removal(model_id: str, models: dict[str, FoundModel], root: str | None) -> RemovalPlan:
    """Returns what goes with this model. `root` is the library, links resolved; None without one.

    A file stays if another model has it as its own, or as its projector or draft. `models` are all
    that there are, by their ids.
    """
    users: dict[str, list[str]] = {}
    for other, found in models.items():
        if other != model_id:
            for path in files_of(found):
                users.setdefault(path, []).append(other)
    goes, stays = [], []
    own = files_of(models[model_id])
    for path in own:
        if ollama_store.is_in_store(path, own):
            reason = "belongs to a store of Ollama: `ollama rm` removes it there"
            stays.append(StayingFile(path, reason))
        elif reason := _why_it_stays(path, users.get(path, ()), root):
            stays.append(StayingFile(path, reason))
        else:
            goes.append(path)
    for adapter in models[model_id].adapters:
        stays.append(
            StayingFile(
                adapter.path, "is an adapter, which was perhaps trained here and is nowhere else"
            )
        )
    return RemovalPlan(tuple(goes), tuple(stays))


def files_of(model: FoundModel) -> list[str]:
    """Returns all paths of a model, each once: links, files, projector and drafts."""
    return list(dict.fromkeys(_paths(model)))


def _paths(model: FoundModel) -> Iterator[str]:
    yield from model.paths
    yield from model.files
    yield from (one.path for one in model.companions)
    yield from (one.path for one in model.drafts if one.path is not None)


def _why_it_stays(path: str, users: Sequence[str], root: str | None) -> str:
    if users:
        return f"is needed by {_listed(users)}"
    if root is None:
        return "is in no folder that magid may delete from: library_path in magid.yaml names one"
    if not path.startswith(root.rstrip("/") + "/"):
        return f"is outside {root}, the one folder that magid may delete from (library_path)"
    return ""


def _listed(names: Iterable[str]) -> str:
    found = sorted(names)
    return ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
