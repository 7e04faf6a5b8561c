"""Transcripts: what a person types and sees, as files that are their own script.

    $ magictl ls                        a command line; `#` at its start: a comment
    laptop$ curl ...                    the same on another machine, of that name
    < [Delete] y                        what is typed, Enter behind it, once `Delete` was seen
    < [listening] ^C                    a control key, without Enter
    what came                           up to the next command line
    [exit status 3]                     where it is not 0

What changes from run to run is masked by `masked`, so that two runs compare equal. With
UPDATE_TRANSCRIPTS=1 in the environment the files are written anew instead; look at `git diff` then.
"""

import difflib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "transcripts"
_COMMAND = re.compile(r"(?P<host>[a-z][a-z0-9]*)?\$ (?P<command>.*)")
_KEYS = re.compile(r"< \[(?P<when>[^]]*)\] (?P<typed>.*)")
_CONTROLS = {"^C": "\x03", "^D": "\x04"}

# In this order. Widths of columns depend on what is in them: runs of blanks become two.
_MASKS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.M | re.S), text)
    for pattern, text in (
        (r"\r\n", "\n"),
        (r"(\r\x1b\[K[^\r\n]*)+\r\x1b\[K", "(a bar)"),
        (r"\x1b\[H.*(?=\x1b\[H)", ""),  # the last one of a live screen's pictures
        (r"\x1b\[\?2004[hl]\r?", ""),  # readline asks for bracketed paste
        (r"\d{4}-\d\d-\d\dT[\d:.]+(Z|\+00:00)", "TIME"),
        (r"(?<!\d)\d\d:\d\d:\d\d(?!\d)", "CLOCK"),
        (r"^(CLOCK +)?\d+\.\d\d\.\d{3}\.\d{3} ", "CLOCK "),  # of a line of llama-server
        (r"^([^\n]+\n)\1+", r"\1"),  # one for each start
        (r"\b\d+(\.\d)? ([KMGT]i)?B\b", "SIZE"),
        (r"\b\d+ (second|minute|hour|day)s?\b", "SPAN"),
        (r"\(build [^)]*\)", "(BUILD)"),
        (r'("(?:magid|magictl|python|llamaServer)": )"[^"]*"', r'\1"VERSION"'),
        (r"\b[0-9a-f]{12,}\b", "HASH"),
        (r"magi_[0-9a-f]{8}_[0-9A-Za-z]{43}", "TOKEN"),
        (r"(magid|magictl) \d+\.\d+\.\d+\S*?(?=[:\s]|$)", r"\1 VERSION"),
        (r"(llama-server:? +)(b?\d[\w.-]*)", r"\1VERSION"),
        (r"\(Python [\d.]+\)", "(Python VERSION)"),
        (r"/tmp/magictl-\w+/", "/tmp/FOLDER/"),
        (r"(?<=\S)[ \t]{3,}(?=\S)", "  "),
        (r"[ \t]+$", ""),
        # The bound of a prompt cache: by the memory of the machine, and none where that is large.
        (r"^  --cache-ram \d+  [^\n]*magid[^\n]*\n", ""),
        # Of ls: by the memory of the machine, and whether it was predicted yet.
        (r"((?:yes|no)  SIZE  )(?:yes|partly|no|unknown)(?=  (?:yes|no)$)", r"\1FIT"),
        # The columns of top, and then those of ps; what a machine does not count is "-".
        (r"(ready(?:\x1b\[0m)?  )(-|\d+)  (-|SIZE)  0 ", r"\1SHARE  SIZE  0 "),
        (r"(?<= 0  )(-|[\d.]+)(?=  SPAN)", "SPEED"),
        (r"((?:ready|loading|starting|stopping)(?:\x1b\[0m)?  )\d+  (-|SIZE)", r"\1PID  SIZE"),
        (r"\x1b", "\\\\e"),
        (r"\r", ""),
    )
)


@dataclass(frozen=True, slots=True)
class Step:
    """One command line with what is typed into it."""

    command: str
    keys: list[tuple[str, str]] = field(default_factory=list)
    script: list[str] = field(default_factory=list)  # its lines in the file, as they stand there
    host: str = ""  # where it is typed, if not on the machine that all of it is about


Typing = Callable[[list[Step]], list[tuple[str, int]]]


def masked(text: str) -> str:
    for pattern, mask in _MASKS:
        text = pattern.sub(mask, text)
    return text


def steps(text: str) -> list[Step]:
    found: list[Step] = []
    for line in text.splitlines():
        if line.startswith("#"):
            found.append(Step("", script=[line]))
        elif called := _COMMAND.fullmatch(line):
            found.append(Step(called["command"], script=[line], host=called["host"] or ""))
        elif found and (keys := _KEYS.fullmatch(line)):
            typed = _CONTROLS.get(keys["typed"], keys["typed"] + "\r")
            found[-1].keys.append((keys["when"], typed))
            found[-1].script.append(line)
    return found


def played(script: list[Step], type_in: Typing) -> str:
    """The transcript of these steps, not masked."""
    lines: list[str] = []
    results = iter(type_in([step for step in script if step.command]))
    for step in script:
        lines += step.script
        if step.command:
            output, status = next(results)
            lines += [output.rstrip("\r\n")] if output.strip() else []
            lines += [f"[exit status {status}]"] if status else []
    return "\n".join(lines) + "\n"


def sections(text: str) -> dict[str, str]:
    """The text below each heading of the second level."""
    parts = re.split(r"^## (.+)\n", text, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def left_on_screen(output: str) -> str:
    """What a person still sees in the end: no bars that were drawn over, and no colours."""
    lines = re.sub(r"^[^\n]*\r\x1b\[K", "", output.replace("\r\n", "\n"), flags=re.M)
    return re.sub(r"\x1b\[[0-9;]*m", "", lines)


def check_document(
    path: Path, type_in: Typing, heading: str | None = None, *, without: str | None = None
) -> None:
    """That the transcripts in the fenced blocks of this document come again, in their order.

    They stand there as they came; only what is compared is masked. Of one section, or of all but
    one, if named.
    """
    whole = path.read_text()
    text = whole if heading is None else sections(whole)[heading]
    if without is not None:
        text = text.replace(sections(whole)[without], "")
    blocks = [b for b in re.findall(r"^```\n(.*?)^```$", text, re.M | re.S) if "$ " in b]
    assert blocks
    for block in blocks:
        now = re.sub(r"[ \t]+$", "", played(steps(block), type_in), flags=re.M)
        if masked(now) != masked(block) and os.environ.get("UPDATE_TRANSCRIPTS"):
            path.write_text(path.read_text().replace(block, now))
        else:
            assert_same(masked(block), masked(now), str(path))


def check(path: Path, type_in: Typing) -> None:
    """That the transcript in this file comes again. Shows what differs."""
    before = path.read_text()
    now = masked(played(steps(before), type_in))
    if now != before and os.environ.get("UPDATE_TRANSCRIPTS"):
        path.write_text(now)
        return
    assert_same(before, now, str(path))


def assert_same(before: str, now: str, name: str) -> None:
    lines = difflib.unified_diff(
        before.splitlines(), now.splitlines(), name, "this run", lineterm=""
    )
    assert before == now, "it went otherwise; UPDATE_TRANSCRIPTS=1 keeps it\n" + "\n".join(lines)
