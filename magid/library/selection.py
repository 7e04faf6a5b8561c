"""Which files of a repository make up one model. Pure.

The rule is llama.cpp's own for `-hf` (common/download.cpp), so that `magictl pull X` gets what
`llama-server -hf X` would: the first file whose path has the tag before a dot or hyphen, all of its
shards, and the projector that is nearest to it. A `preset.ini`, which llama.cpp would obey in the
place of all that, is passed over: it holds options for its router.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from magid.library.source import ModelSource, is_file_path

DEFAULT_TAGS: Final = ("Q4_K_M", "Q8_0")
_NO_MODELS: Final = ("mmproj", "imatrix", "mtp-", "eagle3-", "dflash-", "dspark-")
_DRAFTS: Final = ("mtp-", "dflash-", "eagle3-", "dspark-")  # the best kind first
_SHARD: Final = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})", re.IGNORECASE)
_LAST_WORD: Final = re.compile(r"[-.]([A-Z0-9_]+)\Z", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class RepositoryFile:
    """A file of a repository at one commit. `oid` is a SHA-256, or 40 digits of git's SHA-1."""

    path: str
    size: int
    oid: str


@dataclass(frozen=True, slots=True)
class ModelVariant:
    """One model of a repository: its shards in order, and what comes along."""

    name: str
    files: tuple[RepositoryFile, ...]
    companions: tuple[RepositoryFile, ...] = ()

    @property
    def size(self) -> int:
        return sum(file.size for file in (*self.files, *self.companions))


@dataclass(frozen=True, slots=True)
class _Parts:
    """A file's name, taken apart: what shards share, the last word, the shard's number."""

    prefix: str
    word: str
    index: int = 1
    count: int = 1


def choose(files: Sequence[RepositoryFile], source: ModelSource) -> ModelVariant | None:
    """Returns what the source means among these files; None if it means nothing.

    `files` are in the hub's order, which decides where several would do.
    """
    usable = [file for file in files if is_file_path(file.path)]
    first = _named(usable, source.file) if source.file else _tagged(usable, source.tag)
    return None if first is None else _variant(usable, first, source.tag, draft=source.draft)


def variants(files: Sequence[RepositoryFile]) -> list[ModelVariant]:
    """Returns all models of a repository, smallest first, each as `choose` would return it."""
    usable = [file for file in files if is_file_path(file.path)]
    found = [_variant(usable, f, "") for f in usable if _is_first_model(f.path)]
    return sorted(found, key=lambda variant: (variant.size, variant.name))


def _named(files: Iterable[RepositoryFile], path: str) -> RepositoryFile | None:
    wanted = path.lower()
    return next((f for f in files if f.path.lower() == wanted and _is_gguf(f.path)), None)


def _tagged(files: Sequence[RepositoryFile], tag: str) -> RepositoryFile | None:
    models = [file for file in files if _is_first_model(file.path)]
    for wanted in (tag,) if tag else DEFAULT_TAGS:
        pattern = re.compile(re.escape(wanted) + "[.-]", re.IGNORECASE)
        if found := next((f for f in models if pattern.search(f.path)), None):
            return found
    return None if tag or not models else models[0]


def _variant(
    files: Sequence[RepositoryFile], first: RepositoryFile, tag: str, *, draft: bool = False
) -> ModelVariant:
    parts = _parts(first.path)
    shards = _shards(files, first, parts)
    beside = [_nearest(files, first.path, "mmproj")]
    if draft:
        drafts = (_nearest(files, first.path, kind, tag) for kind in _DRAFTS)
        beside.append(next(filter(None, drafts), None))
    companions = tuple(file for file in beside if file is not None and file not in shards)
    return ModelVariant(parts.word or parts.prefix, shards, companions)


def _shards(
    files: Iterable[RepositoryFile], first: RepositoryFile, parts: _Parts
) -> tuple[RepositoryFile, ...]:
    if parts.count == 1:
        return (first,)
    numbered = ((_parts(file.path), file) for file in files if _is_gguf(file.path))
    same = [(p.index, f) for p, f in numbered if (p.prefix, p.count) == (parts.prefix, parts.count)]
    return tuple(file for _, file in sorted(same, key=lambda pair: pair[0]))


def with_companions(
    files: Iterable[RepositoryFile], variant: ModelVariant
) -> tuple[RepositoryFile, ...]:
    """Returns the model's files, and all that could have come along with it."""
    names = ((file, file.path.rpartition("/")[2]) for file in files if _is_gguf(file.path))
    beside = (file for file, name in names if any(kind in name for kind in _NO_MODELS))
    return tuple(dict.fromkeys((*variant.files, *variant.companions, *beside)))


def missing_shards(variant: ModelVariant) -> int:
    """Returns how many shards the repository lacks: such a model could never be loaded."""
    return _parts(variant.files[0].path).count - len(variant.files)


def _nearest(
    files: Iterable[RepositoryFile], model: str, keyword: str, tag: str = ""
) -> RepositoryFile | None:
    """Returns the sibling with this keyword: deepest shared folder, then the tag, then the bits.

    It has to be in a folder that the model is in or below.
    """
    folder = model.split("/")[:-1]
    wanted = _bits(tag) if tag else _bits(_parts(model).word)

    def rank(file: RepositoryFile) -> tuple[int, int, int]:
        exact = bool(tag) and f"-{tag}.".lower() in file.path.lower()
        apart = abs(_bits(_parts(file.path).word) - wanted)
        return (-file.path.count("/"), -int(exact), apart)

    beside = [
        file
        for file in files
        if _is_gguf(file.path)
        and keyword in file.path
        and (above := file.path.split("/")[:-1]) == folder[: len(above)]
    ]
    return min(beside, key=rank, default=None)


def _parts(path: str) -> _Parts:
    prefix, index, count = path.removesuffix(".gguf"), 1, 1
    if match := _SHARD.fullmatch(prefix):
        prefix, index, count = match[1], int(match[2]), int(match[3])
    word = _LAST_WORD.search(prefix)
    return _Parts(prefix, word[1].upper() if word else "", index, count)


def _bits(word: str) -> int:
    """Returns the first number in a word, as 4 in Q4_K_M; 0 if there is none."""
    match = re.search("[0-9]+", word)
    return int(match[0]) if match else 0


def _is_gguf(path: str) -> bool:
    return path.endswith(".gguf")


def _is_first_model(path: str) -> bool:
    """Whether a path names a model, and of a model in shards the first one."""
    name = path.rpartition("/")[2]
    return _is_gguf(path) and not any(k in name for k in _NO_MODELS) and _parts(path).index == 1
