"""What magictl shows to the daemon where it asks over TCP, and whose certificate it trusts."""

import argparse
import os
import re
import urllib.parse

from magid.cli.client import Refused
from magid.cli.output import note


def add(root: argparse.ArgumentParser) -> None:
    root.add_argument(
        "--token", help="the token; `ps` shows it to everyone, so rather in a file (MAGI_TOKEN)"
    )
    root.add_argument(
        "--token-file", metavar="FILE", help="read the token from this file (MAGI_TOKEN_FILE)"
    )
    root.add_argument(
        "--cacert", metavar="FILE", help="trust this certificate for https:// (MAGI_CACERT)"
    )


def token(args: argparse.Namespace) -> str | None:
    """Flags go before the environment. Raises Refused for a file without one."""
    if args.token:
        return str(args.token)
    if args.token_file:
        return _read(args.token_file)
    if given := os.environ.get("MAGI_TOKEN"):
        return given
    path = os.environ.get("MAGI_TOKEN_FILE")
    return _read(path) if path else None


_TRY = "try: magictl token create --name NAME --scope SCOPE >FILE"


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:  # noqa: PTH123  # saves an import
            found = file.read().strip()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is no token"
        raise Refused(f"cannot read the token in {path}: {why}\n{_TRY}", 2) from None
    if not found or not found.isprintable() or " " in found:
        raise Refused(f"cannot use {path}: there is no token in it\n{_TRY}", 2)
    return found


def warn(where: str, token: str | None) -> None:
    """Once, on stderr, where the token can be read on its way to another machine."""
    if token is None or not where.lower().startswith("http://"):
        return
    host = urllib.parse.urlsplit(where).hostname or ""
    if host == "localhost" or host == "::1" or re.fullmatch(r"127(\.[0-9]{1,3}){3}", host):
        return
    note(f"magictl: the token goes to {host} in clear\nwhoever is on the way can read it\n"
         "try: https:// with --cacert FILE, or ssh")  # fmt: skip


def cacert(args: argparse.Namespace) -> str | None:
    return args.cacert or os.environ.get("MAGI_CACERT")
