"""A model as it counts: what was found on disk, seen through what the user decided.

Pure. Every value that a user can set has its source beside it, so that "why does it run like
this" is answered by reading, not by guessing.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from msgspec import Struct, structs

from magid.catalog.profile import Profile, matches
from magid.catalog.registry import ModelEntry, Registry
from magid.config.settings import Config
from magid.discovery.abilities import ModelAbilities
from magid.discovery.found import FoundModel
from magid.discovery.kinds import ModelKind
from magid.discovery.tiers import Tier
from magid.llama.runtime_settings import BY_NAME, RuntimeSettings, server_settings
from magid.llama.spec import ServerSpec

_TEMPLATE_OPTIONS: Final = frozenset({"--chat-template", "--no-jinja"})
"""With these a server does not use the template of its model's header."""


class Model(Struct, frozen=True):
    """One model with its effective values."""

    entry: ModelEntry
    found: FoundModel
    tier: Tier
    is_thinking: bool
    enabled: bool
    settings: RuntimeSettings  # in force: the user's choice, else the configuration's

    @property
    def model_id(self) -> str:
        return self.entry.model_id

    @property
    def is_on_demand(self) -> bool:
        """Whether its servers start with the first request, and not with magid."""
        return self.settings.start == "on-demand"

    @property
    def abilities(self) -> ModelAbilities:
        """What it can do as it would be started, by its files: a running server may know better."""
        options = {argument.partition("=")[0] for argument in self.settings.extra_args}
        if self.found.kind is not ModelKind.CHAT or options.isdisjoint(_TEMPLATE_OPTIONS):
            return self.found.abilities
        return structs.replace(self.found.abilities, tools=None)

    @property
    def context_length(self) -> int | None:
        """Tokens that a request can have at most; a server may give it fewer."""
        lengths = (self.settings.ctx_size or None, self.found.context_length)
        return min((length for length in lengths if length), default=None)

    @property
    def port(self) -> int | None:
        """The first port, while it is the model's: enabled, or pinned by the user."""
        held = self.entry.ports and (self.enabled or self.entry.port_pinned)
        return self.entry.ports[0] if held else None


def effective_tier(entry: ModelEntry, found: FoundModel) -> Tier:
    """The override; else powerful for a model that the user called thinking; else the assigned."""
    if entry.tier_override is not None:
        return entry.tier_override
    return Tier.POWERFUL if entry.thinking_override else found.tier


def remembered_tier(entry: ModelEntry) -> Tier:
    """The same while the file is not read yet: the tier that was assigned is a word of the id."""
    if entry.tier_override is not None:
        return entry.tier_override
    words = entry.model_id.split("_")[-2:]  # of two models with one id the later one gets a number
    assigned = next((Tier(word) for word in words if word in set(Tier)), Tier.BALANCED)
    return Tier.POWERFUL if entry.thinking_override else assigned


def effective_thinking(entry: ModelEntry, found: FoundModel) -> bool:
    return found.is_thinking if entry.thinking_override is None else entry.thinking_override


def effective_enabled(entry: ModelEntry, tier: Tier, profile: Profile | None) -> bool:
    """The override; else membership in the active profile; without a profile, nothing."""
    if entry.enabled_override is not None:
        return entry.enabled_override
    return profile is not None and matches(profile, entry.model_id, tier)


def effective_settings(entry: ModelEntry, config: Config) -> RuntimeSettings:
    """What the user chose, over the configuration's defaults."""
    known = {name: value for name, value in entry.settings.items() if name in BY_NAME}
    return replace(config.server_defaults, **known)


def effective_models(
    registry: Registry, found: Mapping[str, FoundModel], profile: Profile | None, config: Config
) -> dict[str, Model]:
    """Every model whose file is there, by id, in id order."""
    models = {}
    for model_id in sorted(found):
        entry, disk = registry.models[model_id], found[model_id]
        tier = effective_tier(entry, disk)
        models[model_id] = Model(
            entry=entry,
            found=disk,
            tier=tier,
            is_thinking=effective_thinking(entry, disk),
            enabled=effective_enabled(entry, tier, profile),
            settings=effective_settings(entry, config),
        )
    return models


def server_specs(
    model: Model, host: str, ports: tuple[int, ...] | None = None
) -> tuple[ServerSpec, ...]:
    """The servers this model should have, one per instance that has a port, or on `ports`."""
    mmproj = next((c.path for c in model.found.companions if c.kind == "mmproj"), None)
    return tuple(
        ServerSpec(
            model_id=model.model_id,
            instance=instance,
            port=port,
            host=host,
            model_path=model.found.path,
            mmproj_path=mmproj,
            kind=str(model.found.kind),
            stamp=model.found.stamp,
            **server_settings(model.settings),
        )
        for instance, port in enumerate((ports or model.entry.ports)[: model.settings.instances])
    )
