"""completion: what a shell needs to complete magictl's command lines."""

import argparse

from magid.cli.verbs import Verbs
from magid.client import Client

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
    from magid import cli  # late: it has imported this module
    from magid.cli import grammar, shells

    print(shells.SHELLS[args.shell](grammar.read(cli.parser())), end="")
    return 0
