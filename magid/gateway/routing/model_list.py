"""What GET /v1/models lists: models, aliases, tiers and auto, ready or not. Pure.

A model's entry also has what llama.cpp's router says of one: `status`, `aliases`, `architecture`.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from magid.catalog.effective import remembered_tier
from magid.catalog.registry import ModelEntry
from magid.discovery.kinds import ModelKind
from magid.gateway.routing.fleet import AUTO, AvailableModel, Fleet
from magid.gateway.routing.resolver import STRENGTH


def entries(fleet: Fleet) -> list[dict[str, Any]]:
    """Models in id order, then aliases, tiers that have a model, and auto if there is any.

    During the first scan after a start it holds the models of the last run, with less detail, so
    that clients which ask once do not go without.
    """
    aliases = _names_of(fleet)
    found = [_model(offer, aliases.get(offer.model_id, ())) for offer in fleet.offers.values()]
    found += [_remembered(entry) for entry in fleet.remembered.values()]
    found += [_alias(alias, to, fleet) for alias, to in sorted(fleet.aliases.items())]
    tiers = {offer.tier for offer in fleet.offers.values()}
    tiers |= {remembered_tier(entry) for entry in fleet.remembered.values()}
    found += [_name(tier, "tier", tier) for tier in STRENGTH if tier in tiers]
    return found + ([_name(AUTO, "auto", AUTO)] if tiers else [])


def _names_of(fleet: Fleet) -> Mapping[str, list[str]]:
    """The aliases that lead to each model, in alphabetical order, then its name at its hub."""
    names = defaultdict(list)
    for alias, to in sorted(fleet.aliases.items()):
        names[fleet.aliases.get(to, to)].append(alias)
    for model_id, path in fleet.hub_paths.items():
        if model_id in fleet.offers:
            names[model_id] += _name_at_hub(path, fleet.offers[model_id])
    return names


def _name_at_hub(path: str, offer: AvailableModel) -> list[str]:
    """ORG/REPO:Q4_K_M, as llama.cpp's router lists a download; none if its file has no such tag."""
    organisation, name, file = path.split("/", 2)
    tag = offer.model.found.name.quantization.upper()
    return [f"{organisation}/{name}:{tag}"] if tag in file.upper() else []


def statuses(fleet: Fleet) -> dict[str, dict[str, Any]]:
    """The status of each model, by id, in the words of llama.cpp's router."""
    found = {model_id: status_of(offer) for model_id, offer in fleet.offers.items()}
    return found | {model_id: {"value": "unloaded"} for model_id in fleet.remembered}


def status_of(offer: AvailableModel) -> dict[str, Any]:
    """The status of one model, with `failed` where its server has ended by itself."""
    if offer.backends:
        return {"value": "loaded"}
    if offer.is_loading:
        return {"value": "loading"}
    return {"value": "unloaded"} | ({"failed": True} if offer.is_failing else {})


def _model(offer: AvailableModel, aliases: Sequence[str]) -> dict[str, Any]:
    """OpenAI's four fields, those of llama.cpp and its router, and ours within `meta`."""
    found = offer.model.found
    return {
        "id": offer.model_id,
        "object": "model",
        "created": int(offer.model.entry.discovered_at.timestamp()),
        "owned_by": "magid",
        "name": found.display_name,
        "aliases": list(aliases),
        "status": {**status_of(offer), "args": _arguments(offer)},
        "architecture": _architecture(offer),
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


def _arguments(offer: AvailableModel) -> list[str]:
    """Those that clients read facts from: made up, so that no path, port or key is among them."""
    arguments = ["llama-server"]
    if offer.context:
        arguments += ["--ctx-size", str(offer.context)]
    if offer.images or offer.audio:
        arguments += ["--mmproj", "mmproj.gguf"]
    if offer.kind is ModelKind.CHAT and "--no-jinja" not in offer.model.settings.extra_args:
        arguments += ["--jinja"]
    return arguments


_OUTPUTS = {ModelKind.CHAT: "text", ModelKind.EMBEDDING: "embeddings", ModelKind.RERANKER: "rerank"}


def _architecture(offer: AvailableModel) -> dict[str, list[str]]:
    inputs = [("image", offer.images), ("audio", offer.audio)]
    return {
        "input_modalities": ["text", *(name for name, can in inputs if can)],
        "output_modalities": [_OUTPUTS[offer.kind]],
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


def _alias(name: str, target: str, fleet: Fleet) -> dict[str, Any]:
    entry = _name(name, "alias", target)
    chosen = fleet.variants.get(name)
    if chosen is not None:
        entry["meta"]["variant"] = chosen.parameters.public
    return entry


def _name(name: str, kind: str, target: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": "magid",
        "meta": {"kind": kind, "leads_to": target},
    }
