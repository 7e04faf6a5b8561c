"""What GET /v1/models lists: models, aliases, tiers and auto, ready or not. Pure."""

from typing import Any

from magid.catalog.effective import remembered_tier
from magid.catalog.registry import ModelEntry
from magid.gateway.routing.fleet import AUTO, AvailableModel, Fleet
from magid.gateway.routing.resolver import STRENGTH


def entries(fleet: Fleet) -> list[dict[str, Any]]:
    """Models in id order, then aliases, tiers that have a model, and auto if there is any.

    During the first scan after a start it holds the models of the last run, with less detail, so
    that clients which ask once do not go without.
    """
    found = [_model(offer) for offer in fleet.offers.values()]
    found += [_remembered(entry) for entry in fleet.remembered.values()]
    found += [_name(alias, "alias", to) for alias, to in sorted(fleet.aliases.items())]
    tiers = {offer.tier for offer in fleet.offers.values()}
    tiers |= {remembered_tier(entry) for entry in fleet.remembered.values()}
    found += [_name(tier, "tier", tier) for tier in STRENGTH if tier in tiers]
    return found + ([_name(AUTO, "auto", AUTO)] if tiers else [])


def _model(offer: AvailableModel) -> dict[str, Any]:
    """OpenAI's four fields, llama.cpp's `meta` and `status`, and ours within `meta`."""
    found = offer.model.found
    return {
        "id": offer.model_id,
        "object": "model",
        "created": int(offer.model.entry.discovered_at.timestamp()),
        "owned_by": "magid",
        "name": found.display_name,
        "status": {"value": "loaded" if offer.backends else "unloaded"},
        "meta": {
            "n_ctx": offer.context,
            "n_ctx_train": found.context_length,
            "n_params": found.parameter_count,
            "size": found.size_bytes,
            "kind": offer.kind,
            "tier": offer.tier,
            "servers": len(offer.backends),
            "abilities": {
                "tools": offer.tools,
                "images": offer.images,
                "audio": offer.audio,
                "thinking": found.thinking_mode,
                "infill": offer.model.abilities.infill,
                "embedding_length": offer.model.abilities.embedding_length,
            },
        },
    }


def _remembered(entry: ModelEntry) -> dict[str, Any]:
    return {
        "id": entry.model_id,
        "object": "model",
        "created": int(entry.discovered_at.timestamp()),
        "owned_by": "magid",
        "status": {"value": "unloaded"},
        "meta": {"tier": remembered_tier(entry)},
    }


def _name(name: str, kind: str, target: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": "magid",
        "meta": {"kind": kind, "leads_to": target},
    }
