"""import: takes over models and decisions of other programs."""

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from magid.cli import model_names
from magid.cli.client import MODELS, Client, Refused, quoted
from magid.cli.errors import report
from magid.cli.interaction import confirmed
from magid.cli.output import note, paint, plain, print_json, say
from magid.cli.parser import Verbs
from magid.cli.verbs.profiles import PROFILES
from magid.wording.counts import counted

# Where its files are in its folder.
_REGISTRIES = (
    "model_registry.json",
    "data/model_registry.json",
    "backend/data/model_registry.json",
)
_PROFILES = ("profiles", "config/profiles")
_DEFAULTS = "runtime_settings.json"
_MAX_BYTES = 64 * 2**20
_SOURCES = ("ollama", "hub-cache", "llama-swap", "presets")  # a folder of that name: ./ollama
_ORIGINAL = "synapse"


def add(verbs: Verbs) -> None:
    sub = verbs.add(
        "import", import_, "take over models and decisions of other programs, in place",
        examples=("magictl import ollama --dry-run",
                  "magictl import hub-cache /srv/huggingface/hub",
                  "magictl import llama-swap config.yaml",
                  "magictl import presets models-preset.ini",
                  "magictl import synapse /opt/synapse-engine",
                  "magictl import data/model_registry.json config/profiles/*.yaml"),
        json="changes, what cannot be taken over, and what was here already",
    )  # fmt: skip
    sub.add_argument(
        "file", nargs="+", metavar="[SOURCE] PATH",
        help="SOURCE is ollama [FOLDER], hub-cache [FOLDER], llama-swap FILE, presets FILE (of "
        "llama.cpp's router) or synapse PATH...; without it PATH is of S.Y.N.A.P.S.E. Engine: "
        "model_registry.json, profiles, or the folder that has them",
    )  # fmt: skip
    sub.add_argument("--dry-run", action="store_true", help="only show the plan")
    sub.add_argument(
        "--replace", action="store_true", help="also replace decisions that were made here"
    )
    sub.add_argument("-y", "--yes", action="store_true", help="do not ask")


def import_(client: Client, args: argparse.Namespace) -> int:
    """Shows the plan, asks, and carries it out. Idempotent; starts and stops no server."""
    plan = _plan(client, args)
    if not args.json:
        _show(plan)
    failed: list[str] = []
    if plan.changes and not args.dry_run:
        confirmed(f"import {counted(len(plan.changes), 'decision')}", yes=args.yes)
        failed = [c.subject for c in plan.changes if not _carry_out(client, c)]
    if args.json:
        changes = [
            {"subject": c.subject, "what": c.what, "before": c.before or None} for c in plan.changes
        ]
        print_json({**plan._asdict(), "changes": changes, "failed": failed})
    else:
        _sum_up(plan, failed, is_dry=args.dry_run)
    return 1 if failed or plan.unusable else 0


def _carry_out(client: Client, change: Any) -> bool:
    try:
        client.call(change.method, change.path, change.body)
    except Refused as error:
        report(client, error)
        return False
    return True


def _show(plan: Any) -> None:
    for change in plan.changes:
        sign, colour = ("~", "33") if change.before else ("+", "32")
        before = f", not {change.before}" if change.before else ""
        print(paint(plain(f"{sign} {change.subject}: {change.what}{before}"), colour))
    for line in (*plan.left, *plan.unusable):
        print(paint(plain(f"! {line}"), "33"))
    for line in plan.warnings:
        note(line)


def _sum_up(plan: Any, failed: list[str], *, is_dry: bool) -> None:
    done = len(plan.changes) - len(failed)
    left = len(plan.left) + len(plan.unusable) + len(failed)
    start = f"{done} to import" if is_dry else f"{done} imported"
    say(f"{start}, {len(plan.same)} here already, {left} left out")
    if done and not is_dry:
        note("see what would start and stop: magictl diff; then magictl apply")


# -- the plan --------------------------------------------------------------------------------


def _plan(client: Client, args: argparse.Namespace) -> Any:
    source, *paths = args.file
    if source in _SOURCES:
        from magid.cli import foreign_import  # late: these imports take longer than all else

        return foreign_import.plan(client, args, source, paths)
    if source == _ORIGINAL and not paths:
        raise Refused("cannot import synapse: name its folder or files", 2)
    return _plan_original(client, args, paths if source == _ORIGINAL else args.file)


def _plan_original(client: Client, args: argparse.Namespace, paths: list[str]) -> Any:
    """Reads all files first: the registry says which models the profiles mean."""
    from magid.catalog import original  # late: these imports take longer than everything else
    from magid.cli import import_plan
    from magid.errors import MagidError

    files = {path: _content(path) for path in _files(paths)}
    registry = client.call("GET", f"{MODELS}/registry")
    plan, ids = import_plan.empty(), dict[str, str]()
    for is_registry in (True, False):
        for path, content in files.items():
            if original.is_registry(content) is not is_registry:
                continue
            try:
                if is_registry:
                    part, found = _of_registry(client, args, content, path, registry)
                    ids.update(found)
                else:
                    part = _of_profile(client, args, content, path, ids)
                    models = model_names.present(client, registry)
                    part.warnings.extend(_missing(part, models))
            except (MagidError, Refused) as error:
                part = import_plan.empty()
                part.unusable.append(str(error))
            import_plan.extend(plan, part)
    return plan


def _of_registry(
    client: Client, args: argparse.Namespace, content: bytes, path: str, registry: Any
) -> tuple[Any, dict[str, str]]:
    """Returns its part of the plan, and the id there -> the id here."""
    from magid.catalog import original
    from magid.cli import import_plan

    found = original.parse_registry(content, path)
    ids = import_plan.matched(found.models, registry["models"])
    details = {i: client.call("GET", f"{MODELS}/{quoted(i)}") for i in ids.values()}
    part = import_plan.of_registry(found, ids, registry, details, replace=args.replace)
    part.left.extend(_of_defaults(path))
    return part, ids


def _missing(part: Any, models: Sequence[model_names.Named]) -> Iterator[str]:
    """Warns of entries of new profiles that select no model."""
    for change in part.changes:
        patterns = change.body["enabledModels"]
        for pattern in model_names.unmatched(patterns, [m.model_id for m in models]):
            yield f"{change.subject}: {model_names.warning(pattern, models)}"


def _of_profile(
    client: Client, args: argparse.Namespace, content: bytes, path: str, ids: Mapping[str, str]
) -> Any:
    from magid.catalog import original
    from magid.catalog.profile import slug
    from magid.cli import import_plan
    from magid.files import schema

    found = original.parse_profile(content, path, ids)
    wanted = schema.plain(found.profile, api_names=True)
    name = slug(found.profile.name)
    is_here = name in client.call("GET", PROFILES)
    present = client.call("GET", f"{PROFILES}/{quoted(name)}") if is_here else None
    plan = import_plan.of_profile(wanted, name, present, replace=args.replace)
    plan.left.extend(f"profile {name}: {fault}" for fault in found.faults)
    return plan


def _of_defaults(registry: str) -> Iterator[str]:
    path = os.path.join(os.path.dirname(registry), _DEFAULTS)  # noqa: PTH118, PTH120
    if os.path.exists(path):  # noqa: PTH110
        yield f"{path}: defaults of all models belong into server_defaults of magid.yaml"


# -- its files -------------------------------------------------------------------------------


def _files(paths: list[str]) -> Iterator[str]:
    """Yields the files, and of each folder those that the original program has there."""
    for path in paths:
        if not os.path.isdir(path):  # noqa: PTH112
            yield path
            continue
        found = list(_in_folder(path))
        if not found:
            raise Refused(
                f"cannot import {path}: it has neither {_REGISTRIES[0]} nor config/profiles\n"
                "try: the files themselves"
            )
        yield from found


def _in_folder(folder: str) -> Iterator[str]:
    for name in _REGISTRIES:
        path = os.path.join(folder, name)  # noqa: PTH118
        if os.path.isfile(path):  # noqa: PTH113
            yield path
    places = [os.path.join(folder, name) for name in _PROFILES]  # noqa: PTH118
    if os.path.basename(os.path.normpath(folder)) == "profiles":  # noqa: PTH119
        places.append(folder)
    for place in filter(os.path.isdir, places):
        names = sorted(n for n in os.listdir(place) if n.endswith((".yaml", ".yml")))  # noqa: PTH208
        yield from (os.path.join(place, name) for name in names)  # noqa: PTH118


def _content(path: str) -> bytes:
    try:
        with open(path, "rb") as file:  # noqa: PTH123  # saves an import
            return file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise Refused(f"cannot read {path}: {error.strerror}") from None
