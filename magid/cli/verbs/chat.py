"""run, route: a prompt to a model, and where one would go."""

import argparse
import sys
from typing import Any

from magid.cli import hints, prompting
from magid.cli.client import MODELS, Client, Refused, quoted
from magid.cli.errors import report
from magid.cli.interaction import Progress
from magid.cli.model_names import UNKNOWN, named
from magid.cli.output import DIM, cell, json_line, note, paint, print_json, say, table
from magid.cli.parser import Verbs

CHAT = "/v1/chat/completions"
EXPLAIN = "/api/route/explain"
START_S = 600.0  # for a model that does not run yet
EXAMPLE = "qwen3_4p0b_q4km_fast"
MESSAGES = list[dict[str, str]]


def add(verbs: Verbs) -> None:
    sub = verbs.add(
        "run", run, "ask a model, and start it if it does not run; without a prompt a conversation",
        examples=(
            f'magictl run {EXAMPLE} "Why is the sky blue?"',
            "magictl run auto 'Summarise this:' < report.txt",
            "git diff | magictl run powerful 'Review this change:'",
        ),
        json="JSON lines: the pieces of the answer as the gateway sends them",
    )  # fmt: skip
    sub.add_argument("model", metavar="MODEL", help="a model, an alias, a tier, or auto")
    sub.add_argument("prompt", nargs="?", metavar="PROMPT", help="standard input is added to it")
    sub.add_argument("--system", metavar="TEXT", help="a system prompt")
    sub.add_argument("--max-tokens", type=int, metavar="N", help="most tokens of the answer")
    sub.add_argument("--temperature", type=float, metavar="T", help="0: always the likeliest word")
    sub.add_argument("--no-start", action="store_true", help="do not start a model for it")
    sub = verbs.add(
        "route", route, "where the gateway would send a prompt, and why, without sending it",
        examples=('magictl route "Prove that there are infinitely many primes."',
                  "magictl route --model fast Hello"),
    )  # fmt: skip
    sub.add_argument("prompt", metavar="PROMPT")
    sub.add_argument("--model", default="auto", help="what the request would name (auto)")


# -- run -------------------------------------------------------------------------------------


def run(client: Client, args: argparse.Namespace) -> int:
    started: MESSAGES = [{"role": "system", "content": args.system}] if args.system else []
    typed = "" if sys.stdin.isatty() else sys.stdin.read()
    prompt = "\n\n".join(part for part in (args.prompt, typed.strip("\n")) if part)
    if prompt:
        _answer(client, args, [*started, {"role": "user", "content": prompt}])
        return 0
    if not sys.stdin.isatty():
        raise Refused(
            f"cannot ask {args.model}: standard input is empty\n"
            f"try: magictl run {args.model} PROMPT",
            2,
        )
    return _talk(client, args, started)


def _talk(client: Client, args: argparse.Namespace, messages: MESSAGES) -> int:
    """Holds a conversation, line by line. Ctrl-C cancels an answer, Ctrl-D ends it."""
    import readline  # noqa: F401  # input() edits and remembers lines by it

    note("Ctrl-C cancels an answer, Ctrl-D ends")
    while True:
        try:
            line = prompting.line(">>> ")
        except EOFError:
            print()
            return 0
        except KeyboardInterrupt:
            print()
            continue
        if not line.strip():
            continue
        asked = [*messages, {"role": "user", "content": line}]
        try:
            said = _answer(client, args, asked)
        except KeyboardInterrupt:
            note("\ncancelled")
            continue  # the question is not part of the conversation
        except Refused as error:
            report(client, error)
            continue
        messages = [*asked, {"role": "assistant", "content": said}]


def _answer(client: Client, args: argparse.Namespace, messages: MESSAGES) -> str:
    """Prints the answer as it arrives. Later requests use the gateway's name of the model."""

    def answer(model: str) -> str:
        said = _started_and_streamed(client, args, model, messages)
        args.model = model
        return said

    return named(client, answer)(args.model)


def _started_and_streamed(
    client: Client, args: argparse.Namespace, model: str, messages: MESSAGES
) -> str:
    """Streams the answer; starts the model first if it does not run, as who types `run` expects."""
    try:
        return _stream(client, args, model, messages)
    except Refused as error:
        to_start = "" if args.no_start else _to_start(client, model, messages, error)
        if not to_start:
            raise
    with Progress(client, to_start):
        client.call("POST", f"{MODELS}/servers/{quoted(to_start)}/start?wait={START_S:g}")
    return _stream(client, args, model, messages)


def _to_start(client: Client, model: str, messages: MESSAGES, error: Refused) -> str:
    """Returns the id of the model whose start would help after this refusal; "" if none would."""
    if error.code in UNKNOWN:
        return model if _take_in(client, model) else ""
    stopped = _stopped(client, model, messages) if error.code == "model_not_running" else ""
    if stopped:
        note(f"{stopped} does not run: it is started")
    return stopped


def _take_in(client: Client, model: str) -> bool:
    """Enables a model that the profile only leaves out, on demand; returns whether it was one.

    So each boot still starts what the profile has, and no more. What a person has disabled, has
    start otherwise, or may not decide, stays as it is.
    """
    try:
        known = client.call("GET", f"{MODELS}/{quoted(model)}")
        if known["enabled"] or known["enabledOverride"] is not None or known["modelId"] != model:
            return False
        is_own = known["sources"]["start"] == "override"
        if is_own and known["start"] != "on-demand":
            return False
        _enable_on_demand(client, model, sets_start=not is_own)
    except Refused:
        return False  # the refusal of the request itself says what to do
    keys = "enabled=" if is_own else "enabled= start="
    note(f"{model} was left out: {known['wantedReason']}; it is enabled now, and starts on demand\n"
         f"try: magictl set {model} {keys}, to leave it out again")  # fmt: skip
    return True


def _enable_on_demand(client: Client, model: str, *, sets_start: bool) -> None:
    """Raises Refused; then its start is as it was before."""
    start = f"{MODELS}/{quoted(model)}/runtime-settings"
    if sets_start:
        client.call("PUT", start, {"start": "on-demand"})
    try:
        client.call("PUT", f"{MODELS}/{quoted(model)}/enabled", {"enabled": True})
    except Refused:
        if sets_start:
            client.call("PUT", start, {"start": None})
        raise


def _stopped(client: Client, model: str, messages: MESSAGES) -> str:
    """Returns the id of the model that has to be started for this request; "" if none is known."""
    try:
        client.call("POST", EXPLAIN, {"request": {"model": model, "messages": messages}})
    except Refused as error:
        return str(error.details.get("modelId", "")) if error.code == "ModelNotRunning" else ""
    return ""


def _stream(client: Client, args: argparse.Namespace, model: str, messages: MESSAGES) -> str:
    """What the model thinks is shown only on a terminal, dimmed."""
    body: dict[str, Any] = {"model": model, "messages": messages, "stream": True}
    for key in ("max_tokens", "temperature"):
        if getattr(args, key) is not None:
            body[key] = getattr(args, key)
    printer = _Printer()
    for _, piece, _ in client.stream(CHAT, body):
        if "error" in piece:
            printer.end()
            raise Refused(str(piece["error"].get("message", piece["error"])))
        if args.json:
            json_line(piece)
            continue
        for choice in piece.get("choices", ()):
            delta = choice.get("delta", {})
            printer.think(delta.get("reasoning_content") or "")
            printer.say(delta.get("content") or "")
    if not args.json:
        printer.end()
    return printer.said


class _Printer:
    """Prints pieces at once. Control characters of a model do not reach the terminal."""

    def __init__(self) -> None:
        self.said = ""
        self._thinks = False
        self._shows_thoughts = sys.stdout.isatty()
        self._at_start = True

    def think(self, text: str) -> None:
        if text and self._shows_thoughts:
            self._thinks = True
            self._put(paint(_shown(text), DIM), text)

    def say(self, text: str) -> None:
        if not text:
            return
        if self._thinks:
            self._thinks = False
            self._put("\n" if self._at_start else "\n\n", "\n")
            text = text.lstrip("\n")
        self.said += text
        self._put(_shown(text), text)

    def end(self) -> None:
        """Ends the output with a newline, so that the shell's prompt starts on its own line."""
        if not self._at_start:
            self._put("\n", "\n")

    def _put(self, text: str, raw: str) -> None:
        self._at_start = raw.endswith("\n") if raw else self._at_start
        print(text, end="", flush=True)


def _shown(text: str) -> str:
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)


# -- route -----------------------------------------------------------------------------------


def route(client: Client, args: argparse.Namespace) -> int:
    def explained(model: str) -> Any:
        request = {"model": model, "messages": [{"role": "user", "content": args.prompt}]}
        return client.call("POST", EXPLAIN, {"request": request})

    answer = named(client, explained)(args.model)
    if args.json:
        print_json(answer)
        return 0
    chosen = answer["chosen"]
    where = f"{chosen['modelId']} on port {chosen['port']}" if chosen else "nowhere"
    starts = f"; starts {answer['starts']}" if answer["starts"] else ""
    say(f"{answer['model']} -> {where}{starts}")
    say(f"why: {answer['route']}")
    if answer["score"] is not None:
        say(f"score: {answer['score']:g}, tier {cell(answer['tier'])}")
    if answer["parts"]:
        print()
        rows = [(name, f"{value:+.2f}") for name, value in answer["parts"].items()]
        table(("PART", "POINTS"), rows, "")
    print()
    table(
        ("MODEL", "PORT", "TIER", "BUSY", "SLOTS", "VERDICT"),
        [
            (c["modelId"], c["port"], c["tier"], c["outstanding"], c["slots"],
             hints.translated(c["whyNot"] or "") or ("chosen" if c == chosen else None))
            for c in answer["candidates"]
        ],
        "no server could answer it",
    )  # fmt: skip
    return 0
