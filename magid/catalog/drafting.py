"""Which draft a model starts with, by its setting `draft`. Pure."""

from collections.abc import Iterable, Mapping
from typing import Final

from msgspec import Struct

from magid.discovery.found import Draft, FoundModel
from magid.discovery.kinds import ModelKind

SIMPLE: Final = "simple"  # a model of its own that drafts for a larger one

Folders = Mapping[tuple[str, str], FoundModel]


class Drafting(Struct, frozen=True):
    """The draft of a model's next start, or why there is none."""

    draft: Draft | None = None
    reason: str = ""  # for a person
    is_missing: bool = False  # the setting names a file that is not there


def by_folder(models: Iterable[FoundModel]) -> Folders:
    """Returns the models by their folders and names."""
    return {(_folder(model), model.filename): model for model in models}


def drafting(found: FoundModel, setting: str, folders: Folders) -> Drafting:
    """Returns the draft for a value of the setting.

    A file is one of the drafts that match the model, or a model of its own in the same folder.
    """
    if found.kind is not ModelKind.CHAT:
        return _without(setting, f"a model of kind {found.kind} uses none")
    if setting == "off":
        return Drafting(reason="switched off")
    if setting == "auto":
        draft = next(iter(found.drafts), None)
        return Drafting(draft, _origin(draft) if draft else "none was found")
    for draft in found.drafts:
        if draft.filename == setting:
            return Drafting(draft, "as it is set")
    other = folders.get((_folder(found), setting))
    if other is None or other.path == found.path or other.kind is not ModelKind.CHAT:
        names = ", ".join(draft.filename for draft in found.drafts if draft.filename)
        return _without(
            setting,
            f"{setting} is no draft in its folder" + (f"; there is {names}" if names else ""),
        )
    return Drafting(Draft(SIMPLE, other.path, other.filename, other.stamp), "as it is set")


def _without(setting: str, why: str) -> Drafting:
    return Drafting(None, why, is_missing=setting not in ("auto", "off"))


def _origin(draft: Draft) -> str:
    return "layers of its own file" if draft.path is None else "a file beside it"


def _folder(found: FoundModel) -> str:
    return found.path.rpartition("/")[0]
