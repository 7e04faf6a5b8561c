"""status, ls, ps, show: what there is, and what runs."""

import argparse

from magid.cli.output import cell, print_json, say, size, table
from magid.cli.verbs import Verbs
from magid.client import MODELS, Client, quoted


def add(verbs: Verbs) -> None:
    for name, run, text in (
        ("status", status, "one summary; exit status 3 when not ready"),
        ("ls", ls, "all models"),
        ("ps", ps, "all servers"),
    ):
        verbs.add(name, run, text).add_argument(
            "--json", action="store_true", help="as the API has it"
        )
    verbs.add("show", show, "one model, and what it would run as").add_argument("model")


def status(client: Client, args: argparse.Namespace) -> int:
    answer = client.call("GET", f"{MODELS}/status")
    if args.json:
        print_json(answer)
        return 0 if answer["ready"] else 3
    ready = "ready" if answer["ready"] else "not ready"
    states = ", ".join(f"{n} {state}" for state, n in answer["serversByState"].items() if n)
    say(f"magid {answer['versions']['magid']}: {answer['phase']}, {ready}")
    say(f"profile:      {cell(answer['activeProfile'])}")
    say(f"models:       {answer['totalModels']} known, {answer['enabledModels']} enabled")
    say(f"servers:      {states or 'none'}")
    say(f"llama-server: {cell(answer['versions']['llamaServer'])}")
    pending = answer["pendingChanges"]
    if pending["start"] or pending["stop"]:
        say(f"pending:      {pending['start']} to start, {pending['stop']} to stop: magictl apply")
    for problem in answer["problems"]:
        say(f"problem:      {problem}")
    return 0 if answer["ready"] else 3


def ls(client: Client, args: argparse.Namespace) -> int:
    answer = client.call("GET", f"{MODELS}/registry")
    if args.json:
        print_json(answer)
        return 0
    table(
        ("MODEL", "TIER", "THINKING", "SIZE", "PORT", "ENABLED"),
        [
            (m["modelId"], m["effectiveTier"], m["effectiveThinking"], size(m["sizeBytes"]),
             m["port"], m["enabled"])
            for m in answer["models"].values()
        ],
        f"no models below {answer['scanPath']}",
    )  # fmt: skip
    return 0


def ps(client: Client, args: argparse.Namespace) -> int:
    answer = client.call("GET", f"{MODELS}/servers")
    if args.json:
        print_json(answer)
        return 0
    table(
        ("UNIT", "MODEL", "STATE", "PID", "MEMORY", "UPTIME", "RESTARTS", "REASON"),
        [
            (s["unit"], s["modelId"], s["state"], s["pid"], size(s["memoryBytes"]),
             f"{s['uptimeSeconds']} s", s["restarts"], s["stateReason"])
            for s in answer["servers"]
        ],
        "no servers",
    )  # fmt: skip
    return 0


def show(client: Client, args: argparse.Namespace) -> int:
    print_json(client.call("GET", f"{MODELS}/{quoted(args.model)}"))
    return 0
