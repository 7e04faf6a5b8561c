"""open: the address of the page, with a link that signs in."""

import argparse
from urllib.parse import urlsplit

from magid.cli.client import Client, Refused
from magid.cli.output import note, print_json, say
from magid.cli.parser import Verbs

PATH = "/api/session/links"


def add(verbs: Verbs) -> None:
    sub = verbs.add(
        "open", print_address, "print the address of the page, and sign in with it",
        examples=(
            "magictl open",
            "magictl open --as ci",
            "magictl open --at https://gpu1.example.org/magi/",
        ),
    )  # fmt: skip
    sub.add_argument(
        "--as", dest="name", metavar="TOKEN",
        help="sign in with the rights of this token, given by its name; without it, with all",
    )  # fmt: skip
    sub.add_argument(
        "--at", metavar="URL", help="where the browser finds the page, as behind a proxy"
    )


def print_address(client: Client, args: argparse.Namespace) -> int:
    """Over TCP there is no link: it is for who may use the unix socket."""
    if not client.where.startswith("unix:"):
        return _print_where(client, args)
    given = _checked(args.at) if args.at else ""
    answer = client.call("POST", PATH, {"token": args.name} if args.name else {})
    address = given or answer["addresses"][0]
    if args.json:
        print_json({**answer, "url": f"{address}{answer['path']}"})
        return 0
    say(f"{address}{answer['path']}")
    if answer["link"]:
        note("this signs in one browser, once, within two minutes: keep it secret")
    return 0


def _print_where(client: Client, args: argparse.Namespace) -> int:
    if args.name:
        raise Refused(
            f"cannot make a sign-in link over {client.where}\n"
            "try: magictl open on that machine, as root or in group magi"
        )
    session = client.call("GET", "/api/session")
    address = _checked(args.at) if args.at else f"{client.where.rstrip('/')}/"
    if args.json:
        print_json({"url": address, "link": None, "expiresAt": None})
        return 0
    say(address)
    if session["required"]:
        note("it asks for a token; magictl open on that machine prints a link that signs in")
    return 0


def _checked(url: str) -> str:
    """Returns the address with a slash at its end, below which the page's files are."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
        raise Refused(
            f"cannot use --at {url}: it is no address like https://gpu1.example.org/magi/\n"
            "try: magictl open --help",
            2,
        )
    return url if url.endswith("/") else f"{url}/"
