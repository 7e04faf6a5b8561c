"""Pairs models with projectors (mmproj files, for images or sound). Pure.

A projector is in its model's folder, in a subfolder `mmproj`, or in one of these places up to two
folders higher: repositories often have a folder for each encoding, and the projector above them.
The nearest place with a matching projector wins. A projector whose output width differs from the
model's never matches.

A folder of a Hugging Face repository contains one model, and any projector there belongs to it. A
flat collection contains many, and with the wrong projector llama-server does not start. So, in the
model's own folder:

- A projector whose name begins the model's name matches (`mmproj-gemma-3-4b-it` for
  `gemma-3-4b-it-Q4_0`), if the sizes in both names are the same.
- A projector with another name, or none (`mmproj-F16`), matches if all models of the folder are
  one model in several encodings. Without a name, the same width is enough.

Higher up, where other models may be, a projector with another name never matches. One without a
name matches only if all models below are one model, and either the widths are known to be the same
or the model's folder has the name of an encoding (`Q4_K_M`). A name in the header
(`general.basename`) replaces the file's.

Of several matches the one wins whose name shares most words with the model's, then the encoding
that most devices support (F16 before BF16), then the first in path order.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from msgspec import Struct, field

from magid.discovery.naming import name_words, number, split_name, text
from magid.discovery.walker import File

SUBFOLDER: Final = "mmproj"

_SOFT: Final = frozenset({"instruct", "it", "chat", "mmproj", "model", "vision"})
"""Words that often are in only one of the two names."""

_OF_COMPANIONS: Final = frozenset(
    {"adapter", "assistant", "dflash", "draft", "dspark", "eagle3", "lora", "mtp"}
)
"""Words that only the name of a draft or an adapter has."""

_ENCODINGS: Final = ("f16", "bf16", "q8_0", "f32")
_FOLDERS_ABOVE: Final = 2


class MatchCandidate(Struct, frozen=True):
    """The properties of a model or its companion that are compared."""

    file: File  # the model's first file
    words: tuple[str, ...]
    size: str | None
    encoding: str
    width: int | None  # of the vectors that the companion passes to the model, or takes from it
    architecture: str = ""
    needs: str = ""  # the model's architecture that a companion needs; "": any

    @property
    def names(self) -> tuple[tuple[str, ...], str | None]:
        return self.words, self.size


class Pairing(Struct, frozen=True):
    """`chosen`: a model's first path -> its projector; `unfit`: projector -> why it has none.

    `matching` has all projectors of the place where the chosen one is, the best first.
    """

    chosen: dict[str, File] = field(default_factory=dict)
    matching: dict[str, tuple[File, ...]] = field(default_factory=dict)
    unfit: dict[str, str] = field(default_factory=dict)


def candidate(
    file: File, metadata: Mapping[str, object], *, needs: str | None = None
) -> MatchCandidate:
    """Returns the properties of a file; a model's width is its embedding length.

    `needs` is the architecture of the model that a draft or an adapter needs; "": any.
    """
    own = split_name(file.name)
    named = name_words(own, metadata)
    label = (text(metadata, "general.size_label") or "").lower()
    architecture = text(metadata, "general.architecture") or ""
    widths = ["clip.vision.projection_dim", "clip.audio.projection_dim"]
    soft = _SOFT
    if needs is not None:
        widths += [f"{architecture}.target_hidden_size", f"{architecture}.embedding_length_out"]
        soft |= _OF_COMPANIONS
    widths.append(f"{architecture}.embedding_length")
    return MatchCandidate(
        file=file,
        words=tuple(word for word in named.tokens if word not in soft),
        size=named.size or own.size or label or None,
        encoding=own.encoding or "",
        width=next((n for key in widths if (n := number(metadata, key)) is not None), None),
        architecture=architecture,
        needs=needs or "",
    )


def pair(
    models: Sequence[MatchCandidate],
    projectors: Sequence[MatchCandidate],
    noun: str = "projector",
) -> Pairing:
    """Pairs models with projectors; also returns the projectors that match no model near them.

    Drafts and adapters are paired by the same rules; `noun` is what a person calls them.
    """
    pairing, names = Pairing(), _Names(models)
    offered: dict[str, list[MatchCandidate]] = defaultdict(list)
    for projector in projectors:
        offered[_place(projector.file.folder)].append(projector)
    near: dict[str, list[MatchCandidate]] = defaultdict(list)  # models, by the projector's path
    fitting: set[str] = set()
    for model in models:
        for folder in _folders_of(model):
            here = offered.get(folder, [])
            fits = [one for one in here if _fits(model, one, folder, names)]
            for projector in here:
                near[projector.file.path].append(model)
            fitting.update(one.file.path for one in fits)
            if fits and model.file.path not in pairing.chosen:
                fits.sort(key=lambda one: _rank(model, one), reverse=True)
                pairing.chosen[model.file.path] = fits[0].file
                pairing.matching[model.file.path] = tuple(one.file for one in fits)
    for projector in projectors:
        path = projector.file.path
        if path in near and path not in fitting:
            pairing.unfit[path] = _why_unfit(projector, near[path], noun)
    return pairing


class _Names:
    """The names of the models directly in each folder, and of those anywhere below it."""

    def __init__(self, models: Sequence[MatchCandidate]) -> None:
        self.within: dict[str, set[object]] = defaultdict(set)
        self.below: dict[str, set[object]] = defaultdict(set)
        for model in models:
            folder = _place(model.file.folder)
            self.within[folder].add(model.names)
            while folder:
                self.below[folder].add(model.names)
                folder = _above(folder)


def _place(folder: str) -> str:
    """Returns the folder that a projector serves: for a subfolder `mmproj`, its parent."""
    above, _, name = folder.rpartition("/")
    return above if name.lower() == SUBFOLDER else folder


def _above(folder: str) -> str:
    return folder.rpartition("/")[0]


def _folders_of(model: MatchCandidate) -> Iterator[str]:
    """Yields the folders where the model's projector may be, nearest first."""
    folder = _place(model.file.folder)
    for _ in range(1 + _FOLDERS_ABOVE):
        if folder:
            yield folder
        folder = _above(folder)


def _fits(model: MatchCandidate, projector: MatchCandidate, folder: str, names: _Names) -> bool:
    if projector.needs and projector.needs != model.architecture:
        return False
    is_known = model.width is not None and projector.width is not None
    if is_known and model.width != projector.width:
        return False
    same_size = not (model.size and projector.size) or model.size == projector.size
    is_named = same_size and model.words[: len(projector.words)] == projector.words
    own = _place(model.file.folder)
    if folder == own:
        is_alone = len(names.within[folder]) == 1
        return is_alone or (is_named if projector.words else is_known)
    if projector.words:
        return is_named
    is_alone = len(names.below[folder]) == 1
    return is_alone and (is_known or _is_encoding(own.rpartition("/")[2]))


def _is_encoding(name: str) -> bool:
    """Whether a folder's name is an encoding and nothing else."""
    parts = split_name(name)
    return parts.encoding is not None and not parts.tokens and parts.size is None


def _rank(model: MatchCandidate, projector: MatchCandidate) -> tuple[int, int]:
    shared = 0
    for ours, theirs in zip(model.words, projector.words, strict=False):
        if ours != theirs:
            break
        shared += 1
    encodings = {encoding: -place for place, encoding in enumerate(_ENCODINGS)}
    return shared, encodings.get(projector.encoding, -len(_ENCODINGS))


def _why_unfit(projector: MatchCandidate, models: Sequence[MatchCandidate], noun: str) -> str:
    first, needed = models[0], projector.needs
    if needed and all(needed != model.architecture for model in models):
        why = f"it needs a model of {needed!r}, and {first.file.name} is {first.architecture!r}"
    elif all(None not in (m.width, projector.width) and m.width != projector.width for m in models):
        why = f"its width is {projector.width}, but that of {first.file.name} is {first.width}"
    elif projector.words:
        why = f"its name does not match {first.file.name}"
    else:
        why = "its name does not say to which of several models it belongs"
    return f"is a {noun} without a model: {why}; put it into the folder of its model"
