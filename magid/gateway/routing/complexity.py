"""How demanding a request is, from 0 to 10, by what can be seen without a model. Pure and bounded.

Three things count: words that ask for reasoning or for a trifle (`complexity_words`), the form of
the text (code, formulas, lists of demands), and length, a little. Length alone is a bad sign of
difficulty (ecosystem studies agree), so it never decides. Where nothing speaks either way the
answer is "no evidence", which is not the same as easy: `auto` then takes its default tier.

Only the newest text of a person counts, and of it the first and last characters up to a limit. No
regular expression here has nested repetition; the cost is linear in MAX_CHARS.
"""

import re
from collections.abc import Iterable, Mapping
from math import log2

from msgspec import Struct

from magid.gateway.routing.complexity_words import (
    HARD,
    HARD_ANYWHERE,
    SIMPLE,
    SIMPLE_ANYWHERE,
    TECHNICAL,
)
from magid.gateway.routing.request import Prompt

MAX_CHARS = 4000  # of the newest text: three quarters from its beginning, the rest from its end
HIGHEST = 10.0
_BASE = 4.5  # between the usual bounds of fast (3) and balanced (7)
_STEM = (2, 12)  # letters of the shortest and the longest stem
_LEAST_STEM = 4  # shorter ones are whole words: "hi" is not the beginning of "history"

# Not \w, as vowel signs of Devanagari are none. Underscores part words, hyphens do not.
_WORD = re.compile(
    r"[^\s_.,;:!?()\[\]{}<>\"'`\u00ab\u00bb\u2018-\u201f\u060c\u061f\u0964/\\|=+*&^%$#@~]+"
)
_FENCE = re.compile(r"```")
_CODE = re.compile(
    r"[;{}][ \t]{0,8}$|^[ \t]{0,40}(?:def|class|import|#include|SELECT|fn|func|public)\b|=>"
    r"|\w\(\w*\)",
    re.M,
)
_FORMULA = re.compile(r"[∑∫√≤≥≠∂∀∃→⇒∈∞]|\\(?:frac|sum|int|lim|sqrt)\b|\b\w\^\w|[OΘ]\(\w")
_QUESTIONS = ("?", "\N{FULLWIDTH QUESTION MARK}", "\N{ARABIC QUESTION MARK}")
_ITEM = re.compile(r"^[ \t]{0,40}(?:[-*•]|\d{1,2}[.)]|[a-h]\))\s", re.M)


class Score(Struct, frozen=True):
    """`value` is None where there is no evidence; `parts` are what was added, by name."""

    value: float | None
    parts: Mapping[str, float]


def score(prompt: Prompt) -> Score:
    text = _bounded(prompt.newest)
    parts = {name: round(points, 2) for name, points in _parts(text, prompt) if points}
    speaks = {name for name in parts if name not in _SILENT}
    if not speaks:
        return Score(None, parts)
    return Score(round(min(HIGHEST, max(0.0, _BASE + sum(parts.values()))), 2), parts)


# These add to a score and are no evidence by themselves.
_SILENT = frozenset({"length", "turns", "technical", "tools"})


def _bounded(text: str) -> str:
    if len(text) <= MAX_CHARS:
        return text
    head = MAX_CHARS * 3 // 4
    return f"{text[:head]}\n{text[head - MAX_CHARS :]}"


def _parts(text: str, prompt: Prompt) -> Iterable[tuple[str, float]]:
    prose = _without_code(text)
    words = _WORD.findall(prose.casefold())
    hard = _hits(words, HARD) + sum(term in prose for term in HARD_ANYWHERE)
    technical = _hits(words, TECHNICAL)
    simple = _hits(words, SIMPLE) + sum(term in prose for term in SIMPLE_ANYWHERE)
    is_short = len(words) <= 25 and len(prose) <= 200
    yield "reasoning", min(4.5, 1.3 + 1.3 * hard) if hard else 0.0
    yield "technical", min(2.0, 0.75 * technical)
    yield "code", _code(text)
    yield "formulas", min(2.0, 0.75 * len(_FORMULA.findall(prose)))
    yield "demands", _demands(prose)
    yield "trifle", -min(4.0, 2.5 * simple) if is_short and not hard else 0.0
    yield "length", min(1.5, max(0.0, 0.5 * log2(len(prose) / 300))) if prose else 0.0
    yield "turns", 0.5 if prompt.turns >= 6 else 0.0
    yield "tools", 0.5 if prompt.has_tools else 0.0


def _hits(words: Iterable[str], stems: frozenset[str]) -> int:
    """How many different stems the words begin with."""
    low, high = _STEM
    found = set()
    for word in set(words):
        for end in range(min(len(word), high), low - 1, -1):
            is_whole = end == len(word)
            if (is_whole or end >= _LEAST_STEM) and word[:end] in stems:
                found.add(word[:end])
                break
    return len(found)


def _without_code(text: str) -> str:
    """What stands outside of ``` fences."""
    return " ".join(_FENCE.split(text)[::2])


def _code(text: str) -> float:
    inside = _FENCE.split(text)[1::2]
    lines = sum(part.count("\n") for part in inside)
    looks = len(_CODE.findall(text))
    if not inside and looks < 2:
        return 0.0
    return min(2.5, 1.0 + 0.05 * max(lines, looks))


def _demands(prose: str) -> float:
    """From the third item of a list, or question, on."""
    count = len(_ITEM.findall(prose)) + sum(prose.count(mark) for mark in _QUESTIONS)
    return min(2.0, 0.5 * (count - 2)) if count > 2 else 0.0
