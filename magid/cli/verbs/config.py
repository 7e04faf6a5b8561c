"""config: the settings of magid in force, and where each comes from."""

import argparse
import json
import os

from magid.cli.client import Client, Refused
from magid.cli.output import print_json, say
from magid.cli.parser import Verbs


def add(verbs: Verbs) -> None:
    verbs.add(
        "config", config, "magid's settings and where each comes from, as magid would start now",
        examples=("magictl config", "magictl config gateway server_defaults.ctx_size"),
        json="key to value and source",
    ).add_argument("keys", nargs="*", metavar="KEY", help="only these")  # fmt: skip


def config(_client: Client, args: argparse.Namespace) -> int:
    from magid.config import loading
    from magid.errors import InvalidConfig

    try:
        lines = loading.render(loading.load({}, os.environ)).splitlines()
    except InvalidConfig as error:
        raise Refused(f"{error.message}\ntry: man 5 magid.yaml") from None
    shown = {
        line.partition(" = ")[0]: line
        for line in lines
        if not args.keys or any(_is_below(line.partition(" = ")[0], key) for key in args.keys)
    }
    if not shown:
        known = ", ".join(
            dict.fromkeys(line.partition(" = ")[0].partition(".")[0] for line in lines)
        )
        raise Refused(f"cannot show {args.keys[0]!r}: known are {known}\ntry: magictl config", 2)
    if args.json:
        print_json({key: _parts(line) for key, line in shown.items()})
        return 0
    for line in shown.values():
        say(line)
    return 0


def _is_below(key: str, wanted: str) -> bool:
    return key == wanted or key.startswith(f"{wanted}.")


def _parts(line: str) -> dict[str, object]:
    text, _, source = line.partition(" = ")[2].rpartition("  # ")
    return {"value": json.loads(text), "source": source}
