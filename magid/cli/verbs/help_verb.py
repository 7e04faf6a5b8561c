"""help: what --help prints."""

import argparse

from magid.cli.client import Client
from magid.cli.parser import Verbs


def add(verbs: Verbs) -> None:
    verbs.add(
        "help", help_, "what magictl can do, or one of its commands",
        examples=("magictl help", "magictl help profile edit"), json="",
    ).add_argument("words", nargs="*", metavar="VERB")  # fmt: skip


def help_(_client: Client, args: argparse.Namespace) -> int:
    from magid.cli import main

    main.parser().parse_args([*args.words, "--help"])  # which prints, and ends the program
    return 0
