"""The parser of magictl, and how a module of verbs adds to it."""

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from magid.cli.client import Client
from magid.cli.errors import like
from magid.cli.habits import HABITS
from magid.cli.output import note

Run = Callable[[Client, argparse.Namespace], int]

EXITS = {
    0: "done",
    1: "refused or failed; the message says why",
    2: "wrong usage",
    3: "not ready: status; no room, or not known: fits",
    4: "no such model, profile or token, or several of that beginning",
    124: "timed out: --timeout, --request-timeout",
    130: "ended by Ctrl-C",
    141: "output pipe closed",
}
ENVIRONMENT = {
    "MAGI_URL": "where magid is, as with --url",
    "MAGI_TOKEN": "the token, as with --token, which `ps` shows to everyone",
    "MAGI_TOKEN_FILE": "the file with the token, as with --token-file",
    "MAGI_CACERT": "the certificate to trust, as with --cacert",
    "NO_COLOR": "no colours, whatever its value",
    "FORCE_COLOR": "colours even if the output is not a terminal",
    "VISUAL, EDITOR": "what profile edit opens",
}


class Parser(argparse.ArgumentParser):
    """Reports usage errors in the form of all magictl errors."""

    examples: tuple[str, ...] = ()
    details: Callable[[], str] | None = None  # more of --help, made when it is asked for

    def format_help(self) -> str:
        details = f"\n{self.details()}" if self.details else ""
        return super().format_help() + details

    def error(self, message: str) -> NoReturn:
        advice = "" if "\ntry: " in message else f"\ntry: {self.prog} --help"
        note(f"{self.prog}: cannot read the command line\n{message}{advice}")
        raise SystemExit(2)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        is_verb = isinstance(action, argparse._SubParsersAction)
        what = "command" if is_verb else str(action.metavar or action.dest or "argument").lower()
        habit = HABITS.get(value) if is_verb and self.prog == "magictl" else None
        if habit:
            raise argparse.ArgumentError(None, f"unknown command {value!r}\ntry: {habit}")
        near = like(str(value), action.choices)
        choice = f"; did you mean {near!r}?" if near else ""
        if not near and not is_verb:
            choice = f"; choose from {', '.join(map(str, action.choices))}"
        raise argparse.ArgumentError(None, f"unknown {what} {value!r}{choice}")


class Verbs:
    """The verbs of one parser. Each module of verbs defines `def add(verbs: Verbs) -> None`."""

    def __init__(self, parser: argparse.ArgumentParser, dest: str = "verb") -> None:
        self._dest = dest
        is_listed = dest != "verb"  # those of magictl are listed in groups
        self._parsers = parser.add_subparsers(
            dest=dest, required=True, metavar=dest.upper(), parser_class=Parser,
            **({} if is_listed else {"help": argparse.SUPPRESS}),
        )  # fmt: skip

    def texts(self) -> dict[str, str]:
        """Returns the text of each verb, by its own name."""
        return {choice.dest: choice.help or "" for choice in self._parsers._choices_actions}

    def add(
        self,
        name: str,
        run: Run,
        text: str,
        *,
        examples: Sequence[str] = (),
        aliases: Sequence[str] = (),
        json: str = "as the API has it",
    ) -> Parser:
        """Adds a verb and returns its parser, to which the caller adds options and operands.

        `run` carries the verb out: it returns the exit status, or raises Refused. `args.verb` (in a
        group `args.action`) is `name` even if an alias was typed. `examples` are whole command
        lines, for --help and the manual. `json` says what --json prints; if it is empty, the verb
        has no such option.
        """
        parser = self._parser(name, text, examples, aliases)
        parser.set_defaults(run=run, **{self._dest: name})
        if json:
            parser.add_argument("--json", action="store_true", help=json)
        return parser

    def group(self, name: str, text: str, *, examples: Sequence[str] = ()) -> "Verbs":
        """Adds a verb that has verbs of its own: `magictl profile ls`."""
        return Verbs(self._parser(name, text, examples, ()), "action")

    def _parser(
        self, name: str, text: str, examples: Sequence[str], aliases: Sequence[str]
    ) -> Parser:
        shown = "".join(f"  {line}\n" for line in examples)
        parser: Parser = self._parsers.add_parser(
            name,
            help=text,
            description=text[:1].upper() + text[1:] + ".",
            aliases=list(aliases),
            epilog=f"examples:\n{shown}" if examples else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.examples = tuple(examples)
        return parser
