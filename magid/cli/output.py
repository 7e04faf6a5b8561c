"""Output for users and scripts: data to stdout, everything else to stderr."""

import json
import os
import sys
import time
from collections.abc import Sequence
from typing import IO

from magid.wording import sizes
from magid.wording.counts import counted

COLOURS = {  # by the word that a table shows
    "ready": "32", "starting": "33", "loading": "33", "stopping": "33", "backoff": "33",
    "failed": "31", "stop": "31", "start": "32", "blocked": "33",
}  # fmt: skip
BOLD, DIM, RED = "1", "2", "31"
SPANS = (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1))


def plain(text: str) -> str:
    """Returns the text without terminal escapes, which a name from a file could contain."""
    return "".join(c if c.isprintable() else "?" for c in text.expandtabs())


def is_coloured(stream: IO[str]) -> bool:
    """Whether to colour. NO_COLOR overrides FORCE_COLOR, both override isatty (no-color.org)."""
    asked = os.environ
    if asked.get("NO_COLOR"):
        return False
    if asked.get("FORCE_COLOR") or asked.get("CLICOLOR_FORCE"):
        return True
    return stream.isatty() and asked.get("TERM") != "dumb"


def paint(text: str, colour: str, stream: IO[str] | None = None) -> str:
    """Returns the text in colour, or as it is if the stream (default stdout) has no colours."""
    return f"\x1b[{colour}m{text}\x1b[0m" if is_coloured(stream or sys.stdout) else text


def say(text: str) -> None:
    print(plain(text))


def note(text: str) -> None:
    """Prints the text to stderr, line by line, after flushing stdout."""
    flush()
    for line in text.split("\n"):
        print(plain(line), file=sys.stderr)


def print_json(value: object) -> None:
    print(safe_json(json.dumps(value, indent=2, ensure_ascii=False)))


def json_line(value: object) -> None:
    """Prints one of several JSON documents on a line of its own, and flushes."""
    print(safe_json(json.dumps(value, ensure_ascii=False)), flush=True)


def safe_json(text: str) -> str:
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def table(head: Sequence[str], rows: Sequence[Sequence[object]], nothing: str) -> None:
    """Prints columns as wide as their widest cell; without rows only `nothing`, to stderr."""
    if not rows:
        note(nothing)
        return
    for line in lines_of(head, rows):
        print(line)


def lines_of(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    cells = [list(head), *([cell(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    widths[-1] = 0  # no trailing blanks after the last column
    return [
        "  ".join(_shown(text, width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def explained(rows: Sequence[Sequence[str]]) -> None:
    """Prints indented columns; the last one, dimmed, explains the others."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    for *columns, about in rows:
        text = "  ".join(plain(c).ljust(w) for c, w in zip(columns, widths, strict=True))
        print(f"  {text}  {paint(plain(about), DIM) if about else ''}".rstrip())


def _shown(text: str, width: int) -> str:
    padding = " " * (width - len(text))
    return (paint(text, COLOURS[text]) if text in COLOURS else text) + padding


def cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return plain(str(value))


def size(count: float | None) -> str:
    return "-" if count is None else sizes.size(count)


def span(seconds: float) -> str:
    """Returns `3 minutes`: the largest unit only."""
    for name, length in SPANS:
        if seconds >= length:
            return counted(int(seconds // length), name)
    return "0 seconds"


def ago(moment: str | None) -> str:
    """Returns `3 minutes ago` for an RFC 3339 time in UTC."""
    if not moment:
        return "-"
    import calendar  # late: only tables with a time need it

    then = calendar.timegm(time.strptime(moment[:19], "%Y-%m-%dT%H:%M:%S"))
    return f"{span(max(0.0, time.time() - then))} ago"


def flush() -> None:
    """Flushes stdout, so that a failed write raises here and not at exit."""
    print(end="", flush=True)
