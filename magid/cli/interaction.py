"""What magictl asks a person before it does what cannot be taken back."""

import sys

from magid.cli.client import Refused


def confirmed(what: str, *, yes: bool) -> None:
    """Returns when it may be done. Raises Refused if the answer is no, or nobody can be asked."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise Refused(f"cannot {what}: nobody can be asked\ntry: the same with --yes", 2)
    if not agrees(f"{what[:1].upper()}{what[1:]}?"):
        raise Refused(f"cannot {what}: you said no")


def agrees(question: str) -> bool:
    """Anything but a yes is a no; so is the end of the input."""
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
