"""version: of magictl, and of what it talks to."""

import argparse
from typing import Any

from magid import __version__
from magid.cli.client import MODELS, Client, Refused
from magid.cli.output import cell, note, print_json, say
from magid.cli.parser import Verbs


def add(verbs: Verbs) -> None:
    verbs.add(
        "version", version, "the versions of magictl, magid and llama-server",
        examples=("magictl version", "magictl version --json"),
        json="client and server; server is null where it does not answer",
    )  # fmt: skip


def version(client: Client, args: argparse.Namespace) -> int:
    """Succeeds without a daemon: the user may be looking for a problem with it."""
    server: Any = None
    why = ""
    try:
        server = client.call("GET", f"{MODELS}/status")["versions"]
    except Refused as error:
        why = str(error)
    if args.json:
        print_json({"client": {"magictl": __version__}, "server": server})
        return 0
    say(f"magictl {__version__}")
    if server is None:
        note(why)
        return 0
    say(f"magid {server['magid']} (Python {server['python']})")
    say(f"llama-server {cell(server['llamaServer'])} ({cell(server['llamaServerPath'])})")
    return 0
