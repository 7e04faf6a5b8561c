"""profile: what should run."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from magid.cli import model_names
from magid.cli.client import MODELS, Client, Refused, quoted
from magid.cli.errors import each
from magid.cli.interaction import confirmed, edited
from magid.cli.output import json_line, note, print_json, say
from magid.cli.parser import Verbs
from magid.cli.verbs.plan import add_options, agreed, say_plan

PROFILES = f"{MODELS}/profiles"
TEXTS = f"{MODELS}/profile-texts"
ANSWERED = ("active", "missingModels")  # in the API's answer, and not part of the profile


def add(verbs: Verbs) -> None:
    group = verbs.group("profile", "profiles: what should run")
    group.add(
        "ls", ls, "all profiles", aliases=("list",),
        examples=("magictl profile ls", "magictl profile ls -q"), json="their names",
    ).add_argument("-q", "--quiet", action="store_true", help="only names")  # fmt: skip
    group.add(
        "show", show, "one profile, as its file has it",
        examples=("magictl profile show production", "magictl profile show production --json"),
    ).add_argument("profile", metavar="PROFILE")  # fmt: skip
    group.add(
        "create", create, "create a profile from a file, or from standard input",
        examples=("magictl profile create night.yaml", "magictl profile create - < night.json"),
    ).add_argument("file", metavar="FILE", help="YAML or JSON; -: standard input")  # fmt: skip
    sub = group.add(
        "edit", edit, "edit a profile, which is checked before it is saved",
        examples=("magictl profile edit production", "EDITOR=nano magictl profile edit production"),
    )  # fmt: skip
    sub.add_argument("profile", metavar="PROFILE")
    sub = group.add(
        "activate", activate, "make a profile the active one, and apply it",
        examples=("magictl profile activate night", "magictl profile activate night --dry-run",
                  "magictl profile activate night --no-apply"),
    )  # fmt: skip
    sub.add_argument("profile", metavar="PROFILE")
    sub.add_argument(
        "--no-apply", action="store_true", help="do not apply it yet: magictl apply does"
    )
    add_options(sub)
    sub = group.add(
        "delete", delete, "delete a profile",
        examples=("magictl profile delete night", "magictl profile delete night --yes"),
    )  # fmt: skip
    sub.add_argument("profile", metavar="PROFILE")
    sub.add_argument("-y", "--yes", action="store_true", help="do not ask")
    group.add(
        "validate", validate, "check files of profiles without magid: line and key of a mistake",
        examples=("magictl profile validate night.yaml", "magictl profile validate *.yaml"),
        json="each profile as the API takes it, on a line of its own",
    ).add_argument("file", nargs="+", metavar="FILE", help="YAML or JSON; -: stdin")  # fmt: skip


def ls(client: Client, args: argparse.Namespace) -> int:
    names = client.call("GET", PROFILES)
    if args.json:
        print_json(names)
        return 0
    active = "" if args.quiet else client.call("GET", f"{MODELS}/status")["activeProfile"]
    for name in names:
        say(f"{name} (active)" if name == active else name)
    return 0


def show(client: Client, args: argparse.Namespace) -> int:
    answer = client.call("GET", _path(args.profile))
    if args.json:
        print_json(answer)
        return 0
    print(_yaml(answer), end="")
    _warn(client, answer["missingModels"])
    return 0


def _warn(client: Client, patterns: Sequence[str]) -> None:
    """Warns of entries that select no model, with the nearest names."""
    if patterns:
        models = model_names.present(client)
        for pattern in patterns:
            note(model_names.warning(pattern, models))


def create(client: Client, args: argparse.Namespace) -> int:
    answer = client.call("POST", PROFILES, read(*_content(args.file)))
    if args.json:
        print_json(answer)
        return 0
    say(answer["message"])
    _warn(client, client.call("GET", _path(answer["profileName"]))["missingModels"])
    note(f"try: magictl profile activate {answer['profileName']}")
    return 0


def edit(client: Client, args: argparse.Namespace) -> int:
    """Edits a profile's file. Uses If-Match, so that a concurrent change is not lost."""
    path = f"{TEXTS}/{quoted(args.profile)}"
    answer, tag = client.tagged("GET", path)

    def save(text: str) -> Any:
        read(text.encode(), f"profile {args.profile!r}")
        return client.tagged("PUT", path, {"text": text}, tag)[0]

    saved = edited(answer["text"], f"{args.profile}.yaml", save)
    if saved is None:
        note("Nothing was changed")
    elif args.json:
        print_json(saved)
    else:
        say(saved["message"])
        _warn(client, client.call("GET", _path(args.profile))["missingModels"])
        if saved["active"]:
            note("it is the active one: magictl diff, magictl apply")
    return 0


def activate(client: Client, args: argparse.Namespace) -> int:
    path = f"{_path(args.profile)}/activate"

    def plan() -> Any:
        return client.call("POST", f"{path}?dryRun=true")

    _warn(client, client.call("GET", _path(args.profile))["missingModels"])
    is_shown = False
    if args.dry_run:
        answer = plan()
    else:
        if not args.no_apply:
            is_shown = agreed(args, f"activate profile {args.profile!r}", plan)
        answer = client.call("POST", f"{path}?apply=false" if args.no_apply else path)
    print_json(answer) if args.json else say_plan(answer, is_shown=is_shown)
    return 0


def delete(client: Client, args: argparse.Namespace) -> int:
    client.call("GET", _path(args.profile))  # fails before the question if it does not exist
    confirmed(f"delete profile {args.profile!r}", yes=args.yes)
    answer = client.call("DELETE", _path(args.profile))
    print_json(answer) if args.json else say(answer["message"])
    return 0


def validate(client: Client, args: argparse.Namespace) -> int:
    def one(file: str) -> None:
        content, source = _content(file)
        data = read(content, source)
        json_line(data) if args.json else say(f"{source} is a valid profile, {data['name']!r}")

    return each(client, args.file, one)


def _path(name: str) -> str:
    return f"{PROFILES}/{quoted(name)}"


# -- its text --------------------------------------------------------------------------------


def read(content: bytes, source: str) -> dict[str, Any]:
    """Parses a profile from YAML or JSON for the API. Raises Refused with line and key."""
    from magid.catalog.profile import parse  # late: takes longer than all the rest
    from magid.errors import InvalidProfile
    from magid.files import schema

    try:
        profile = parse(content, source)
    except InvalidProfile as error:
        raise Refused(f"{error.message}\ntry: man 5 magi-profile") from None
    data: dict[str, Any] = schema.plain(profile, api_names=True)
    return data


def _yaml(answer: dict[str, Any]) -> str:
    """Returns the profile with the keys of a file: snake_case."""
    from magid.catalog.profile import Profile
    from magid.files import schema
    from magid.files.strict_yaml import dumps

    given = {key: value for key, value in answer.items() if key not in ANSWERED}
    return dumps(schema.plain(schema.read(given, Profile)))


def _content(file: str) -> tuple[bytes, str]:
    if file == "-":
        return sys.stdin.buffer.read(), "standard input"
    try:
        with open(file, "rb") as opened:  # noqa: PTH123  # saves an import
            return opened.read(), file
    except OSError as error:
        raise Refused(f"cannot read {file}: {error.strerror}") from None
