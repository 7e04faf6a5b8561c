"""rescan, apply, diff: what is on disk, and what should run."""

import argparse
import sys
from collections.abc import Callable
from typing import Any

from magid.cli.client import MODELS, Client, Refused
from magid.cli.interaction import agrees
from magid.cli.output import note, paint, plain, print_json, say
from magid.cli.parser import Verbs
from magid.cli.verbs.status import note_condition
from magid.wording.counts import counted

SIGNS = {"stop": ("-", "31"), "start": ("+", "32"), "blocked": ("!", "33"), "keep": (" ", "2")}


def add(verbs: Verbs) -> None:
    verbs.add(
        "rescan", rescan, "read the model folders again",
        examples=("magictl rescan", "magictl rescan --json"),
    )  # fmt: skip
    sub = verbs.add(
        "apply", apply, "make what runs equal what is wanted",
        examples=("magictl apply", "magictl apply --rescan", "magictl apply --dry-run"),
    )  # fmt: skip
    add_options(sub, "as diff does")
    sub.add_argument("--rescan", action="store_true", help="read the model folders again first")
    verbs.add(
        "diff", diff, "what apply would change, and why",
        examples=("magictl diff", "magictl diff --json"),
    )  # fmt: skip


def rescan(client: Client, args: argparse.Namespace) -> int:
    answer = client.call("POST", f"{MODELS}/rescan")
    if args.json:
        print_json(answer)
        return 0
    _say_scan(answer)
    for one in answer["conditions"]:
        note_condition(one)
    return 0


def _say_scan(answer: Any) -> None:
    say(
        f"{counted(answer['modelsFound'], 'model')}, {answer['modelsAdded']} added, "
        f"{answer['modelsRemoved']} removed"
    )
    for sign, names in (("+", answer["added"]), ("-", answer["removed"])):
        for name in names:
            say(f"  {sign} {name}")
    for broken in answer["modelsBroken"]:
        note(plain(f"{broken['path']}: {broken['reason']}"))


def apply(client: Client, args: argparse.Namespace) -> int:
    if args.rescan:
        scan = client.call("POST", f"{MODELS}/rescan")
        if not args.json:
            _say_scan(scan)
    if args.dry_run:
        return diff(client, args)
    path = f"{MODELS}/apply"
    is_shown = agreed(args, "apply", lambda: client.call("POST", f"{path}?dryRun=true"))
    answer = client.call("POST", path)
    print_json(answer) if args.json else say_plan(answer, is_shown=is_shown)
    return 0


def diff(client: Client, args: argparse.Namespace) -> int:
    answer = client.call("POST", f"{MODELS}/apply?dryRun=true")
    print_json(answer) if args.json else show_plan(answer)
    return 0


def add_options(parser: argparse.ArgumentParser, how: str = "and change nothing") -> None:
    """Adds the options of a verb that may stop servers."""
    parser.add_argument("--dry-run", action="store_true", help=f"only show the plan, {how}")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask before servers stop")


def agreed(args: argparse.Namespace, what: str, plan: Callable[[], Any]) -> bool:
    """Shows the plan and asks, if servers would stop; returns whether it was shown.

    Asks only on a terminal, so that scripts need no option. Raises Refused for a no.
    """
    if args.yes or args.json or not sys.stdin.isatty():
        return False
    changes = plan()
    count = len(changes["stop"])
    if not count:
        return False
    show_plan({**changes, "keep": []})
    if not agrees(f"Stop {counted(count, 'server')}?"):
        raise Refused(f"cannot {what}: you answered no")
    return True


def say_plan(answer: Any, *, is_shown: bool = False) -> None:
    """Prints its message, then what it changes, unless the user has seen that."""
    say(answer["message"])
    if not is_shown:
        show_plan({**answer, "keep": []})


def show_plan(answer: Any) -> None:
    """Like a diff: - stops, + starts, ! cannot be done, and what stays as it is."""
    for verb, (sign, colour) in SIGNS.items():
        for line in answer.get(verb, ()):
            text = f"{sign} {line['unit'] or '-':27}  {line['modelId']}: {line['reason']}"
            print(paint(plain(text), colour))
    for one in answer.get("conditions", ()):
        note_condition(one)
