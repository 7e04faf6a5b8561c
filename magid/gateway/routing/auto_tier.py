"""Where a request goes: by its model, by its tier, or by `auto`. Changes nothing.

`auto` asks the conversation's own rule first and the complexity score second.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from magid.catalog.profile import DEFAULT_TIERS, TierRange, TwoStageRules
from magid.discovery.tiers import Tier
from magid.errors import MagidError
from magid.gateway.routing import complexity, resolver
from magid.gateway.routing.conversations import Conversations
from magid.gateway.routing.fleet import AUTO, Fleet
from magid.gateway.routing.request import ParsedRequest, Prompt
from magid.gateway.routing.resolver import STRENGTH, ModelRoute, Reason


def route(request: ParsedRequest, now: Fleet, conversations: Conversations) -> ModelRoute:
    """Raises ModelNotFound, InvalidInput, NotReady, ServerFailed."""
    name = resolver.by_name(request.model, now)
    if name in now.offers:
        return resolver.to_model(name, request, now)
    if name == AUTO:
        return _automatic(request, now, conversations)
    return resolver.to_tier(Tier(name), request, now, "tier")


def _automatic(request: ParsedRequest, now: Fleet, conversations: Conversations) -> ModelRoute:
    """By the conversation so far, and by what the newest message shows."""
    if not request.endpoint.generates:
        plain = resolver.to_tier(DEFAULT_TIER, request, now, "auto")
        return replace(plain, reason=Reason.DEFAULT)
    tiers = now.profile.tier_config if now.profile else DEFAULT_TIERS
    before, process = conversations.before(request.prompt)
    choice = choose(request.prompt, tiers, before)
    route = resolver.to_tier(choice.tier, request, now, choice.why, choice.floor)
    return replace(route, parts=choice.parts, process=process, reason=choice.reason)


def has_stages(request: ParsedRequest, now: Fleet, rules: TwoStageRules) -> bool:
    """Only for auto: a request for a model or a tier gets that one. Both tiers must exist."""
    try:
        if resolver.by_name(request.model, now) != AUTO or not applies(request):
            return False
        tiers = [
            resolver.to_tier(tier, request, now, "").tier
            for tier in (rules.stage1_tier, rules.stage2_tier)
        ]
    except MagidError:
        return False
    return tiers == [rules.stage1_tier, rules.stage2_tier] and tiers[0] is not tiers[1]


PATH = "/v1/chat/completions"  # the one API whose answers are taken apart here


# What makes an answer more than text, or several answers: a draft would be of no use, or harm.
_NEVER = (
    "tools", "functions", "logprobs", "top_logprobs", "n_probs", "grammar", "json_schema",
    "response_format", "audio", "modalities",
)  # fmt: skip


def applies(request: ParsedRequest) -> bool:
    """Whether the request is a plain question for one text."""
    fields = request.fields
    if request.endpoint.upstream != PATH or any(fields.get(name) for name in _NEVER):
        return False
    return fields.get("n", 1) in (1, None) and _last_is_a_question(fields)


def _last_is_a_question(fields: Mapping[str, Any]) -> bool:
    match fields.get("messages"):
        case [*_, {"role": "user", "content": str() | list()}]:
            return True
        case _:
            return False


DEFAULT_TIER = Tier.BALANCED  # where there is no evidence; not the weakest: it would disappoint


class TierChoice(Struct, frozen=True):
    """`why` is for a person, `floor` what the conversation may not fall below."""

    tier: Tier
    why: str
    floor: Tier | None
    parts: dict[str, Any]
    reason: Reason


def tier_for(score: float, tiers: Sequence[TierRange]) -> Tier:
    """The first whose max_score the score does not exceed; above all of them the last."""
    fitting = (t.name for t in tiers if score <= t.max_score)
    return next(fitting, tiers[-1].name if tiers else DEFAULT_TIER)


def choose(prompt: Prompt, tiers: Sequence[TierRange], before: Tier | None) -> TierChoice:
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
        return TierChoice(before, why, before, parts, Reason.CONVERSATION)
    return TierChoice(tier, why, before, parts, reason)
