"""completion: what a shell needs to complete magictl's command lines."""

import argparse

from magid.cli.client import Client
from magid.cli.parser import Verbs

NAMES = ("bash", "zsh", "fish")


def add(verbs: Verbs) -> None:
    verbs.add(
        "completion",
        completion,
        "print the completions for a shell; the package has installed them already",
        examples=(
            "magictl completion bash > ~/.local/share/bash-completion/completions/magictl",
            "magictl completion fish > ~/.config/fish/completions/magictl.fish",
        ),
        json="",
    ).add_argument("shell", choices=NAMES)


def completion(_client: Client, args: argparse.Namespace) -> int:
    from magid.cli import completion_grammar, completion_shells, main

    print(completion_shells.SHELLS[args.shell](completion_grammar.read(main.parser())), end="")
    return 0
