"""token: who may call over TCP."""

import argparse
import os
import re
import time
from collections.abc import Callable
from typing import Any

from magid.cli import model_names
from magid.cli.client import Client, Refused, quoted
from magid.cli.errors import each
from magid.cli.output import note, print_json, say, table
from magid.cli.parser import Verbs

PATH = "/api/tokens"
_UNITS = {"h": 3600, "d": 86_400, "w": 604_800}


def add(verbs: Verbs) -> None:
    group = verbs.group("token", "tokens: who may call over TCP")
    _add_create(group)
    _may_be_offline(group.add(
        "ls", ls, "all tokens, and when they were last used", aliases=("list",),
        examples=("magictl token ls", "magictl token ls --json"),
    ))  # fmt: skip
    sub = group.add(
        "limit", limit, "change how much a token may ask of the gateway",
        examples=(
            "magictl token limit ci --requests-per-minute 60 --tokens-per-day 1000000",
            "magictl token limit ci",
        ),
    )  # fmt: skip
    sub.add_argument("token", metavar="NAME", help="without an option, all its limits are lifted")
    _add_limits(sub)
    _may_be_offline(group.add(
        "revoke", revoke, "make tokens worthless, at once", aliases=("rm", "delete"),
        examples=("magictl token revoke ci", "magictl token revoke ci --offline"), json="",
    )).add_argument("tokens", nargs="+", metavar="NAME")  # fmt: skip


LIMITS = {
    "requestsPerMinute": ("--requests-per-minute", "requests to the gateway in a minute"),
    "requestsAtOnce": ("--requests-at-once", "requests to the gateway under way at a time"),
    "tokensPerDay": ("--tokens-per-day", "tokens, read and made, in a day (UTC)"),
}


def _add_limits(parser: argparse.ArgumentParser) -> None:
    for key, (option, text) in LIMITS.items():
        parser.add_argument(option, dest=key, type=int, metavar="N", help=f"at most so many {text}")


def _limits(args: argparse.Namespace) -> dict[str, int]:
    return {key: value for key in LIMITS if (value := getattr(args, key)) is not None}


def _may_be_offline(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument(
        "--offline", action="store_true", help="while magid does not run, as root or as its user"
    )
    return parser


def _add_create(group: Verbs) -> None:
    sub = group.add(
        "create", create, "make a token, which is printed this once",
        examples=(
            "magictl token create --name prometheus --scope read",
            "magictl token create --name ci --scope infer --models fast 'qwen*' --expires 90d",
            "magictl token create --offline --name first --scope admin",
        ),
    )  # fmt: skip
    sub.add_argument("--name", required=True, help="what it is called: letters, digits and ._-")
    sub.add_argument(
        "--scope", action="append", choices=("read", "infer", "admin"), required=True,
        help="what it is for; may be repeated; admin has the others in it",
    )  # fmt: skip
    sub.add_argument(
        "--models", nargs="+", metavar="MODEL",
        help="all that it may use of the gateway: ids, globs, aliases, tiers",
    )  # fmt: skip
    sub.add_argument(
        "--expires", metavar="WHEN", help="a span from now, 12h, 90d, 4w, or a date, 2030-12-31"
    )
    _add_limits(sub)
    _may_be_offline(sub)


def create(client: Client, args: argparse.Namespace) -> int:
    body: dict[str, Any] = {"name": args.name, "scopes": args.scope}
    if args.models:
        body["models"] = args.models
    if args.expires:
        body["expiresAt"] = moment(args.expires, time.time())
    if limits := _limits(args):
        body["limits"] = limits
    is_offline = args.offline
    answer = _offline("create_token", body) if is_offline else client.call("POST", PATH, body)
    if args.json:
        print_json(answer)
        return 0
    say(answer["token"])
    if args.models and not is_offline:
        _warn(client, args.models)
    note("this is shown only once: keep it secret")
    return 0


def _warn(client: Client, patterns: list[str]) -> None:
    """Warns of names and globs that allow nothing, with the nearest names."""
    models = model_names.present(client)
    names = [model.model_id for model in models]
    try:
        names += [model["id"] for model in client.call("GET", "/v1/models")["data"]]
    except Refused:
        return  # aliases are not known
    for pattern in model_names.unmatched(patterns, [*names, *model_names.POOLS]):
        note(model_names.warning(pattern, models))


def _offline(what: str, *given: Any) -> Any:
    """Does it without the daemon, whose code no other verb loads."""
    from magid.auth import offline

    do: Callable[..., Any] = getattr(offline, what)
    try:
        return do(os.environ, *given)
    except offline.Impossible as error:
        status = 4 if error.code == "TokenNotFound" else 1
        raise Refused(str(error), status, error.code, error.details) from None


def revoke(client: Client, args: argparse.Namespace) -> int:
    def one(name: str) -> None:
        if args.offline:
            answer = _offline("revoke_token", name)
        else:
            answer = client.call("DELETE", f"{PATH}/{quoted(name)}")
        say(answer["message"])

    return each(client, args.tokens, one)


def limit(client: Client, args: argparse.Namespace) -> int:
    path = f"{PATH}/{quoted(args.token)}/limits"
    answer = client.call("PUT", path, _limits(args))
    print_json(answer) if args.json else say(answer["message"])
    return 0


def ls(client: Client, args: argparse.Namespace) -> int:
    answer = _offline("list_tokens") if args.offline else client.call("GET", PATH)
    if args.json:
        print_json(answer)
        return 0
    if answer["problem"]:
        note(answer["problem"])
    closed = "no tokens; TCP is closed"
    table(
        ("NAME", "SCOPES", "MODELS", "CREATED", "EXPIRES", "LAST USED", "LIMITS"),
        [
            (t["name"], ",".join(t["scopes"]), ",".join(t["models"] or ()), t["createdAt"],
             f"{t['expiresAt']} (expired)" if t["expired"] else t["expiresAt"], t["lastUsedAt"],
             _limited(t.get("limits")))
            for t in answer["tokens"]
        ],
        closed if answer["required"] else "no tokens; every local caller may do everything",
    )  # fmt: skip
    return 0


def _limited(limits: dict[str, int | None] | None) -> str:
    """`60/minute, 4 at once, 1000000 tokens/day`."""
    words = {"requestsPerMinute": "{}/minute", "requestsAtOnce": "{} at once",
             "tokensPerDay": "{} tokens/day"}  # fmt: skip
    found = [
        text.format(value) for key, text in words.items() if (value := (limits or {}).get(key))
    ]
    return ", ".join(found)


def moment(text: str, now: float) -> str:
    """`90d` from now, or the end of a day here, in RFC 3339. Raises Refused."""
    span = re.fullmatch(r"([0-9]{1,5})([hdw])", text)
    if span:
        return _rfc3339(now + int(span[1]) * _UNITS[span[2]])
    try:
        day = time.strptime(text, "%Y-%m-%d")
        return _rfc3339(time.mktime((*day[:3], 23, 59, 59, 0, 0, -1)))
    except (ValueError, OverflowError):
        raise Refused(
            f"cannot read --expires {text}: it is no span from now, 12h, 90d or 4w, and no date, "
            "2030-12-31\ntry: magictl token create --help",
            2,
        ) from None


def _rfc3339(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
