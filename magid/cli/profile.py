"""profile: what should run."""

import argparse

from magid.cli.output import print_json, say
from magid.cli.planning import say_plan
from magid.cli.verbs import Verbs
from magid.client import MODELS, Client, Refused, quoted


def add(verbs: Verbs) -> None:
    sub = verbs.add("profile", profile, "profiles: what should run")
    sub.add_argument("action", choices=("ls", "show", "activate", "delete"))
    sub.add_argument("name", nargs="?")


def profile(client: Client, args: argparse.Namespace) -> int:
    path = f"{MODELS}/profiles"
    if args.action == "ls":
        active = client.call("GET", f"{MODELS}/status")["activeProfile"]
        for name in client.call("GET", path):
            say(f"{name} (active)" if name == active else name)
        return 0
    if not args.name:
        raise Refused(f"cannot {args.action} a profile without its name; magictl profile ls", 2)
    if args.action == "show":
        print_json(client.call("GET", f"{path}/{quoted(args.name)}"))
    elif args.action == "activate":
        say_plan(client.call("POST", f"{path}/{quoted(args.name)}/activate"))
    else:
        say(client.call("DELETE", f"{path}/{quoted(args.name)}")["message"])
    return 0
