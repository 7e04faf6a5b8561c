"""Finds what can guess a model's next tokens: layers of its own, or draft files. Pure.

The model checks several guesses at once, which is faster than computing one token after another and
gives the same answers (speculative decoding). A draft is made for one model and belongs to it as a
projector does, so both are paired by the same rules.

Sources: the graphs `graph_mtp` in src/models of llama.cpp 0.7.0, `llama-server --help`.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from magid.discovery.found import Draft
from magid.discovery.kinds import ModelKind
from magid.discovery.naming import text
from magid.discovery.projectors import Pairing, candidate, pair
from magid.discovery.walker import File

KINDS: Final = ("mtp", "dflash", "dspark", "eagle3")
"""The best first, in the order of llama.cpp's own downloader."""

WITH_MTP: Final = frozenset(
    {"bailingmoe3", "cohere2moe", "deepseek2", "deepseek32", "deepseek4", "glm-dsa", "glm4moe"}
    | {"glm5-next", "hy_v3", "mimo2", "nemotron_h_moe", "qwen35", "qwen35moe", "qwen3next"}
    | {"qwen4exp", "step35"}
)
"""Architectures whose further layers llama.cpp computes; it ignores those of others."""

_ASSISTED: Final = {"gemma4-assistant": "gemma4"}
"""Architectures of drafts -> that of their models."""

Readings = Mapping[str, Mapping[str, object]]  # path -> metadata


def draft_kind(filename: str, metadata: Mapping[str, object]) -> str:
    """Returns the kind of a draft file: by its architecture, else by its name."""
    architecture = (text(metadata, "general.architecture") or "").lower()
    name = filename.lower()
    if architecture == "dflash":
        return "dspark" if name.startswith("dspark") else "dflash"
    if architecture == "eagle3":
        return "eagle3"
    return next((kind for kind in KINDS if name.startswith(kind)), "mtp")


def is_draft(filename: str, metadata: Mapping[str, object], *, has_nextn: bool) -> bool:
    """Whether llama-server can draft with this file. Names of MTP files promise too much."""
    architecture = (text(metadata, "general.architecture") or "").lower()
    if draft_kind(filename, metadata) != "mtp":
        return True
    return architecture in _ASSISTED or (has_nextn and architecture in WITH_MTP)


def pair_drafts(models: Sequence[File], drafts: Sequence[File], readings: Readings) -> Pairing:
    """Pairs models with the draft files near them."""
    if not drafts:
        return Pairing()
    offered = [
        candidate(file, readings[file.path], needs=_model_architecture(file, readings[file.path]))
        for file in drafts
    ]
    own = [candidate(file, readings[file.path]) for file in models]
    return pair(own, offered, "draft")


def _model_architecture(file: File, metadata: Mapping[str, object]) -> str:
    """Returns the architecture of the model that a draft needs; "" if its header has none."""
    architecture = text(metadata, "general.architecture") or ""
    if draft_kind(file.name, metadata) != "mtp":
        return ""
    return _ASSISTED.get(architecture.lower(), architecture)


def drafts_of(
    kind: ModelKind, architecture: str, files: Sequence[tuple[File, str, str]], *, has_nextn: bool
) -> tuple[Draft, ...]:
    """Returns the drafts of a model, the best first: its own layers need no other file.

    `files` are the draft files that match it, with their kinds and stamps.
    """
    if kind is not ModelKind.CHAT:
        return ()
    own = [Draft("mtp")] if has_nextn and architecture in WITH_MTP else []
    beside = [Draft(kind, file.real, file.name, stamp) for file, kind, stamp in files]
    return (*own, *sorted(beside, key=lambda draft: KINDS.index(draft.kind)))
