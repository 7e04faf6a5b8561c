"""logs: what a model's server has written, and magid itself."""

import argparse
import time
import urllib.parse
from typing import Any

from magid.cli.client import MODELS, Client, Refused, quoted
from magid.cli.model_names import named
from magid.cli.output import flush, json_line, print_json, say
from magid.cli.parser import Verbs
from magid.cli.verbs.events import followed

EXAMPLE = "qwen3_4p0b_q4km_fast"


def add(verbs: Verbs) -> None:
    sub = verbs.add(
        "logs", logs, "the log of a model's server; without a model that of magid itself",
        examples=(
            f"magictl logs {EXAMPLE} -n 50", f"magictl logs -f {EXAMPLE} --grep error",
            f"magictl logs {EXAMPLE} --previous",
        ),
        json="as the API has it; with -f JSON lines",
    )  # fmt: skip
    sub.add_argument("model", nargs="?", metavar="MODEL")
    sub.add_argument("-f", "--follow", action="store_true", help="go on with new lines")
    sub.add_argument("-n", "--lines", type=int, default=200, help="how many last lines (200)")
    sub.add_argument("--since", help="an RFC 3339 time, or a span back: 90s, 10m, 2h")
    sub.add_argument("--grep", help="only lines with this text")
    which = sub.add_mutually_exclusive_group()
    which.add_argument("--previous", dest="run_of_server", action="store_const", const="previous",
                       help="the run before the last start", default="current")  # fmt: skip
    which.add_argument("--all", dest="run_of_server", action="store_const", const="all",
                       help="all runs, not the last one alone", default="current")  # fmt: skip
    sub.add_argument("--instance", type=int, help="which of its servers (0)")


def logs(client: Client, args: argparse.Namespace) -> int:
    query: dict[str, Any] = {
        "lines": args.lines,
        "instance": args.instance,
        "grep": args.grep,
        "since": args.since,
    }
    if args.model:
        query["run"] = args.run_of_server
    elif args.run_of_server != "current":
        raise Refused(
            "cannot tell runs of magid apart: only a model's server has them\n"
            "try: magictl logs MODEL, or journalctl -u magid", 2,
        )  # fmt: skip
    text = urllib.parse.urlencode({k: v for k, v in query.items() if v is not None})

    def of(model: str) -> int:
        return _print(client, args, f"{MODELS}/servers/{quoted(model)}/logs?{text}")

    return (
        named(client, of)(args.model) if args.model else _print(client, args, f"/api/logs?{text}")
    )


def _print(client: Client, args: argparse.Namespace, path: str) -> int:
    if args.follow:
        for _, line in followed(client, f"{path}&follow=true"):
            json_line(line) if args.json else _say(line)
            flush()
        return 0
    answer = client.call("GET", path)
    if args.json:
        print_json(answer)
        return 0
    for line in answer["lines"]:
        _say(line)
    return 0


def _say(line: Any) -> None:
    """Formats an entry with its time of day, and of magid's own log also with its level.

    An entry can have several lines. All but the first are indented: whatever is in them, they
    do not look like other entries.
    """
    first, *more = line["message"].split("\n")
    level = line.get("level")
    say(f"{line['timestamp']} {level}: {first}" if level else f"{_clock(line)}{first}")
    for text in more:
        say(f"  {text}")


def _clock(line: Any) -> str:
    """Returns `23:12:05  ` in local time, with the date unless it is today."""
    if "timestamp" not in line:
        return ""
    import calendar  # late: only logs need it

    then = calendar.timegm(time.strptime(line["timestamp"][:19], "%Y-%m-%dT%H:%M:%S"))
    at, today = time.localtime(then), time.localtime()
    return time.strftime("%H:%M:%S  " if at[:3] == today[:3] else "%Y-%m-%d %H:%M:%S  ", at)
