"""start, stop, restart: the servers of models."""

import argparse

from magid.cli.output import say
from magid.cli.verbs import Verbs, each
from magid.client import MODELS, Client, quoted


def add(verbs: Verbs) -> None:
    for name in ("start", "stop", "restart"):
        sub = verbs.add(name, act, f"{name} the servers of models, and wait for it")
        sub.add_argument("models", nargs="+", metavar="MODEL")
        sub.add_argument("--no-wait", action="store_true", help="return at once")
        sub.add_argument("--timeout", type=float, default=600, help="seconds to wait (600)")


def act(client: Client, args: argparse.Namespace) -> int:
    """start, stop and restart; they wait for the end unless --no-wait."""
    wait = "" if args.no_wait else f"?wait={args.timeout:g}"

    def one(model: str) -> None:
        path = f"{MODELS}/servers/{quoted(model)}/{args.verb}{wait}"
        say(client.call("POST", path)["message"])

    return each(args.models, one)
