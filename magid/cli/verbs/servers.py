"""start, stop, restart, wait: the servers of models."""

import argparse
from typing import Any

from magid.cli.client import MODELS, Client, Refused, quoted
from magid.cli.errors import each
from magid.cli.interaction import Progress, confirmed, seconds, wait_seconds, within
from magid.cli.model_names import named
from magid.cli.output import json_line, say
from magid.cli.parser import Verbs
from magid.cli.verbs.events import changes
from magid.cli.verbs.plan import say_plan, show_plan

ALIASES = {"start": ("load",), "stop": ("unload",), "restart": ()}
EXAMPLE = "qwen3_4p0b_q4km_fast"
_WAIT_S = 600.0  # for a server, without --timeout
_GRACE_S = 5.0  # more, so that magid's own timeout, which has the reason, comes first
LINES = "each answer of the API on a line of its own"


def add(verbs: Verbs) -> None:
    for name, aliases in ALIASES.items():
        last = (
            "magictl restart MODEL --timeout 5m" if name == "restart" else f"magictl {name} --all"
        )
        sub = verbs.add(
            name, act, f"{name} the servers of models, and wait for it",
            aliases=aliases, json=LINES,
            examples=(f"magictl {name} {EXAMPLE}", f"magictl {name} {EXAMPLE} --no-wait", last),
        )  # fmt: skip
        sub.add_argument("models", nargs="+" if name == "restart" else "*", metavar="MODEL")
        sub.add_argument("--no-wait", action="store_true", help="return at once")
        sub.add_argument("-t", "--timeout", type=wait_seconds, default=_WAIT_S, metavar="TIME",
                         help="how long to wait, 30 or 5m (10m)")  # fmt: skip
        if name != "restart":
            which = "those that should run" if name == "start" else "all that run"
            sub.add_argument("--all", action="store_true", help=f"{which}, without waiting")
        if name == "stop":
            sub.add_argument("-y", "--yes", action="store_true", help="with --all: do not ask")
            sub.add_argument("--dry-run", action="store_true", help="with --all: only show which")
    sub = verbs.add(
        "wait", wait, "wait until a model is ready as it is wanted now, or stopped",
        examples=(f"magictl wait {EXAMPLE}", f"magictl wait {EXAMPLE} --for=stopped --timeout 30"),
        json="the servers, as the API has them",
    )  # fmt: skip
    sub.add_argument("model", metavar="MODEL")
    sub.add_argument("--for", dest="state", choices=("ready", "stopped"), default="ready",
                     help="what to wait for (ready)")  # fmt: skip
    sub.add_argument(
        "-t",
        "--timeout",
        type=seconds,
        metavar="TIME",
        help="give up after this time, as 30 or 5m, with exit status 124 (never)",
    )


# -- start, stop, restart --------------------------------------------------------------------


def act(client: Client, args: argparse.Namespace) -> int:
    """Carries out start, stop or restart; waits for the result unless --no-wait is given."""
    if getattr(args, "all", False):
        return _act_on_all(client, args)
    if not args.models:
        raise Refused(
            f"cannot {args.verb} without a model: none is named\ntry: magictl {args.verb} MODEL, "
            f"or magictl {args.verb} --all", 2
        )  # fmt: skip
    wait_s = None if args.no_wait else args.timeout

    def one(model: str) -> None:
        carry_out(client, model, args.verb, wait_s=wait_s, json=args.json)

    return each(client, args.models, named(client, one))


def carry_out(
    client: Client, model: str, verb: str, *, wait_s: float | None = _WAIT_S, json: bool = False
) -> None:
    """Starts, stops or restarts one model, and prints the answer. `wait_s` None: without waiting.

    Raises Refused, as a timeout too.
    """
    wait = "" if wait_s is None else f"?wait={wait_s:g}"
    limit_s = None if wait_s is None else wait_s + _GRACE_S
    late = f"cannot {verb} {model}: it took longer than {wait_s or 0:g} s\ntry: magictl ps -a"
    with (
        within(limit_s, late),
        Progress(client, model, wanted=bool(wait) and verb != "stop"),
    ):
        answer = client.call("POST", f"{MODELS}/servers/{quoted(model)}/{verb}{wait}")
    json_line(answer) if json else say(answer["message"])


def _act_on_all(client: Client, args: argparse.Namespace) -> int:
    if args.models:
        raise Refused(f"cannot {args.verb} some and all: give models or --all", 2)
    if args.verb == "stop" and args.dry_run:
        servers = client.call("GET", f"{MODELS}/servers")["servers"]
        plan = {"stop": [{**s, "reason": f"is {s['state']}"} for s in servers if s["isRunning"]]}
        json_line(plan) if args.json else show_plan(plan)
        return 0
    if args.verb == "stop":
        confirmed("stop all servers", yes=args.yes)
    answer = client.call("POST", f"{MODELS}/servers/{args.verb}-all")
    json_line(answer) if args.json else say_plan(answer)
    return 0


# -- wait ------------------------------------------------------------------------------------


def wait(client: Client, args: argparse.Namespace) -> int:
    detail = named(client, lambda word: client.call("GET", f"{MODELS}/{quoted(word)}"))
    late = f"it was not {args.state} after {args.timeout or 0:g} s"
    advice = "try: magictl diff, magictl ps -a"
    with within(args.timeout, f"cannot wait longer for {args.model}: {late}\n{advice}"):
        model = detail(args.model)["modelId"]
        with Progress(client, model):
            servers = _wait(client, model, args.state)
    if args.json:
        json_line({"modelId": model, "servers": servers})
    else:
        say(f"{model} is {args.state}")
    return 0


def _is_so(servers: list[Any], state: str) -> bool:
    """Whether all servers are in this state; ready ones also with their current settings."""
    if state == "ready":
        return bool(servers) and all(s["isReady"] and s["specCurrent"] for s in servers)
    return all(server["state"] == state for server in servers)


def _wait(client: Client, model: str, state: str) -> list[Any]:
    """Returns the model's servers once all are as wanted. Raises Refused if one has failed."""
    servers: dict[int, Any] = {}
    for kind, data in changes(client):
        if kind == "snapshot":
            servers = {s["port"]: s for s in data["servers"]["servers"] if s["modelId"] == model}
        elif kind == "server" and data["server"]["modelId"] == model:
            servers[data["server"]["port"]] = data["server"]
        if _is_so(list(servers.values()), state):
            break
        broken = [s for s in servers.values() if s["state"] == "failed"]
        if state == "ready" and broken:
            raise Refused(
                f"cannot wait for {model}: its server has failed, {broken[0]['stateReason']}\n"
                f"try: magictl logs {model}"
            )
    return list(servers.values())
