"""rescan, apply: what is on disk, and what should run."""

import argparse
from typing import Any

from magid.cli.output import note, plain, print_json, say
from magid.cli.verbs import Verbs
from magid.client import MODELS, Client


def add(verbs: Verbs) -> None:
    verbs.add("rescan", rescan, "read the model folders again").add_argument(
        "--json", action="store_true", help="as the API has it"
    )
    verbs.add("apply", apply, "make what runs equal what is wanted").add_argument(
        "--dry-run", action="store_true", help="only show the plan"
    )


def rescan(client: Client, args: argparse.Namespace) -> int:
    answer = client.call("POST", f"{MODELS}/rescan")
    if args.json:
        print_json(answer)
        return 0
    say(
        f"{answer['modelsFound']} models, {answer['modelsAdded']} added, "
        f"{answer['modelsRemoved']} removed"
    )
    for broken in answer["modelsBroken"]:
        note(plain(f"{broken['path']}: {broken['reason']}"))
    return 0


def apply(client: Client, args: argparse.Namespace) -> int:
    say_plan(client.call("POST", f"{MODELS}/apply?dryRun={'true' if args.dry_run else 'false'}"))
    return 0


def say_plan(answer: Any) -> None:
    say(answer["message"])
    for verb in ("stop", "start", "keep", "blocked"):
        for line in answer[verb]:
            say(f"  {verb:7}  {line['unit'] or '-':27}  {line['modelId']}: {line['reason']}")
