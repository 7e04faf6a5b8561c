"""enable, disable, tier, thinking: what a person decides about a model."""

import argparse
from typing import Any

from magid.cli.output import note, say
from magid.cli.verbs import Verbs, each
from magid.client import MODELS, Client, quoted


def add(verbs: Verbs) -> None:
    for name in ("enable", "disable"):
        verbs.add(name, enable, f"{name} models").add_argument("models", nargs="+", metavar="MODEL")
    sub = verbs.add("tier", tier, "override the tier of a model")
    sub.add_argument("model")
    sub.add_argument("tier", choices=("fast", "balanced", "powerful", "auto"))
    sub = verbs.add("thinking", thinking, "override the thinking capability of a model")
    sub.add_argument("model")
    sub.add_argument("thinking", choices=("on", "off", "auto"))


def enable(client: Client, args: argparse.Namespace) -> int:
    wanted = {"enabled": args.verb == "enable"}

    def one(model: str) -> None:
        changed(client.call("PUT", f"{MODELS}/{quoted(model)}/enabled", wanted))

    return each(args.models, one)


def tier(client: Client, args: argparse.Namespace) -> int:
    value = None if args.tier == "auto" else args.tier
    changed(client.call("PUT", f"{MODELS}/{quoted(args.model)}/tier", {"tier": value}))
    return 0


def thinking(client: Client, args: argparse.Namespace) -> int:
    value = {"on": True, "off": False, "auto": None}[args.thinking]
    changed(client.call("PUT", f"{MODELS}/{quoted(args.model)}/thinking", {"thinking": value}))
    return 0


def changed(answer: Any) -> None:
    say(answer["message"])
    if answer["restartRequired"]:
        note("what runs differs now from what is wanted: magictl apply")
