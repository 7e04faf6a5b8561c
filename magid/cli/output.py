"""What people and scripts read: data to stdout, everything else to stderr."""

import json
import sys
from collections.abc import Sequence


def plain(text: str) -> str:
    """Without terminal escapes, which a name from a file could carry."""
    return "".join(c if c.isprintable() else "?" for c in text.expandtabs())


def say(text: str) -> None:
    print(plain(text))


def note(text: str) -> None:
    """To stderr, line by line."""
    for line in text.split("\n"):
        print(plain(line), file=sys.stderr)


def print_json(value: object) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False)
    print("".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text))


def table(head: Sequence[str], rows: Sequence[Sequence[object]], nothing: str) -> None:
    """Columns as wide as their widest cell; without rows only `nothing`, on stderr."""
    if not rows:
        note(nothing)
        return
    cells = [list(head), *([cell(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    for row in cells:
        print(
            "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        )


def cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return plain(str(value))


def size(count: float | None) -> str:
    if count is None:
        return "-"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def flush() -> None:
    """What cannot be written shows here, and not after the end."""
    print(end="", flush=True)
