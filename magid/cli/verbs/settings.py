"""enable, disable, tier, thinking, set: what a person decides about a model."""

import argparse
from typing import Any

from magid.cli.client import MODELS, Client, quoted
from magid.cli.errors import each
from magid.cli.model_names import named
from magid.cli.output import json_line, note, say
from magid.cli.parser import Verbs
from magid.cli.verbs.servers import carry_out

EXAMPLE = "qwen3_4p0b_q4km_fast"
OF_ITS_OWN = ("port", "enabled")  # each has a route of its own
NOW = {"enable": "start", "disable": "stop"}
LINES = "each answer of the API on a line of its own"


def add(verbs: Verbs) -> None:
    for name in ("enable", "disable"):
        sub = verbs.add(
            name, enable, f"{name} models, whatever the profile says", json=LINES,
            examples=(
                f"magictl {name} {EXAMPLE}", f"magictl {name} --now {EXAMPLE}",
                f"magictl ls -q --tier fast | xargs magictl {name}",
            ),
        )  # fmt: skip
        sub.add_argument("models", nargs="+", metavar="MODEL")
        verb = NOW[name]
        sub.add_argument("--now", action="store_true", help=f"{verb} their servers too, and wait")
    sub = verbs.add(
        "tier", tier, "override the tier of a model; auto: as it was found",
        examples=(f"magictl tier {EXAMPLE} balanced", f"magictl tier {EXAMPLE} auto"),
    )  # fmt: skip
    sub.add_argument("model", metavar="MODEL")
    sub.add_argument("tier", choices=("fast", "balanced", "powerful", "auto"))
    sub = verbs.add(
        "thinking", thinking, "override whether a model thinks; auto: as it was found",
        examples=(f"magictl thinking {EXAMPLE} on", f"magictl thinking {EXAMPLE} auto"),
    )  # fmt: skip
    sub.add_argument("model", metavar="MODEL")
    sub.add_argument("thinking", choices=("on", "off", "auto"))
    sub = verbs.add(
        "set", set_, "change how a model runs; KEY= puts a key back to its default", json=LINES,
        examples=(
            f"magictl set {EXAMPLE} ctxSize=8192 parallel=4",
            f"magictl set {EXAMPLE} extraArgs='--temp 0.2' memoryMax=24G port=8085",
            f"magictl set {EXAMPLE} ctxSize= port= enabled=",
        ),
    )  # fmt: skip
    sub.add_argument("model", metavar="MODEL")
    sub.add_argument("settings", nargs="+", metavar="KEY=VALUE", help="KEY= for the default")
    sub.details = _explain_keys


def _explain_keys() -> str:
    from magid.cli import setting_keys  # late: it takes some milliseconds

    return setting_keys.explain()


def enable(client: Client, args: argparse.Namespace) -> int:
    wanted = {"enabled": args.verb == "enable"}

    def one(model: str) -> None:
        answer = client.call("PUT", f"{MODELS}/{quoted(model)}/enabled", wanted)
        changed(args, answer, is_pending=answer["restartRequired"] and not args.now)
        if args.now:
            carry_out(client, model, NOW[args.verb], json=args.json)

    return each(client, args.models, named(client, one))


def tier(client: Client, args: argparse.Namespace) -> int:
    value = None if args.tier == "auto" else args.tier
    _put(client, args, "tier", {"tier": value})
    return 0


def thinking(client: Client, args: argparse.Namespace) -> int:
    value = {"on": True, "off": False, "auto": None}[args.thinking]
    _put(client, args, "thinking", {"thinking": value})
    return 0


def set_(client: Client, args: argparse.Namespace) -> int:
    """Sets the port first: it may be refused for reasons that magictl cannot check."""
    from magid.cli import setting_keys  # late: it takes some milliseconds

    wanted = dict(map(setting_keys.parse, args.settings))
    for key in OF_ITS_OWN:
        if key in wanted:
            _put(client, args, key, {key: wanted.pop(key)})
    if wanted:
        _put(client, args, "runtime-settings", wanted)
    return 0


def _put(client: Client, args: argparse.Namespace, what: str, body: Any) -> None:
    def put(model: str) -> Any:
        return client.call("PUT", f"{MODELS}/{quoted(model)}/{what}", body)

    changed(args, named(client, put)(args.model))


def changed(args: argparse.Namespace, answer: Any, *, is_pending: bool | None = None) -> None:
    """Says that a decision about a model was taken, and whether it is in force."""
    if args.json:
        json_line(answer)
        return
    say(answer["message"])
    if answer["restartRequired"] if is_pending is None else is_pending:
        note("not in force yet; run: magictl apply")
