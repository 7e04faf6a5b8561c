"""`auto`: from a request to a tier, by the session's rule, then by the score. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from magid.catalog.profile import TierConfig
from magid.discovery.tiers import Tier
from magid.gateway.routing import complexity
from magid.gateway.routing.prompt import Prompt
from magid.gateway.routing.resolver import STRENGTH, Reason

DEFAULT_TIER = Tier.BALANCED  # where there is no evidence; not the weakest: it would disappoint


@dataclass(frozen=True, slots=True)
class Choice:
    """`why` is for a person, `floor` what the conversation may not fall below."""

    tier: Tier
    why: str
    floor: Tier | None
    parts: dict[str, Any]
    reason: Reason


def tier_for(score: float, tiers: Sequence[TierConfig]) -> Tier:
    """The first whose max_score the score does not exceed; above all of them the last."""
    fitting = (t.name for t in tiers if score <= t.max_score)
    return next(fitting, tiers[-1].name if tiers else DEFAULT_TIER)


def choose(prompt: Prompt, tiers: Sequence[TierConfig], before: Tier | None) -> Choice:
    """`before` is the tier of the conversation's last request: it never drops a tier."""
    score = complexity.score(prompt)
    parts = {"score": score.value, "parts": dict(score.parts)}
    if score.value is None:
        tier, why, reason = DEFAULT_TIER, "auto: no evidence", Reason.NO_EVIDENCE
    else:
        tier, why = tier_for(score.value, tiers), f"auto: score {score.value:g}"
        reason = Reason.SCORE
    if before is not None and STRENGTH.index(before) > STRENGTH.index(tier):
        why = f"{why}; kept on {before} by its conversation"
        return Choice(before, why, before, parts, Reason.CONVERSATION)
    return Choice(tier, why, before, parts, reason)
