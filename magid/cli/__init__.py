"""`magictl`: one function per verb, over the REST API. Imports no daemon code.

Data goes to stdout, everything else to stderr. Exit status: 0 done, 1 refused or failed, 2 usage,
3 not ready (`status`), 4 no such model or profile, 130 on Ctrl-C, 141 when the reader went away.
"""

import argparse
import io
import os
import sys
from collections.abc import Sequence

from magid import __version__
from magid.cli import commands
from magid.cli.output import flush, note
from magid.cli.verbs import Verbs
from magid.client import Client, Refused

SOCKET = "/run/magi/magid.sock"
URL = "http://127.0.0.1:8000"


def parser() -> argparse.ArgumentParser:
    """All verbs and options; the manual and the completions are made from it too."""
    root = argparse.ArgumentParser(prog="magictl", description="Operates magid.")
    root.add_argument("--version", action="version", version=f"magictl {__version__}")
    root.add_argument("--url", help="http://HOST:PORT or unix:/PATH (MAGI_URL)")
    commands.add(Verbs(root))
    return root


def _where(url: str | None) -> str:
    asked = url or os.environ.get("MAGI_URL")
    if asked:
        return asked
    return f"unix:{SOCKET}" if os.path.exists(SOCKET) else URL  # noqa: PTH110  # saves an import


def main(arguments: Sequence[str] | None = None) -> int:
    args = parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal need not know every letter
    try:
        result = int(args.run(Client(_where(args.url)), args))
        flush()
        return result
    except Refused as error:
        note(f"magictl: {error}")
        return error.status
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        # Standard output is closed (`magictl ls | head`) or full. Python would try again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return 141
        note(f"magictl: cannot write to standard output: {error.strerror}")
        return 1
