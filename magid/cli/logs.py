"""logs: what a server has written."""

import argparse
import urllib.parse

from magid.cli.output import flush, say
from magid.cli.verbs import Verbs
from magid.client import MODELS, Client, quoted


def add(verbs: Verbs) -> None:
    sub = verbs.add("logs", logs, "the log of a model's server")
    sub.add_argument("model")
    sub.add_argument("-f", "--follow", action="store_true", help="go on with new lines")
    sub.add_argument("-n", "--lines", type=int, default=200, help="how many last lines (200)")
    sub.add_argument("--since", help="an RFC 3339 time, or a span back: 90s, 10m, 2h")
    sub.add_argument("--grep", help="only lines with this text")
    sub.add_argument("--instance", type=int, default=0, help="which of its servers (0)")


def logs(client: Client, args: argparse.Namespace) -> int:
    query = {"lines": args.lines, "instance": args.instance, "grep": args.grep, "since": args.since}
    text = urllib.parse.urlencode({k: v for k, v in query.items() if v is not None})
    path = f"{MODELS}/servers/{quoted(args.model)}/logs?{text}"
    if not args.follow:
        for line in client.call("GET", path)["lines"]:
            say(line["message"])
        return 0
    for kind, line in client.stream(f"{path}&follow=true"):
        if kind == "log":
            say(line["message"])
            flush()
    return 0
