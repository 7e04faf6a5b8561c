"""What another program says of a model, in magid's terms. Pure."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from magid.catalog import profile
from magid.catalog.aliases import Variant
from magid.catalog.original import OriginalModel, OriginalRegistry
from magid.files import schema
from magid.files.schema import Mismatch

Names = Mapping[str, Mapping[str, Any]]
"""A name for clients -> what a variant of that name has, beside its model; empty: a plain name."""


class ForeignModel(Struct, frozen=True):
    """A model of another program. `path` and `repository` are as that program has them."""

    name: str
    path: str = ""  # of its first file
    repository: str = ""  # ORG/NAME of a hub, where no file is named
    tag: str = ""  # which of the repository's files: Q4_K_M
    settings: Mapping[str, Any] = {}  # by their names in the API
    names: Names = {}  # includes `name`
    faults: tuple[str, ...] = ()  # what has no counterpart, one a sentence


class ForeignModels(Struct, frozen=True):
    """All models of one program; `title` names the profile that has their names."""

    title: str
    models: tuple[ForeignModel, ...]
    faults: tuple[str, ...] = ()  # of the whole, one a sentence
    folder: str = ""  # where its files are, if that has to be a model folder

    def with_paths(self, change: Callable[[str], str]) -> "ForeignModels":
        """Returns the same with each path changed."""
        models = (replace(m, path=change(m.path) if m.path else "") for m in self.models)
        return replace(self, models=tuple(models))


def located(found: ForeignModels, rows: Mapping[str, Mapping[str, Any]]) -> ForeignModels:
    """Gives models that name a repository the path of its file here, by magid's registry."""
    models = (replace(m, path=m.path or _in_repository(m, rows)) for m in found.models)
    return replace(found, models=tuple(models))


def _in_repository(model: ForeignModel, rows: Mapping[str, Mapping[str, Any]]) -> str:
    folder = f"/models--{model.repository.replace('/', '--')}/".lower()
    tag = model.tag.lower()
    paths = [
        (tag in row["filename"].lower(), row["filePath"])
        for row in rows.values()
        if model.repository and folder in row["filePath"].lower()
    ]
    tagged = [path for has_tag, path in paths if has_tag or not tag]
    return tagged[0] if len(tagged) == 1 else ""


def decisions(found: ForeignModels) -> OriginalRegistry:
    """The settings, as `import_plan` compares them. One file has the settings of its first model.

    A second model with the same file and other settings is a fault: its names remain.
    """
    first: dict[str, ForeignModel] = {}
    models, faults = [], list(found.faults)
    for model in found.models:
        faults += [f"{model.name}: {fault}" for fault in model.faults]
        if not (model.path or model.repository):
            continue
        key = model.path or model.name
        other = first.setdefault(key, model)
        if other is model:
            file = model.path or f"{model.repository}:{model.tag}".removesuffix(":")
            models.append(OriginalModel(model.name, file, settings=model.settings))
        elif other.settings != model.settings:
            faults.append(
                f"{model.name}: it has the file of {other.name}, whose settings count for both"
            )
    return OriginalRegistry(tuple(models), tuple(faults))


def as_profile(
    found: ForeignModels, ids: Mapping[str, str], known: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
    """The profile with the names, as the API takes it, and its faults. `ids`: name -> id here.

    `known` are ids of magid, which need no further name.
    """
    files = {model.path: ids[model.name] for model in found.models if model.name in ids}
    enabled: dict[str, None] = {}
    aliases: dict[str, Any] = {}
    faults: list[str] = []
    for model in found.models:
        here = ids.get(model.name) or (files.get(model.path) if model.path else None)
        if here is None:
            continue
        enabled[here] = None
        for name, variant in model.names.items():
            if name in known:
                if name != here or variant:
                    faults.append(f"{name}: this is the id of a model here")
            else:
                aliases[name] = _target(name, here, variant, faults)
    data = {
        "name": found.title,
        "description": f"Models and names of {found.title}, as they were imported",
        "enabled_models": list(enabled),
        "aliases": aliases,
    }
    checked = schema.read(data, profile.Profile)
    return schema.plain(checked, api_names=True), faults


def _target(name: str, here: str, variant: Mapping[str, Any], faults: list[str]) -> Any:
    """A plain name where the variant is none that magid takes."""
    if not variant:
        return here
    made = {"model": here, **variant}
    try:
        schema.read(made, Variant)
    except Mismatch as error:
        faults.append(f"{name}: its parameters are left out: {error.faults[0]}")
        return here
    return made
