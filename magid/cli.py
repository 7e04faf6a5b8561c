"""`magictl`: one function per verb, over the REST API. Imports no daemon code.

Data goes to stdout, everything else to stderr. Exit status: 0 done, 1 refused or failed, 2 usage,
3 not ready (`status`), 4 no such model or profile, 130 on Ctrl-C, 141 when the reader went away.
"""

import argparse
import io
import json
import os
import sys
import urllib.parse
from collections.abc import Callable, Sequence
from typing import Any

from magid import __version__
from magid.client import Client, Refused

SOCKET = "/run/magi/magid.sock"
URL = "http://127.0.0.1:8000"

MODELS = "/api/models"


# -- output ----------------------------------------------------------------------------------


def _plain(text: str) -> str:
    """Without terminal escapes, which a name from a file could carry."""
    return "".join(c if c.isprintable() else "?" for c in text.expandtabs())


def _say(text: str) -> None:
    print(_plain(text))


def _note(text: str) -> None:
    """To stderr, line by line."""
    for line in text.split("\n"):
        print(_plain(line), file=sys.stderr)


def _json(value: object) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False)
    print("".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text))


def _table(head: Sequence[str], rows: Sequence[Sequence[object]], nothing: str) -> None:
    if not rows:
        _note(nothing)
        return
    cells = [list(head), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    for row in cells:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return _plain(str(value))


def _size(count: float | None) -> str:
    if count is None:
        return "-"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def _quoted(name: str) -> str:
    return urllib.parse.quote(name, safe="", errors="surrogateescape")


# -- verbs -----------------------------------------------------------------------------------


def status(client: Client, args: argparse.Namespace) -> int:
    answer = client.call("GET", f"{MODELS}/status")
    if args.json:
        _json(answer)
        return 0 if answer["ready"] else 3
    ready = "ready" if answer["ready"] else "not ready"
    states = ", ".join(f"{n} {state}" for state, n in answer["serversByState"].items() if n)
    _say(f"magid {answer['versions']['magid']}: {answer['phase']}, {ready}")
    _say(f"profile:      {_cell(answer['activeProfile'])}")
    _say(f"models:       {answer['totalModels']} known, {answer['enabledModels']} enabled")
    _say(f"servers:      {states or 'none'}")
    _say(f"llama-server: {_cell(answer['versions']['llamaServer'])}")
    pending = answer["pendingChanges"]
    if pending["start"] or pending["stop"]:
        _say(f"pending:      {pending['start']} to start, {pending['stop']} to stop: magictl apply")
    for problem in answer["problems"]:
        _say(f"problem:      {problem}")
    return 0 if answer["ready"] else 3


def ls(client: Client, args: argparse.Namespace) -> int:
    answer = client.call("GET", f"{MODELS}/registry")
    if args.json:
        _json(answer)
        return 0
    _table(
        ("MODEL", "TIER", "THINKING", "SIZE", "PORT", "ENABLED"),
        [
            (m["modelId"], m["effectiveTier"], m["effectiveThinking"], _size(m["sizeBytes"]),
             m["port"], m["enabled"])
            for m in answer["models"].values()
        ],
        f"no models below {answer['scanPath']}",
    )  # fmt: skip
    return 0


def ps(client: Client, args: argparse.Namespace) -> int:
    answer = client.call("GET", f"{MODELS}/servers")
    if args.json:
        _json(answer)
        return 0
    _table(
        ("UNIT", "MODEL", "STATE", "PID", "MEMORY", "UPTIME", "RESTARTS", "REASON"),
        [
            (s["unit"], s["modelId"], s["state"], s["pid"], _size(s["memoryBytes"]),
             f"{s['uptimeSeconds']} s", s["restarts"], s["stateReason"])
            for s in answer["servers"]
        ],
        "no servers",
    )  # fmt: skip
    return 0


def show(client: Client, args: argparse.Namespace) -> int:
    _json(client.call("GET", f"{MODELS}/{_quoted(args.model)}"))
    return 0


def act(client: Client, args: argparse.Namespace) -> int:
    """start, stop and restart; they wait for the end unless --no-wait."""
    wait = "" if args.no_wait else f"?wait={args.timeout:g}"

    def one(model: str) -> None:
        path = f"{MODELS}/servers/{_quoted(model)}/{args.verb}{wait}"
        _say(client.call("POST", path)["message"])

    return _each(args.models, one)


def enable(client: Client, args: argparse.Namespace) -> int:
    wanted = {"enabled": args.verb == "enable"}

    def one(model: str) -> None:
        _changed(client.call("PUT", f"{MODELS}/{_quoted(model)}/enabled", wanted))

    return _each(args.models, one)


def _each(models: Sequence[str], do: Callable[[str], None]) -> int:
    """One that is refused does not keep the others from being done; its status counts."""
    result = 0
    for model in models:
        try:
            do(model)
        except Refused as error:
            _note(f"magictl: {error}")
            result = result or error.status
    return result


def tier(client: Client, args: argparse.Namespace) -> int:
    value = None if args.tier == "auto" else args.tier
    _changed(client.call("PUT", f"{MODELS}/{_quoted(args.model)}/tier", {"tier": value}))
    return 0


def thinking(client: Client, args: argparse.Namespace) -> int:
    value = {"on": True, "off": False, "auto": None}[args.thinking]
    _changed(client.call("PUT", f"{MODELS}/{_quoted(args.model)}/thinking", {"thinking": value}))
    return 0


def _changed(answer: Any) -> None:
    _say(answer["message"])
    if answer["restartRequired"]:
        _note("what runs differs now from what is wanted: magictl apply")


def rescan(client: Client, args: argparse.Namespace) -> int:
    answer = client.call("POST", f"{MODELS}/rescan")
    if args.json:
        _json(answer)
        return 0
    _say(
        f"{answer['modelsFound']} models, {answer['modelsAdded']} added, "
        f"{answer['modelsRemoved']} removed"
    )
    for broken in answer["modelsBroken"]:
        _note(_plain(f"{broken['path']}: {broken['reason']}"))
    return 0


def apply(client: Client, args: argparse.Namespace) -> int:
    _plan(client.call("POST", f"{MODELS}/apply?dryRun={'true' if args.dry_run else 'false'}"))
    return 0


def _plan(answer: Any) -> None:
    _say(answer["message"])
    for verb in ("stop", "start", "keep", "blocked"):
        for line in answer[verb]:
            _say(f"  {verb:7}  {line['unit'] or '-':27}  {line['modelId']}: {line['reason']}")


def profile(client: Client, args: argparse.Namespace) -> int:
    path = f"{MODELS}/profiles"
    if args.action == "ls":
        active = client.call("GET", f"{MODELS}/status")["activeProfile"]
        for name in client.call("GET", path):
            _say(f"{name} (active)" if name == active else name)
        return 0
    if not args.name:
        raise Refused(f"cannot {args.action} a profile without its name; magictl profile ls", 2)
    if args.action == "show":
        _json(client.call("GET", f"{path}/{_quoted(args.name)}"))
    elif args.action == "activate":
        _plan(client.call("POST", f"{path}/{_quoted(args.name)}/activate"))
    else:
        _say(client.call("DELETE", f"{path}/{_quoted(args.name)}")["message"])
    return 0


def logs(client: Client, args: argparse.Namespace) -> int:
    query = {"lines": args.lines, "instance": args.instance, "grep": args.grep, "since": args.since}
    text = urllib.parse.urlencode({k: v for k, v in query.items() if v is not None})
    path = f"{MODELS}/servers/{_quoted(args.model)}/logs?{text}"
    if not args.follow:
        for line in client.call("GET", path)["lines"]:
            _say(line["message"])
        return 0
    for kind, line in client.stream(f"{path}&follow=true"):
        if kind == "log":
            _say(line["message"])
            _flush()
    return 0


def version(_client: Client, _args: argparse.Namespace) -> int:
    _say(f"magictl {__version__}")
    return 0


# -- the command line ------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """All verbs and options; the manual and the completions are made from it too."""
    root = argparse.ArgumentParser(prog="magictl", description="Operates magid.")
    root.add_argument("--version", action="version", version=f"magictl {__version__}")
    root.add_argument("--url", help="http://HOST:PORT or unix:/PATH (MAGI_URL)")
    verbs = root.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, run: Callable[[Client, argparse.Namespace], int], text: str) -> Any:
        sub = verbs.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        return sub

    for name, run, text in (
        ("status", status, "one summary; exit status 3 when not ready"),
        ("ls", ls, "all models"),
        ("ps", ps, "all servers"),
        ("rescan", rescan, "read the model folders again"),
    ):
        verb(name, run, text).add_argument("--json", action="store_true", help="as the API has it")
    verb("show", show, "one model, and what it would run as").add_argument("model")
    for name in ("start", "stop", "restart"):
        sub = verb(name, act, f"{name} the servers of models, and wait for it")
        sub.add_argument("models", nargs="+", metavar="MODEL")
        sub.add_argument("--no-wait", action="store_true", help="return at once")
        sub.add_argument("--timeout", type=float, default=600, help="seconds to wait (600)")
    for name in ("enable", "disable"):
        verb(name, enable, f"{name} models").add_argument("models", nargs="+", metavar="MODEL")
    sub = verb("tier", tier, "override the tier of a model")
    sub.add_argument("model")
    sub.add_argument("tier", choices=("fast", "balanced", "powerful", "auto"))
    sub = verb("thinking", thinking, "override the thinking capability of a model")
    sub.add_argument("model")
    sub.add_argument("thinking", choices=("on", "off", "auto"))
    verb("apply", apply, "make what runs equal what is wanted").add_argument(
        "--dry-run", action="store_true", help="only show the plan"
    )
    sub = verb("profile", profile, "profiles: what should run")
    sub.add_argument("action", choices=("ls", "show", "activate", "delete"))
    sub.add_argument("name", nargs="?")
    _add_logs(verb("logs", logs, "the log of a model's server"))
    verb("version", version, "print the version")
    return root


def _add_logs(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("model")
    sub.add_argument("-f", "--follow", action="store_true", help="go on with new lines")
    sub.add_argument("-n", "--lines", type=int, default=200, help="how many last lines (200)")
    sub.add_argument("--since", help="an RFC 3339 time, or a span back: 90s, 10m, 2h")
    sub.add_argument("--grep", help="only lines with this text")
    sub.add_argument("--instance", type=int, default=0, help="which of its servers (0)")


def _where(url: str | None) -> str:
    asked = url or os.environ.get("MAGI_URL")
    if asked:
        return asked
    return f"unix:{SOCKET}" if os.path.exists(SOCKET) else URL  # noqa: PTH110  # saves an import


def _flush() -> None:
    """What cannot be written shows here, and not after the end."""
    print(end="", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    args = parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal need not know every letter
    try:
        result = int(args.run(Client(_where(args.url)), args))
        _flush()
        return result
    except Refused as error:
        _note(f"magictl: {error}")
        return error.status
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        # Standard output is closed (`magictl ls | head`) or full. Python would try again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return 141
        _note(f"magictl: cannot write to standard output: {error.strerror}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
