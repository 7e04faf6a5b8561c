"""Where a request would go now: by its model, by its tier, or by `auto`. Changes nothing."""

from dataclasses import replace

from magid.catalog.profile import DEFAULT_TIERS, TwoStage
from magid.discovery.tiers import Tier
from magid.errors import MagidError
from magid.gateway.proxy import two_stage
from magid.gateway.routing import automatic, resolver
from magid.gateway.routing.conversations import Conversations
from magid.gateway.routing.fleet import AUTO, Fleet
from magid.gateway.routing.request import Asked
from magid.gateway.routing.resolver import Reason, Route


def route(asked: Asked, now: Fleet, conversations: Conversations) -> Route:
    """Raises ModelNotFound, InvalidInput, NotReady, ServerFailed."""
    name = resolver.by_name(asked.model, now)
    if name in now.offers:
        return resolver.to_model(name, asked, now)
    if name == AUTO:
        return _automatic(asked, now, conversations)
    return resolver.to_tier(Tier(name), asked, now, "tier")


def _automatic(asked: Asked, now: Fleet, conversations: Conversations) -> Route:
    """By the conversation so far, and by what the newest message shows."""
    if not asked.endpoint.generates:
        plain = resolver.to_tier(automatic.DEFAULT_TIER, asked, now, "auto")
        return replace(plain, reason=Reason.DEFAULT)
    tiers = now.profile.tier_config if now.profile else DEFAULT_TIERS
    before, process = conversations.before(asked.prompt)
    choice = automatic.choose(asked.prompt, tiers, before)
    route = resolver.to_tier(choice.tier, asked, now, choice.why, choice.floor)
    return replace(route, parts=choice.parts, process=process, reason=choice.reason)


def has_stages(asked: Asked, now: Fleet, rules: TwoStage) -> bool:
    """Only for auto: who names a model or a tier gets that one. Both tiers must be there."""
    try:
        if resolver.by_name(asked.model, now) != AUTO or not two_stage.applies(asked):
            return False
        tiers = [
            resolver.to_tier(tier, asked, now, "").tier
            for tier in (rules.stage1_tier, rules.stage2_tier)
        ]
    except MagidError:
        return False
    return tiers == [rules.stage1_tier, rules.stage2_tier] and tiers[0] is not tiers[1]
