"""What Ollama's clients are told of models: /api/tags, /api/show, /api/ps. Pure.

Models come first, then aliases, tiers and auto, which clients offer to be chosen like models. A
name without a tag is listed with `:latest`, as Ollama does; it can be asked for without.
"""

import hashlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from magid.discovery.kinds import ModelKind
from magid.discovery.tiers import ThinkingMode
from magid.errors import ModelNotFound
from magid.gateway.routing import resolver
from magid.gateway.routing.fleet import AUTO, AvailableModel, Fleet
from magid.gateway.routing.resolver import STRENGTH

# Clients ask for one, and take an older one for a server that cannot think, say.
API_VERSION = "0.9.0"
_FOREVER = datetime(9999, 12, 31, tzinfo=UTC)
_OWN = "magid"  # the family and architecture of a name that leads to several models


def timestamp(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def tagged(name: str) -> str:
    """The name as Ollama lists it."""
    return name if ":" in name else f"{name}:latest"


def tags(fleet: Fleet) -> dict[str, Any]:
    """The answer of /api/tags."""
    names = [*fleet.offers, *sorted(fleet.aliases), *STRENGTH, AUTO]
    known = [(name, _meant(name, fleet)) for name in names]
    return {"models": [_tag(name, offers) for name, offers in known if offers]}


def show(name: str, fleet: Fleet) -> dict[str, Any]:
    """The answer of /api/show. Raises ModelNotFound."""
    target = resolver.by_name(name, fleet)
    offers = _meant(target, fleet)
    if not offers:
        raise ModelNotFound(
            f"cannot show {name[:200]!r}: no enabled model is behind it; GET /v1/models lists the "
            "names that can be used",
            modelId=name[:200],
        )
    facts = _facts(target, offers)
    return {
        "license": "",
        "modelfile": f"# {target} of magid\n",
        "parameters": "",
        "template": "",
        "details": _details(target, offers),
        "model_info": facts,
        "capabilities": _capabilities(offers),
        "modified_at": _modified(offers),
    }


def running(fleet: Fleet, idle_until: Mapping[str, datetime]) -> dict[str, Any]:
    """The answer of /api/ps. `idle_until`: when a model on demand will stop if it is not used."""
    return {
        "models": [
            {
                **_tag(offer.model_id, [offer]),
                "expires_at": timestamp(idle_until.get(offer.model_id, _FOREVER)),
                "size_vram": 0,  # not known: which part of it lies where is llama-server's own
                "context_length": offer.context or 0,
            }
            for offer in fleet.offers.values()
            if offer.backends
        ]
    }


def _meant(name: str, fleet: Fleet) -> list[AvailableModel]:
    """The models that a request of this name could go to. An alias may lead to another one."""
    for _ in range(2):
        name = fleet.aliases.get(name, name)
    if name in fleet.offers:
        return [fleet.offers[name]]
    chat = [offer for offer in fleet.offers.values() if offer.kind is ModelKind.CHAT]
    return [offer for offer in chat if name in (offer.tier, AUTO)]


def _tag(name: str, offers: list[AvailableModel]) -> dict[str, Any]:
    is_one = len(offers) == 1
    stamps = "".join(offer.model.found.stamp for offer in offers)
    return {
        "name": tagged(name),
        "model": tagged(name),
        "modified_at": _modified(offers),
        "size": offers[0].model.found.size_bytes if is_one else 0,
        "digest": hashlib.sha256(f"{name} {stamps}".encode()).hexdigest(),
        "details": _details(name, offers),
        "capabilities": _capabilities(offers),
    }


def _modified(offers: Iterable[AvailableModel]) -> str:
    return timestamp(max(offer.model.entry.discovered_at for offer in offers))


def _details(name: str, offers: list[AvailableModel]) -> dict[str, Any]:
    """Clients require every key, also of a name that leads to several models."""
    family, size, quantization = _OWN, "", ""
    if len(offers) == 1:
        found = offers[0].model.found
        family = found.architecture
        size = _size(found.parameter_count)
        quantization = found.name.quantization.upper()
    return {
        "parent_model": "",
        "format": "gguf",
        "family": family,
        "families": [family],
        "parameter_size": size,
        "quantization_level": quantization,
        "context_length": _context(offers),
    }


def _size(parameters: int) -> str:
    billions = parameters / 1e9
    return f"{billions:.1f}B" if billions >= 1 else f"{parameters / 1e6:.2f}M"


def _context(offers: Iterable[AvailableModel]) -> int:
    return max((offer.context or 0 for offer in offers), default=0)


def _facts(name: str, offers: list[AvailableModel]) -> dict[str, Any]:
    """`model_info`: keys of a GGUF header."""
    if len(offers) != 1:
        return {
            "general.architecture": _OWN,
            "general.basename": name,
            f"{_OWN}.context_length": _context(offers),
        }
    (offer,) = offers
    found = offer.model.found
    facts = {
        "general.architecture": found.architecture,
        "general.basename": found.display_name,
        "general.parameter_count": found.parameter_count,
        f"{found.architecture}.context_length": offer.context or found.context_length or 0,
    }
    if found.abilities.embedding_length:
        facts[f"{found.architecture}.embedding_length"] = found.abilities.embedding_length
    return facts


def _capabilities(offers: list[AvailableModel]) -> list[str]:
    """Of several models what any of them can: a request goes to one that can do it."""
    if all(offer.kind is ModelKind.EMBEDDING for offer in offers):
        return ["embedding"]
    abilities = {
        "completion": any(offer.kind is ModelKind.CHAT for offer in offers),
        "tools": any(offer.tools for offer in offers),
        "insert": any(offer.model.abilities.infill for offer in offers),
        "vision": any(offer.images for offer in offers),
        "audio": any(offer.audio for offer in offers),
        "thinking": any(
            offer.model.found.thinking_mode is not ThinkingMode.NONE for offer in offers
        ),
    }
    return [name for name, can in abilities.items() if can]
