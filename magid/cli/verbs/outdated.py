"""outdated: which models have newer files at their hub."""

import argparse

from magid.cli.client import Client
from magid.cli.output import note, plain, print_json, table
from magid.cli.parser import Verbs

PATH = "/api/library/outdated"


def add(verbs: Verbs) -> None:
    verbs.add(
        "outdated", outdated, "which models have newer files at the hub; changes nothing",
        examples=("magictl outdated", "magictl outdated --json"),
    )  # fmt: skip


def outdated(client: Client, args: argparse.Namespace) -> int:
    answer = client.call("GET", PATH)
    if args.json:
        print_json(answer)
        return 0
    models = answer["models"]
    rows = [[m["modelId"], m["state"], m["source"], m["reason"] or _newer(m)] for m in models]
    table(("MODEL", "STATE", "SOURCE", "WHY"), rows, "no models")
    for source in dict.fromkeys(m["source"] for m in models if m["state"] == "newer"):
        note(f"try: magictl pull {plain(source)}")
    return 0


def _newer(model: "dict[str, list[str]]") -> str:
    return ", ".join(model["files"])
