"""Which projector (mmproj: images or sound for a model) goes with which model.

Pure. The two must lie in the same folder. Folders hold one model in a Hugging Face repository,
where whatever projector there is belongs to it, and many in a flat collection, where a wrong pair
would keep llama-server from starting. So:

- a projector whose output width is not the model's is never taken;
- one whose name begins the model's name is (`mmproj-gemma-3-4b-it` for `gemma-3-4b-it-Q4_0`),
  if the sizes in both names are the same;
- one with another name, or none (`mmproj-F16`), is if all models of the folder are one model in
  several encodings; without a name, the right width also will do.

Of several, the name that shares most words wins, then the encoding that every device computes
(F16 before BF16), then path order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from magid.discovery.naming import name_words, number, split_name, text

_SOFT: Final = frozenset({"instruct", "it", "chat", "mmproj", "model", "vision"})
"""Words that one of the two names often has and the other not."""

_ENCODINGS: Final = ("f16", "bf16", "q8_0", "f32")


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is compared of a model, or of a projector."""

    words: tuple[str, ...]
    size: str | None
    encoding: str
    width: int | None  # of the vectors that pass from the projector to the model


def candidate(filename: str, metadata: Mapping[str, object]) -> Candidate:
    """What a file says of itself; a model's width is its embedding length."""
    own = split_name(filename)
    named = name_words(own, metadata)
    label = (text(metadata, "general.size_label") or "").lower()
    width = number(metadata, "clip.vision.projection_dim")
    if width is None:
        width = number(metadata, f"{text(metadata, 'general.architecture')}.embedding_length")
    return Candidate(
        words=tuple(word for word in named.tokens if word not in _SOFT),
        size=named.size or own.size or label or None,
        encoding=own.encoding or "",
        width=width,
    )


def choose(
    model: Candidate, neighbours: Sequence[Candidate], projectors: Sequence[Candidate]
) -> int | None:
    """Index of the projector to take; `neighbours` are all models of the folder, `model` too."""
    alone = len({(other.words, other.size) for other in neighbours}) == 1
    ranked = [
        (_rank(model, projector), -index)
        for index, projector in enumerate(projectors)
        if _fits(model, projector, alone=alone)
    ]
    return -max(ranked)[1] if ranked else None


def _fits(model: Candidate, projector: Candidate, *, alone: bool) -> bool:
    known = model.width is not None and projector.width is not None
    if known and model.width != projector.width:
        return False
    if alone:
        return True
    if not projector.words:
        return known
    same_size = not (model.size and projector.size) or model.size == projector.size
    return same_size and model.words[: len(projector.words)] == projector.words


def _rank(model: Candidate, projector: Candidate) -> tuple[int, int]:
    shared = 0
    for ours, theirs in zip(model.words, projector.words, strict=False):
        if ours != theirs:
            break
        shared += 1
    encodings = {encoding: -place for place, encoding in enumerate(_ENCODINGS)}
    return shared, encodings.get(projector.encoding, -len(_ENCODINGS))
