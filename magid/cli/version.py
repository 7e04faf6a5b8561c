"""version: of magictl."""

import argparse

from magid import __version__
from magid.cli.output import say
from magid.cli.verbs import Verbs
from magid.client import Client


def add(verbs: Verbs) -> None:
    verbs.add("version", version, "print the version")


def version(_client: Client, _args: argparse.Namespace) -> int:
    say(f"magictl {__version__}")
    return 0
