"""rescan, apply, diff: what is on disk, and what should run."""

import argparse
from typing import Any

from magid.cli.client import MODELS, Client
from magid.cli.output import note, paint, plain, print_json, say
from magid.cli.parser import Verbs
from magid.cli.verbs.status import say_condition

SIGNS = {"stop": ("-", "31"), "start": ("+", "32"), "blocked": ("!", "33"), "keep": (" ", "2")}


def add(verbs: Verbs) -> None:
    verbs.add(
        "rescan", rescan, "read the model folders again",
        examples=("magictl rescan", "magictl rescan --json"),
    )  # fmt: skip
    sub = verbs.add(
        "apply", apply, "make what runs equal what is wanted",
        examples=("magictl apply", "magictl apply --dry-run"),
    )  # fmt: skip
    sub.add_argument("--dry-run", action="store_true", help="only show the plan, as diff does")
    verbs.add(
        "diff", diff, "what apply would change, and why",
        examples=("magictl diff", "magictl diff --json"),
    )  # fmt: skip


def rescan(client: Client, args: argparse.Namespace) -> int:
    answer = client.call("POST", f"{MODELS}/rescan")
    if args.json:
        print_json(answer)
        return 0
    say(
        f"{answer['modelsFound']} models, {answer['modelsAdded']} added, "
        f"{answer['modelsRemoved']} removed"
    )
    for sign, names in (("+", answer["added"]), ("-", answer["removed"])):
        for name in names:
            say(f"  {sign} {name}")
    for broken in answer["modelsBroken"]:
        note(plain(f"{broken['path']}: {broken['reason']}"))
    for one in answer["conditions"]:
        say_condition(one)
    return 0


def apply(client: Client, args: argparse.Namespace) -> int:
    if args.dry_run:
        return diff(client, args)
    answer = client.call("POST", f"{MODELS}/apply")
    print_json(answer) if args.json else say_plan(answer)
    return 0


def diff(client: Client, args: argparse.Namespace) -> int:
    answer = client.call("POST", f"{MODELS}/apply?dryRun=true")
    print_json(answer) if args.json else _lines(answer)
    return 0


def say_plan(answer: Any) -> None:
    """Its message, then what it changes."""
    say(answer["message"])
    _lines({**answer, "keep": []})


def _lines(answer: Any) -> None:
    """Like a diff: - stops, + starts, ! cannot be done, and what stays as it is."""
    for verb, (sign, colour) in SIGNS.items():
        for line in answer[verb]:
            text = f"{sign} {line['unit'] or '-':27}  {line['modelId']}: {line['reason']}"
            print(paint(plain(text), colour))
    for one in answer["conditions"]:
        say_condition(one)
