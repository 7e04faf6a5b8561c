"""logs: what a model's server has written, and magid itself."""

import argparse
import time
import urllib.parse
from collections.abc import Iterator
from typing import Any

from magid.cli.deadline import TIMED_OUT
from magid.cli.output import flush, json_line, print_json, say
from magid.cli.verbs import Verbs
from magid.client import MODELS, Client, Refused, quoted

AWAY_S, PAUSE_S = 60.0, 0.2  # as for events: a daemon that is restarted comes back
EXAMPLE = "qwen3_4p0b_q4km_fast"


def add(verbs: Verbs) -> None:
    sub = verbs.add(
        "logs", logs, "the log of a model's server; without a model that of magid itself",
        examples=(
            f"magictl logs {EXAMPLE} -n 50", f"magictl logs -f {EXAMPLE} --grep error",
            "magictl logs --since 1h",
        ),
        json="as the API has it; with -f JSON lines",
    )  # fmt: skip
    sub.add_argument("model", nargs="?", metavar="MODEL")
    sub.add_argument("-f", "--follow", action="store_true", help="go on with new lines")
    sub.add_argument("-n", "--lines", type=int, default=200, help="how many last lines (200)")
    sub.add_argument("--since", help="an RFC 3339 time, or a span back: 90s, 10m, 2h")
    sub.add_argument("--grep", help="only lines with this text")
    sub.add_argument("--instance", type=int, help="which of its servers (0)")


def logs(client: Client, args: argparse.Namespace) -> int:
    query = {"lines": args.lines, "instance": args.instance, "grep": args.grep, "since": args.since}
    text = urllib.parse.urlencode({k: v for k, v in query.items() if v is not None})
    of = f"{MODELS}/servers/{quoted(args.model)}" if args.model else "/api"
    path = f"{of}/logs?{text}"
    if args.follow:
        for line in _followed(client, f"{path}&follow=true"):
            json_line(line) if args.json else say(line["message"])
            flush()
        return 0
    answer = client.call("GET", path)
    if args.json:
        print_json(answer)
        return 0
    for line in answer["lines"]:
        say(line["message"])
    return 0


def _followed(client: Client, path: str) -> Iterator[Any]:
    """Each line once, across restarts of the daemon: it goes on behind the last one."""
    after, is_known, lost_at = "", False, 0.0
    while True:
        try:
            for kind, line, key in client.stream(path, after=after):
                is_known, lost_at, after = True, 0.0, key
                if kind == "log":
                    yield line
        except Refused as error:
            if not is_known or error.status == TIMED_OUT:
                raise
        lost_at = lost_at or time.monotonic()
        if time.monotonic() - lost_at > AWAY_S:
            raise Refused(
                "cannot follow the log any longer: magid went away\ntry: systemctl status magid"
            )
        time.sleep(PAUSE_S)
