"""The complexity score against labels, and against random routing with the same mix of tiers.

Each prompt is labelled with the least tier that should do (1 fast, 2 balanced, 3 powerful), by its
author, before the score saw it. `right`: the label's tier; `enough`: that tier or a stronger one.
Random routing sends the same share of the prompts to each tier, so it costs the same.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from magid.catalog.profile import DEFAULT_TIERS
from magid.discovery.tiers import Tier
from magid.gateway.routing.auto_tier import tier_for
from magid.gateway.routing.complexity import score
from magid.gateway.routing.request import read
from magid.gateway.routing.resolver import STRENGTH

# Those whose words the score knows; in others only form counts, and mostly there is no evidence.
LANGUAGES = (
    "en",
    "de",
    "fr",
    "es",
    "it",
    "pt",
    "nl",
    "pl",
    "ru",
    "zh",
    "ja",
    "ko",
    "ar",
    "tr",
    "hi",
)
UNKNOWN_LANGUAGES = ("fi", "sw")


@dataclass(frozen=True, slots=True)
class Labelled:
    language: str
    least: int  # 1, 2, 3
    text: str


@dataclass(frozen=True, slots=True)
class Report:
    prompts: int
    decided: int  # the others have no evidence
    right: float  # of those decided
    right_at_random: float
    enough: float
    enough_at_random: float


def prompts() -> list[Labelled]:
    lines = Path(__file__).with_name("prompts.tsv").read_text(encoding="utf-8").splitlines()
    rows = (line.split("\t") for line in lines)
    return [Labelled(lang, int(least), text.replace("\\n", "\n")) for lang, least, text in rows]


def held_out(everything: Sequence[Labelled]) -> list[Labelled]:
    """Every second one: the words and weights of the score were looked over with the others."""
    return list(everything[1::2])


def decided_tier(text: str) -> Tier | None:
    found = score(read({"messages": [{"role": "user", "content": text}]}))
    return None if found.value is None else tier_for(found.value, DEFAULT_TIERS)


def evaluate(chosen: Sequence[Labelled]) -> Report:
    pairs = [(p.least, STRENGTH.index(t) + 1) for p in chosen if (t := decided_tier(p.text))]
    count = len(pairs) or 1
    mix = Counter(given for _, given in pairs)
    share = {tier: mix[tier] / count for tier in (1, 2, 3)}
    return Report(
        prompts=len(chosen),
        decided=len(pairs),
        right=sum(least == given for least, given in pairs) / count,
        right_at_random=sum(share[least] for least, _ in pairs) / count,
        enough=sum(given >= least for least, given in pairs) / count,
        enough_at_random=sum(
            sum(part for tier, part in share.items() if tier >= least) for least, _ in pairs
        )
        / count,
    )
