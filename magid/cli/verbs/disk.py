"""df, rm: what models take on the disk, and their removal."""

import argparse
from collections.abc import Mapping
from typing import Any

from magid.cli.client import MODELS, Client, Refused, quoted
from magid.cli.errors import each
from magid.cli.interaction import confirmed
from magid.cli.model_names import named
from magid.cli.output import json_line, note, print_json, say, table
from magid.cli.parser import Verbs
from magid.wording.counts import counted
from magid.wording.sizes import size


def add(verbs: Verbs) -> None:
    sub = verbs.add(
        "rm", remove, "remove the files of models from the disk, but for those that others need",
        examples=("magictl rm qwen3_4p0b_q4km_fast", "magictl rm --stop --forget gemma --yes"),
        json="each answer of the API on a line of its own",
    )  # fmt: skip
    sub.add_argument("models", nargs="+", metavar="MODEL")
    verbs.add(
        "df", df, "what models take on the disk, and what is free", aliases=("du",),
        examples=("magictl df", "magictl df --json"),
    )  # fmt: skip
    sub.add_argument("--stop", action="store_true", help="stop its servers first")
    sub.add_argument(
        "--forget", action="store_true", help="also forget what was decided of it: settings, tier"
    )
    sub.add_argument("--dry-run", action="store_true", help="only show what would go")
    sub.add_argument("-y", "--yes", action="store_true", help="do not ask")


def df(client: Client, args: argparse.Namespace) -> int:
    found = client.call("GET", "/api/library/disk")
    if args.json:
        print_json(found)
        return 0
    rows = [[root["path"], size(root["freeBytes"]), size(root["totalBytes"]), _of_root(root)]
            for root in found["roots"]]  # fmt: skip
    table(["FOLDER", "FREE", "SIZE", ""], rows, "there are no model folders")
    for title, key, name in (
        ("MODEL", "models", "modelId"),
        ("UNFINISHED DOWNLOAD", "unfinished", "path"),
        ("NO MODEL'S FILE", "others", "path"),
    ):
        if found[key]:
            say("")
            table([title, "SIZE", ""], [[one[name], size(one["sizeBytes"]), _shared(one)]
                                        for one in found[key]], "")  # fmt: skip
    return 0


def _of_root(root: Mapping[str, Any]) -> str:
    return root["problem"] or ("magictl rm may delete there" if root["isLibrary"] else "")


def _shared(one: Mapping[str, Any]) -> str:
    return f"{size(one['sharedBytes'])} of it shared" if one.get("sharedBytes") else ""


def remove(client: Client, args: argparse.Namespace) -> int:
    """Shows what goes and what stays, asks, and removes it; for each model by itself."""
    return each(client, args.models, named(client, lambda model: _remove(client, args, model)))


def _remove(client: Client, args: argparse.Namespace, model: str) -> None:
    path = f"{MODELS}/{quoted(model)}?files=true"
    planned = client.call("DELETE", f"{path}&dryRun=true")
    if args.dry_run:
        json_line(planned) if args.json else _show(planned)
        return
    if not planned["removed"]:
        kept = planned["stays"][0]
        raise Refused(f"cannot remove {planned['modelId']}\n{kept['path']} {kept['reason']}")
    if not args.json and not args.yes:
        _show(planned)
    confirmed(f"remove {counted(len(planned['removed']), 'file')} of {planned['modelId']}",
              yes=args.yes)  # fmt: skip
    options = "".join(f"&{name}=true" for name in ("stop", "forget") if getattr(args, name))
    done = client.call("DELETE", f"{path}{options}")
    if args.json:
        json_line(done)
        return
    say(done["message"])
    for kept in done["stays"]:
        note(f"{kept['path']} {kept['reason']}")
    if not done["forgotten"]:
        note("what was decided of it stays, should its file come back; --forget drops that too")


def _show(planned: Mapping[str, Any]) -> None:
    for path in planned["removed"]:
        say(f"- {path}")
    for kept in planned["stays"]:
        say(f"  {kept['path']} stays: it {kept['reason']}")
    say(f"{size(planned['freedBytes'])} would be freed")
