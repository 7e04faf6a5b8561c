"""capture: the texts of requests and answers, kept for a while."""

import argparse
from typing import Any

from magid.cli.client import Client, quoted
from magid.cli.interaction import seconds
from magid.cli.output import note, print_json, say, size, table
from magid.cli.parser import Verbs

PATH = "/api/capture"
_FOR_S = 600.0


def add(verbs: Verbs) -> None:
    group = verbs.group("capture", "keep the texts of requests and answers for a while, to read")
    sub = group.add(
        "start", start, "keep the texts of requests that begin from now on, in magid's memory",
        examples=("magictl capture start", "magictl capture start --for 1h"),
    )  # fmt: skip
    sub.add_argument(
        "--for", dest="seconds", type=seconds, default=_FOR_S, metavar="TIME",
        help="how long from now, 1h at most; another start sets a new end (10m)",
    )  # fmt: skip
    group.add(
        "stop", stop, "end it, and drop all texts", json="",
        examples=("magictl capture stop", "sleep 60; magictl capture stop"),
    )  # fmt: skip
    group.add(
        "ls", ls, "whether it is on, and of which requests texts are kept", aliases=("list",),
        examples=("magictl capture ls", "magictl capture ls --json"),
    )  # fmt: skip
    sub = group.add(
        "show", show, "what a request asked and was answered, as it was sent",
        examples=("magictl capture show d9f1c2e4", "magictl capture show d9f1c2e4 --json"),
    )  # fmt: skip
    sub.add_argument("request", metavar="ID", help="as capture ls has it")


def start(client: Client, args: argparse.Namespace) -> int:
    answer = client.call("POST", PATH, {"seconds": round(args.seconds)})
    if args.json:
        print_json(answer)
        return 0
    say(f"texts are captured until {answer['until']}")
    note("all administrators can read them; clients are told. To end it: magictl capture stop")
    return 0


def stop(client: Client, _args: argparse.Namespace) -> int:
    client.call("DELETE", PATH)
    say("no texts are captured, and none are kept")
    return 0


def ls(client: Client, args: argparse.Namespace) -> int:
    answer = client.call("GET", PATH)
    if args.json:
        print_json(answer)
        return 0
    if not answer["on"]:
        note("no texts are captured; magictl capture start changes that")
        return 0
    note(f"texts are captured until {answer['until']}")
    rows = [
        [row["id"], row["model"], row["token"] or "-", row["path"],
         size(row["requestBytes"]), size(row["answerBytes"])]
        for row in answer["requests"]
    ]  # fmt: skip
    table(("REQUEST", "MODEL", "TOKEN", "PATH", "ASKED", "ANSWERED"), rows, "no request yet")
    return 0


def show(client: Client, args: argparse.Namespace) -> int:
    found = client.call("GET", f"{PATH}/{quoted(args.request)}")
    if args.json:
        print_json(found)
        return 0
    _print("asked", found["request"], found["requestBytes"])
    _print("answered", found["answer"], found["answerBytes"])
    return 0


def _print(what: str, text: Any, whole: int) -> None:
    kept = len(text.encode())
    say(f"-- {what}" + (f", {size(kept)} of {size(whole)}" if kept < whole else ""))
    for line in text.splitlines():
        say(line)
