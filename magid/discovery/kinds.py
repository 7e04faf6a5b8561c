"""Classifies GGUF files: kinds of models, companions of models, and foreign files. Pure.

By the header, or by the name where headers are known to lack the information.
"""

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from magid.discovery.naming import number, text

_RANK_POOLING: Final = 4  # LLAMA_POOLING_TYPE_RANK
_DRAFT_NAME: Final = re.compile(r"(?:mtp|eagle3|dflash|dspark)[-_]", re.I)
"""How llama.cpp's own downloader recognises drafts by file name (common/download.cpp)."""

_DRAFT_ARCHITECTURES: Final = frozenset({"dflash", "eagle3", "gemma4-assistant"})
"""Architectures that llama.cpp runs only together with the model they draft for: the constructor
of `llama_context` needs that model's context (`ctx_other`). DSpark drafts have dflash headers."""

_EMBEDDING_WORDS: Final = frozenset({"embed", "embedding", "embeddings"})
_EMBEDDING_ARCHITECTURES: Final = frozenset(
    {
        "bert",
        "modern-bert",
        "nomic-bert",
        "nomic-bert-moe",
        "neo-bert",
        "jina-bert-v2",
        "jina-bert-v3",
        "eurobert",
        "gemma-embedding",
        "llama-embed",
        "t5encoder",
    }
)
_FOREIGN_ARCHITECTURES: Final = frozenset(
    {
        "aura",
        "cosmos",
        "flux",
        "hidream",
        "hyvid",
        "ltxv",
        "lumina2",
        "qwen_image",
        "sd1",
        "sd3",
        "sdxl",
        "wan",
        "wavtokenizer-dec",
        "whisper",
    }
)
"""GGUF models for images, video and sound, which llama-server cannot run."""

_WORD: Final = re.compile(r"[a-z0-9]+")


class ModelKind(StrEnum):
    """What a model outputs: text, a vector, or a ranking of documents."""

    CHAT = "chat"
    EMBEDDING = "embedding"
    RERANKER = "reranker"


def model_kind(filename: str, metadata: Mapping[str, object]) -> ModelKind:
    """Determines the kind by pooling, else by architecture, else by name."""
    architecture = text(metadata, "general.architecture") or ""
    pooling = number(metadata, f"{architecture}.pooling_type")
    names = f"{filename} {text(metadata, 'general.basename') or ''}".lower()
    words = set(_WORD.findall(names))
    if pooling == _RANK_POOLING or any(word.startswith("rerank") for word in words):
        return ModelKind.RERANKER
    if pooling is not None or architecture.lower() in _EMBEDDING_ARCHITECTURES:
        return ModelKind.EMBEDDING
    return ModelKind.CHAT if words.isdisjoint(_EMBEDDING_WORDS) else ModelKind.EMBEDDING


def companion_kind(filename: str, metadata: Mapping[str, object]) -> str | None:
    """Returns `lora`, `imatrix`, `mmproj` or `draft`; None for a model, or a shard of one.

    The words "imatrix", "lora" and "draft" in a name prove nothing: models that were quantised
    with an importance matrix, merged with an adapter, or made for writing often have them.
    """
    kind = text(metadata, "general.type")
    if kind == "adapter":
        return "lora"
    if kind in ("imatrix", "mmproj"):
        return kind
    architecture = (text(metadata, "general.architecture") or "").lower()
    if architecture == "clip" or "mmproj" in _WORD.findall(filename.lower()):
        return "mmproj"
    is_draft = architecture in _DRAFT_ARCHITECTURES or _DRAFT_NAME.match(filename)
    return "draft" if is_draft else None


def foreign(metadata: Mapping[str, object]) -> str | None:
    """Returns why llama-server cannot run this file, for a person; None if it may."""
    architecture = text(metadata, "general.architecture")
    if architecture is None:
        return "is of unknown type: its header has no general.architecture"
    if architecture.lower() in _FOREIGN_ARCHITECTURES:
        return f"is a {architecture!r} model, which llama-server cannot run"
    return None
