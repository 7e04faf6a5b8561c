"""Plans the import of what Ollama, llama-swap, llama.cpp and a cache of a hub have decided."""

import argparse
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

from magid.cli import import_plan
from magid.cli.client import MODELS, Client, Refused, quoted
from magid.cli.import_plan import ImportPlan
from magid.cli.verbs.profiles import PROFILES
from magid.errors import InvalidInput
from magid.library import foreign, hub_store, llama_swap, ollama, presets
from magid.library.foreign import ForeignModels

_MAX_BYTES = 2**20
_CONFIG = "/etc/magi/magid.yaml"


def plan(client: Client, args: argparse.Namespace, source: str, paths: list[str]) -> ImportPlan:
    """Returns what `import SOURCE [PATH]` would do. Raises Refused."""
    try:
        found = _read(source, paths)
    except InvalidInput as error:
        raise Refused(error.message.replace(": ", "\n", 1)) from None
    registry = client.call("GET", f"{MODELS}/registry")
    rows = registry["models"]
    found = foreign.located(_on_this_machine(found), rows)
    decided = foreign.decisions(found)
    ids = import_plan.matched(decided.models, rows)
    details = {i: client.call("GET", f"{MODELS}/{quoted(i)}") for i in ids.values()}
    made = import_plan.of_registry(decided, ids, registry, details, replace=args.replace)
    _add_profile(client, made, found, ids, list(rows), replace=args.replace)
    made.warnings.extend(_of_folder(found, registry["scanPaths"]))
    return made


def _read(source: str, paths: list[str]) -> ForeignModels:
    if source in ("llama-swap", "presets"):
        if len(paths) != 1:
            raise Refused(f"cannot import {source}: name its file\ntry: magictl import --help", 2)
        reader: Callable[[bytes, str], ForeignModels]
        reader = llama_swap.parse if source == "llama-swap" else presets.parse
        return reader(_content(paths[0]), paths[0])
    if len(paths) > 1:
        raise Refused(f"cannot import {source}: name one folder\ntry: magictl import --help", 2)
    if source == "ollama":
        return ollama.read(paths[0] if paths else ollama.default_folder())
    return hub_store.read(paths[0] if paths else hub_store.default_folder())


def _content(path: str) -> bytes:
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - no verb loads pathlib early
            return file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise Refused(f"cannot read {path}\n{error.strerror}") from None


def _on_this_machine(found: ForeignModels) -> ForeignModels:
    """With links resolved, as magid knows files, but for shards, which it knows by their names."""
    return found.with_paths(lambda path: path if _is_split(path) else os.path.realpath(path))


def _is_split(path: str) -> bool:
    return re.search(r"-[0-9]{5}-of-[0-9]{5}\.gguf$", path) is not None


def _add_profile(
    client: Client,
    made: ImportPlan,
    found: ForeignModels,
    ids: Mapping[str, str],
    known: list[str],
    *,
    replace: bool,
) -> None:
    """Adds the profile that has the names; without a model that is here there is none."""
    from magid.catalog.profile import slug

    wanted, faults = foreign.as_profile(found, ids, known)
    made.left.extend(faults)
    if not wanted["enabledModels"]:
        return
    name = slug(wanted["name"])
    is_here = name in client.call("GET", PROFILES)
    present: Any = client.call("GET", f"{PROFILES}/{quoted(name)}") if is_here else None
    import_plan.extend(made, import_plan.of_profile(wanted, name, present, replace=replace))


def _of_folder(found: ForeignModels, scanned: list[str]) -> list[str]:
    """What to do so that magid finds the files of a store."""
    if not found.folder:
        return []
    tops = {os.path.realpath(path) for path in scanned}
    if any(found.folder == top or found.folder.startswith(f"{top}/") for top in tops):
        return []
    lines = [
        f"{found.folder} is no model folder of magid: nothing in it can run yet",
        f"add it to model_paths in {_CONFIG}, as root:",
        f"  model_paths: [{', '.join([*scanned, found.folder])}]",
        "then: systemctl restart magid, and the same import again; magictl doctor says whether "
        "magid and its servers may read it",
    ]
    if found.folder.startswith(("/home/", "/root/")):
        lines.insert(1, "a home folder is closed to other users: let the user magi enter it")
    return lines
