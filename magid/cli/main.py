"""`magictl`: one function per verb, over the REST API.

Imports no daemon code except, late, the modules that read a profile or write a token. Data goes to
stdout, everything else to stderr. `parser.EXITS` lists the exit statuses.
"""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from itertools import islice

from magid import __version__
from magid.cli import client as credentials
from magid.cli import commands
from magid.cli.client import Client, Refused
from magid.cli.errors import report
from magid.cli.interaction import seconds, within
from magid.cli.output import flush, note
from magid.cli.parser import ENVIRONMENT, EXITS, Parser, Verbs
from magid.cli.reachability import SOCKET, URL, VIEW_SOCKET


def parser() -> argparse.ArgumentParser:
    """Returns the parser of all verbs and options; manual and completions are made from it too."""
    root = Parser(
        prog="magictl",
        description="Operates magid, the model manager.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    root.add_argument("--version", action="version", version=f"magictl {__version__}")
    root.add_argument("--url", help="https://HOST:PORT, http://HOST:PORT or unix:/PATH (MAGI_URL)")
    root.add_argument(
        "--request-timeout",
        metavar="TIME",
        type=seconds,
        help="give up after this time, as 30 or 5m (exit 124)",
    )
    root.add_argument("--no-color", action="store_true", help="no colours (NO_COLOR)")
    credentials.add(root)
    verbs = Verbs(root)
    commands.add(verbs)
    root.epilog = _epilog(verbs.texts())
    return root


def _epilog(texts: dict[str, str]) -> str:
    lines = []
    for group, verbs in commands.GROUPS.items():
        lines += [f"{group}:", *(f"  {verb:<11} {texts[verb]}" for verb in verbs), ""]
    lines += ["exit status:", *(f"  {status:<4} {text}" for status, text in EXITS.items())]
    lines += ["", "environment:", *(f"  {name:<15} {text}" for name, text in ENVIRONMENT.items())]
    return "\n".join(
        [*lines, "", "magictl help VERB has options and examples; magictl(1) has it all"]
    )


def _own_first(root: argparse.ArgumentParser, words: Sequence[str]) -> list[str]:
    """Moves magictl's own options to the front: they may follow the verb, as in docker and kubectl.

    After `--` no word is an option.
    """
    takes_value = {f: a.nargs != 0 for a in root._actions if a.default is not argparse.SUPPRESS
                   for f in a.option_strings}  # fmt: skip
    own: list[str] = []
    rest: list[str] = []
    left = iter(words)
    for word in left:
        flag, is_joined, _ = word.partition("=")
        if flag in takes_value:
            own.append(word)
            own += islice(left, 1) if takes_value[flag] and not is_joined else ()
        else:
            rest.append(word)
            rest += left if word == "--" else ()
    return own + rest


def _where(url: str | None) -> str:
    asked = url or os.environ.get("MAGI_URL")
    if asked:
        return asked
    for path in (SOCKET, VIEW_SOCKET):
        if os.access(path, os.R_OK | os.W_OK):
            return f"unix:{path}"
    return f"unix:{SOCKET}" if os.path.exists(SOCKET) else URL  # noqa: PTH110  # saves an import


def _patience_s(args: argparse.Namespace) -> float | None:
    """Returns how long a magid that has just been started may take to read the model folders."""
    limit: float | None = getattr(args, "timeout", credentials.SCAN_S)
    return credentials.SCAN_S if getattr(args, "no_wait", False) else limit


def main(arguments: Sequence[str] | None = None) -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may not support every letter
    try:
        root = parser()
        words = sys.argv[1:] if arguments is None else arguments
        return _run(root.parse_args(_own_first(root, words)))
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        # Stdout is closed (`magictl ls | head`) or full. Python would try to flush again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return 141
        note(f"magictl: cannot write to standard output: {error.strerror}")
        return 1


def _run(args: argparse.Namespace) -> int:
    if args.no_color:
        os.environ["NO_COLOR"] = "1"
    client = None
    try:
        where, token = _where(args.url), credentials.token(args)
        client = Client(where, token, credentials.cacert(args), _patience_s(args))
        credentials.warn(where, token)
        with within(
            args.request_timeout,
            f"cannot {args.verb}: no answer in the time given\n"
            "try: a longer --request-timeout, or magictl doctor",
        ):
            result = int(args.run(client, args))
            flush()
        return result
    except Refused as error:
        report(client, error)
        return error.status
