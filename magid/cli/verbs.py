"""How a module of verbs puts them on the command line."""

import argparse
from collections.abc import Callable, Sequence

from magid.cli.output import note
from magid.client import Client, Refused

Run = Callable[[Client, argparse.Namespace], int]


class Verbs:
    """The verbs of one parser. Each module of verbs has `def add(verbs: Verbs) -> None`."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._parsers = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def add(self, name: str, run: Run, text: str) -> argparse.ArgumentParser:
        """A verb, which `run` carries out: it answers the exit status, or raises Refused.

        The parser is for its options and operands.
        """
        parser = self._parsers.add_parser(name, help=text, description=text)
        parser.set_defaults(run=run)
        return parser


def each(models: Sequence[str], do: Callable[[str], None]) -> int:
    """One that is refused does not keep the others from being done; its status counts."""
    result = 0
    for model in models:
        try:
            do(model)
        except Refused as error:
            note(f"magictl: {error}")
            result = result or error.status
    return result
