"""usage: requests and tokens, by caller, model and day."""

import argparse
from typing import Any
from urllib.parse import urlencode

from magid.cli.client import Client
from magid.cli.output import note, print_json, table
from magid.cli.parser import Verbs

COLUMNS = ("day", "token", "model")


def add(verbs: Verbs) -> None:
    sub = verbs.add(
        "usage", usage, "requests and tokens of the last days, by caller and model",
        examples=("magictl usage", "magictl usage --days 30 --by token", "magictl usage --by day"),
    )  # fmt: skip
    sub.add_argument(
        "--days", type=int, default=7, metavar="N", help="how many; today (UTC) is the last (7)"
    )
    sub.add_argument(
        "--by", default="token,model", metavar="WHAT",
        help="what to sum by: some of day, token and model, with commas (token,model)",
    )  # fmt: skip


def usage(client: Client, args: argparse.Namespace) -> int:
    query = urlencode({"days": args.days, "by": args.by.replace(" ", "")})
    answer = client.call("GET", f"/api/usage?{query}")
    if args.json:
        print_json(answer)
        return 0
    for problem in answer["problems"]:
        note(problem)
    shown = [name for name in COLUMNS if name in args.by.split(",")]
    rows = [[*(_named(row, name) for name in shown), *_figures(row)] for row in answer["rows"]]
    if len(rows) > 1:
        rows.append([*("total" if not at else "" for at in range(len(shown))),
                     *_figures(answer["total"])])  # fmt: skip
    head = (*map(str.upper, shown), "REQUESTS", "PROMPT", "CACHED", "ANSWER")
    table(head, rows, f"no requests from {answer['from']} to {answer['to']}")
    return 0


def _named(row: Any, name: str) -> str:
    """Callers over the unix socket, or before there was any token, have none."""
    return row[name] or "(no token)"


def _figures(row: Any) -> list[int]:
    return [row[key] for key in ("requests", "promptTokens", "cachedTokens", "answerTokens")]
