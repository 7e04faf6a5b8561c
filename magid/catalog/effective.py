"""Effective models: what discovery found on disk, with the user's overrides applied. Pure."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from msgspec import Struct, structs

from magid.catalog.drafting import Drafting, by_folder, drafting
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
"""With these options a server does not use the template in its model's header."""


class Model(Struct, frozen=True):
    """One model with its effective values."""

    entry: ModelEntry
    found: FoundModel
    tier: Tier
    is_thinking: bool
    enabled: bool
    settings: RuntimeSettings  # the user's choice, else the configuration's
    drafting: Drafting = Drafting()

    @property
    def model_id(self) -> str:
        return self.entry.model_id

    @property
    def is_on_demand(self) -> bool:
        """Whether the first request starts its servers, instead of the boot."""
        return self.settings.start == "on-demand"

    @property
    def abilities(self) -> ModelAbilities:
        """Its abilities with these settings, by its files; a running server may report others."""
        options = {argument.partition("=")[0] for argument in self.settings.extra_args}
        if self.found.kind is not ModelKind.CHAT or options.isdisjoint(_TEMPLATE_OPTIONS):
            return self.found.abilities
        return structs.replace(self.found.abilities, tools=None)

    @property
    def context_length(self) -> int | None:
        """Maximum tokens of a request; a server may allow fewer."""
        lengths = (self.settings.ctx_size or None, self.found.context_length)
        return min((length for length in lengths if length), default=None)

    @property
    def port(self) -> int | None:
        """The first port, if the model is enabled or the user has pinned the port."""
        held = self.entry.ports and (self.enabled or self.entry.port_pinned)
        return self.entry.ports[0] if held else None


def effective_tier(entry: ModelEntry, found: FoundModel) -> Tier:
    """The override; else powerful if the user has marked it as thinking; else the found tier."""
    if entry.tier_override is not None:
        return entry.tier_override
    return Tier.POWERFUL if entry.thinking_override else found.tier


def remembered_tier(entry: ModelEntry) -> Tier:
    """The tier of a model whose file is not read yet: its id contains the tier that was found."""
    if entry.tier_override is not None:
        return entry.tier_override
    words = entry.model_id.split("_")[-2:]  # a number may follow, in the id of a duplicate
    assigned = next((Tier(word) for word in words if word in set(Tier)), Tier.BALANCED)
    return Tier.POWERFUL if entry.thinking_override else assigned


def effective_thinking(entry: ModelEntry, found: FoundModel) -> bool:
    return found.is_thinking if entry.thinking_override is None else entry.thinking_override


def effective_enabled(entry: ModelEntry, tier: Tier, profile: Profile | None) -> bool:
    """The override; else membership in the active profile; without a profile False."""
    if entry.enabled_override is not None:
        return entry.enabled_override
    return profile is not None and matches(profile, entry.model_id, tier)


def effective_settings(entry: ModelEntry, config: Config) -> RuntimeSettings:
    """The user's settings over the configuration's defaults."""
    if not entry.settings:
        return config.server_defaults  # of a thousand models most have none of their own
    known = {name: value for name, value in entry.settings.items() if name in BY_NAME}
    return replace(config.server_defaults, **known)


def effective_models(
    registry: Registry, found: Mapping[str, FoundModel], profile: Profile | None, config: Config
) -> dict[str, Model]:
    """Returns every model whose file exists: id -> model, in order of ids."""
    models = {}
    folders = by_folder(found.values())
    for model_id in sorted(found):
        entry, disk = registry.models[model_id], found[model_id]
        tier = effective_tier(entry, disk)
        settings = effective_settings(entry, config)
        models[model_id] = Model(
            entry=entry,
            found=disk,
            tier=tier,
            is_thinking=effective_thinking(entry, disk),
            enabled=effective_enabled(entry, tier, profile),
            settings=settings,
            drafting=drafting(disk, settings.draft, folders),
        )
    return models


def server_specs(
    model: Model, host: str, ports: tuple[int, ...] | None = None
) -> tuple[ServerSpec, ...]:
    """Returns the servers that the model should have: one per instance with a port (or `ports`)."""
    mmproj = next((c.path for c in model.found.companions if c.kind == "mmproj"), None)
    draft, adapters = model.drafting.draft, model.found.adapters
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
            draft_type=draft.kind if draft else None,
            draft_path=draft.path if draft else None,
            draft_stamp=draft.stamp if draft else "",
            lora_paths=tuple(adapter.path for adapter in adapters),
            lora_stamp=",".join(adapter.stamp for adapter in adapters),
            lora_bytes=sum(adapter.size_bytes for adapter in adapters),
            **server_settings(model.settings),
        )
        for instance, port in enumerate((ports or model.entry.ports)[: model.settings.instances])
    )
