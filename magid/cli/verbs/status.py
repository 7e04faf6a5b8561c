"""status, ls, ps, show, cat: what there is, what runs, and how."""

import argparse
from typing import Any

from magid.cli import hints
from magid.cli.client import MODELS, Client, quoted
from magid.cli.model_names import named
from magid.cli.output import (
    BOLD,
    ago,
    cell,
    explained,
    note,
    paint,
    plain,
    print_json,
    say,
    size,
    span,
    table,
)
from magid.cli.parser import Verbs

DISCOVERED = ("--model", "--alias", "--mmproj", "--embeddings", "--embedding", "--reranking")


def add(verbs: Verbs) -> None:
    verbs.add(
        "status", status, "one summary; exit status 3 when not ready",
        examples=("magictl status", "magictl status --json"),
    )  # fmt: skip
    sub = verbs.add(
        "ls", ls, "all models", aliases=("list",),
        examples=("magictl ls", "magictl ls --tier fast", "magictl ls -q | xargs magictl enable"),
    )  # fmt: skip
    sub.add_argument("-q", "--quiet", action="store_true", help="only names, one on a line")
    sub.add_argument("--tier", choices=("fast", "balanced", "powerful"), help="only of this tier")
    sub = verbs.add(
        "ps", ps, "servers that run; with -a all of them",
        examples=("magictl ps", "magictl ps -a", "magictl ps -q"),
    )  # fmt: skip
    sub.add_argument("-a", "--all", action="store_true", help="those that do not run too")
    sub.add_argument("-q", "--quiet", action="store_true", help="only names of models")
    verbs.add(
        "show", show, "one model: its values, and where each comes from",
        examples=(f"magictl show {EXAMPLE}", f"magictl show {EXAMPLE} --json"),
    ).add_argument("model", metavar="MODEL")  # fmt: skip
    verbs.add(
        "cat", cat, "the command line that a model runs with, and where each part comes from",
        examples=(f"magictl cat {EXAMPLE}", f"magictl cat {EXAMPLE} --json"),
        json="argv and sources, as the API has them",
    ).add_argument("model", metavar="MODEL")  # fmt: skip


_BESIDE_MODELS = frozenset(  # codes of the conditions that `ls` shows
    {"ModelsMissing", "ModelsGone", "ModelsLeftOut", "FilesBroken", "UnitMasked"}
)
_FITS = {"part": "partly"}  # the other words stand as they are
_BESIDE_SERVERS = frozenset({"LimitsNotInForce", "UnitMasked"})  # `ps` does
EXAMPLE = "qwen3_4p0b_q4km_fast"


def status(client: Client, args: argparse.Namespace) -> int:
    answer = client.call("GET", f"{MODELS}/status")
    if args.json:
        print_json(answer)
        return 0 if answer["ready"] else 3
    ready = "ready" if answer["ready"] else "not ready"
    states = ", ".join(f"{n} {state}" for state, n in answer["serversByState"].items() if n)
    memory = answer["memory"]
    say(f"magid {answer['versions']['magid']}: {answer['phase']}, {ready}")
    say(f"profile:      {cell(answer['activeProfile'])}")
    say(f"models:       {_known(answer)}")
    say(f"servers:      {states or 'none'}")
    say(f"llama-server: {cell(answer['versions']['llamaServer'])}")
    say(f"memory:       {size(memory['availableBytes'])} of {size(memory['totalBytes'])} available")
    if pending := _pending(answer):
        say(pending)
    for one in answer["conditions"]:
        if one["code"] != "ChangesPending":  # said above
            for line in _shown(one):
                say(line)
    return 0 if answer["ready"] else 3


def _pending(answer: Any) -> str:
    changes = answer["pendingChanges"]
    if not changes["start"] and not changes["stop"]:
        return ""
    return f"pending:      {changes['start']} to start, {changes['stop']} to stop: magictl apply"


def _known(answer: Any) -> str:
    """Returns the numbers of models; null until magid has read the folders."""
    total, enabled = answer["totalModels"], answer["enabledModels"]
    if enabled is not None:
        return f"{total} known, {enabled} enabled"
    before = "" if total is None else f"{total} known from before, "
    return f"{before}the folders are not read yet"


def _note_conditions(conditions: list[Any], codes: frozenset[str]) -> None:
    for one in conditions:
        if one["code"] in codes:
            note_condition(one)


def note_condition(condition: Any) -> None:
    """Prints it to stderr, because scripts read the list on stdout."""
    for line in _shown(condition):
        note(line)


def _shown(condition: Any) -> list[str]:
    """Returns the lines: the conditions, then the commands that change them."""
    kind = "note:" if condition["severity"] == "note" else "problem:"
    first = f"{kind:13} {hints.translated(condition['message'])}"
    return [first, *(f"{'':14}{command}" for command in condition["remedy"])]


def ls(client: Client, args: argparse.Namespace) -> int:
    answer = client.call("GET", f"{MODELS}/registry")
    models = [m for m in answer["models"].values() if args.tier in (None, m["effectiveTier"])]
    if args.json:
        print_json({**answer, "models": {m["modelId"]: m for m in models}})
    elif args.quiet:
        _names(models)
    else:
        of = f" of tier {args.tier}" if args.tier else ""
        table(
            ("MODEL", "TIER", "THINKING", "SIZE", "FITS", "ENABLED"),
            [
                (m["modelId"], m["effectiveTier"], m["effectiveThinking"], size(m["sizeBytes"]),
                 _FITS.get(m["memory"]["fits"], m["memory"]["fits"]), m["enabled"])
                for m in models
            ],
            f"no models{of} below {', '.join(answer['scanPaths'])}",
        )  # fmt: skip
        _note_conditions(client.call("GET", f"{MODELS}/status")["conditions"], _BESIDE_MODELS)
    return 0


def ps(client: Client, args: argparse.Namespace) -> int:
    answer = client.call("GET", f"{MODELS}/servers?all=true")
    shown = [s for s in answer["servers"] if args.all or s["state"] != "stopped"]
    if args.json:
        print_json({**answer, "servers": shown})
    elif args.quiet:
        _names(shown)
    else:
        rest = len(answer["servers"]) - len(shown)
        on_gpus = any(server["placement"] for server in shown)
        table(
            ("UNIT", "MODEL", "STATE", "PID", "MEMORY", *(("GPU",) if on_gpus else ()), "UPTIME",
             "RESTARTS", "REASON"),
            [_server(server, on_gpus=on_gpus) for server in shown],
            f"no servers run; {rest} are stopped: magictl ps -a" if rest else "no servers",
        )  # fmt: skip
        now = client.call("GET", f"{MODELS}/status")
        if pending := _pending(now):
            note(pending)
        _note_conditions(now["conditions"], _BESIDE_SERVERS)
    return 0


def _server(server: Any, *, on_gpus: bool) -> list[object]:
    """Returns a row of `ps`; where servers have been placed, also on which GPUs each runs."""
    return [
        server["unit"], server["modelId"], server["state"], server["pid"],
        size(server["memoryBytes"]), *([_gpus(server["placement"])] if on_gpus else []),
        span(server["uptimeSeconds"]) if server["isRunning"] else None, server["restarts"],
        server["stateReason"],
    ]  # fmt: skip


def _gpus(placement: Any) -> str | None:
    if placement is None:
        return None
    names = [device["name"] for device in placement["devices"]]
    return ",".join(names + ["processor"] * (placement["extent"] in ("part", "none")))


def _names(rows: list[Any]) -> None:
    for name in dict.fromkeys(row["modelId"] for row in rows):
        say(name)


def _detail(client: Client, word: str) -> Any:
    return named(client, lambda model: client.call("GET", f"{MODELS}/{quoted(model)}"))(word)


def show(client: Client, args: argparse.Namespace) -> int:
    answer = _detail(client, args.model)
    if args.json:
        print_json(answer)
        return 0
    from magid.llama.runtime_settings import SETTINGS  # late: it takes some milliseconds

    sources = answer["sources"]
    say(answer["modelId"])
    rows: list[tuple[str, object, str]] = [
        ("name", answer["displayName"], ""),
        ("file", answer["filePath"], ""),
        *(("with", c["filePath"], c["kind"]) for c in answer["companions"]),
        ("size", f"{size(answer['sizeBytes'])}, {answer['sizeParams']:g} billion parameters", ""),
        ("kind", f"{answer['kind']}, {answer['architecture']}", ""),
        ("context", answer["contextLength"], "tokens at most"),
        ("memory", _need(answer["memory"]), _fitting(answer["memory"])),
        ("found", ago(answer["discoveredAt"]), ""),
        *_downloaded(answer.get("origin")),
        ("tier", answer["effectiveTier"], sources["tier"]),
        ("thinking", answer["effectiveThinking"], f"{sources['thinking']}: {_evidence(answer)}"),
        ("enabled", answer["enabled"], answer["wantedReason"]),
        ("port", ", ".join(map(str, answer["ports"])) or answer["port"], sources["port"]),
        *((s.key, s.show(answer.get(s.key)), _source(answer, s.key)) for s in SETTINGS),
        ("drafts with", *_draft(answer["drafting"])),
        *(("adapter", one["name"], one["filePath"]) for one in answer["adapters"]),
    ]
    explained([(name, cell(value), about) for name, value, about in rows])
    if answer["argvProblem"]:
        say(f"  cannot run: {answer['argvProblem']}")
    return 0


def _downloaded(origin: Any) -> list[tuple[str, object, str]]:
    """Returns where a downloaded model came from."""
    if not origin:
        return []
    commit = f"commit {origin['commit'][:12]}, {ago(origin['downloadedAt'])}"
    return [
        ("from", f"{origin['repository']}/{origin['path']}", commit),
        ("licence", origin["licence"] or None, "as the repository names it"),
    ]


def _need(memory: Any) -> str | None:
    """Returns the need of one server: on GPUs, and of the machine's memory."""
    need = memory["need"]
    if need is None:
        return None
    on_gpus = f"{size(need['devicesBytes'])} on GPUs, " if need["devicesBytes"] else ""
    return f"{on_gpus}{size(need['hostBytes'])} of the machine's"


def _fitting(memory: Any) -> str:
    words = {"yes": "fits", "tight": "fits barely", "part": "fits in part", "no": "does not fit"}
    return f"{words.get(memory['fits'], memory['fits'])}: {memory['why']}"


def _source(answer: Any, key: str) -> str:
    """Returns the source of a setting, and why this machine cannot enforce it."""
    source, why = answer["sources"].get(key, ""), answer.get("notInForce", {}).get(key)
    return f"{source}; not in force: {why}" if why else str(source)


def _draft(used: Any) -> tuple[str | None, str]:
    """Returns what guesses the model's next tokens, and why."""
    if used["type"] is None:
        return None, used["reason"]
    return f"{used['type']}: {used['filePath'] or 'the model itself'}", used["reason"]


def _evidence(answer: Any) -> str:
    return f"{answer['thinkingMode']}, {answer['thinkingEvidence']}"


def cat(client: Client, args: argparse.Namespace) -> int:
    answer = _detail(client, args.model)
    if args.json:
        print_json({key: answer[key] for key in ("modelId", "argv", "argvProblem", "sources")})
        return 0
    for number, argv in enumerate(answer["argv"]):
        if len(answer["argv"]) > 1:
            say(f"# instance {number}")
        print(paint(plain(argv[0]), BOLD))
        explained([(" ".join(words), where) for words, where in _options(argv, answer)])
    if answer["argvProblem"]:
        say(f"# cannot run: {answer['argvProblem']}")
        return 1
    return 0


def _options(argv: list[str], answer: Any) -> list[tuple[list[str], str]]:
    """Returns each option with its values, and its source."""
    options: list[list[str]] = []
    for word in argv[1:]:
        if word.startswith("-") and not word[1:2].isdigit():
            options.append([word])
        elif options:
            options[-1].append(word)
    return [(words, _origin(words[0], answer)) for words in options]


def _origin(option: str, answer: Any) -> str:
    from magid.llama.runtime_settings import SETTINGS  # late: it takes some milliseconds

    owners = {name: setting.key for setting in SETTINGS for name in setting.options}
    if setting := {"--port": "port", **owners}.get(option):
        return str(answer["sources"].get(setting, ""))
    if option in DISCOVERED:
        return "discovery"
    if option in {word.partition("=")[0] for word in answer["extraArgs"]}:
        return f"extraArgs: {answer['sources'].get('extraArgs', '')}"
    return "magid"
