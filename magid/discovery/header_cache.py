"""The facts that a scan takes from each header, and a cache of them on disk.

Reading a header takes milliseconds and megabytes, a stat takes microseconds. A file whose device,
inode, size and times have not changed is not opened again.

The facts are raw: they contain no names, tiers or thresholds, so a change of a rule or a setting
needs no second read. The exceptions are thinking and tools, which are found in the chat template
while the header is read, because a thousand templates are too big to keep, and the shape, which is
added up over layers. Raise SCHEMA when other facts are taken from a header.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeAlias

from msgspec import Struct, structs

from magid.discovery.abilities import HEADER_FLAGS, HEADER_KEYS, has_place_for_tools
from magid.discovery.gguf_file import read_header
from magid.discovery.gguf_format import GgufHeader, bits_per_weight
from magid.discovery.model_shape import ModelShape, shape_of
from magid.discovery.naming import number, text
from magid.discovery.tiers import ThinkingMode, thinking_of_template
from magid.discovery.walker import File, StatKey
from magid.errors import GgufError

SCHEMA: Final = 5

_KEPT: Final = (
    "general.architecture",
    "general.type",
    "general.basename",
    "general.finetune",
    "general.version",
    "general.size_label",
    "general.file_type",
    "adapter.type",
    "split.no",
    "split.count",
    "split.tensors.count",
    "clip.vision.projection_dim",
    "clip.audio.projection_dim",
    *HEADER_KEYS,
)
_KEPT_OF_ARCHITECTURE: Final = (
    "context_length",
    "embedding_length",
    "embedding_length_out",
    "target_hidden_size",
    "expert_count",
    "expert_used_count",
    "pooling_type",
)


class HeaderFacts(Struct, frozen=True):
    """The kept part of one file's header. The caller adds up shards."""

    metadata: Mapping[str, str | int]  # of the right types: texts bounded, numbers not negative
    tensor_count: int
    parameter_count: int
    routed_parameter_count: int  # those in experts that the router chooses from
    bits_per_weight: float
    thinking: ThinkingMode | None  # by the chat template; None if it does not say
    evidence: str  # the part of the template that says so
    tools: bool | None  # whether the chat template uses tools; None without a template
    has_nextn: bool  # tensors of layers that predict further tokens (MTP)
    shape: ModelShape = ModelShape()


class Unusable(Struct, frozen=True):
    """A file without a usable header."""

    reason: str
    is_lasting: bool  # False: the system failed, not the file, so every scan tries again


Reading: TypeAlias = HeaderFacts | Unusable
Entries: TypeAlias = dict[str, tuple[File, Reading]]  # by path


def read_facts(path: str) -> Reading:
    """Reads the facts of one file, or why it cannot be used. Blocks."""
    try:
        return facts_of(read_header(path))
    except GgufError as error:
        return Unusable(str(error), not isinstance(error.__cause__, OSError))


def facts_of(header: GgufHeader) -> HeaderFacts:
    """Takes the facts from a header; a wrong type or an absurd value counts as absent."""
    template = header.metadata.get("tokenizer.chat_template")
    written = template if isinstance(template, str) and template else None
    said = thinking_of_template(written)
    mode, evidence = said or (None, "")
    return HeaderFacts(
        metadata=kept_metadata(header.metadata),
        tensor_count=header.tensor_count,
        parameter_count=header.parameter_count,
        routed_parameter_count=header.routed_expert_parameter_count,
        bits_per_weight=bits_per_weight(header),
        thinking=mode,
        evidence=evidence,
        tools=None if written is None else has_place_for_tools(written),
        has_nextn=header.has_nextn,
        shape=shape_of(
            header.metadata,
            header.array_lengths,
            (header.tensor_bytes, header.embedding_bytes, header.output_bytes),
        ),
    )


def kept_metadata(metadata: Mapping[str, object]) -> dict[str, str | int]:
    """Returns the pairs that magid uses, as text or numbers; booleans become 1 or 0."""
    architecture = text(metadata, "general.architecture") or ""
    keys = (*_KEPT, *(f"{architecture}.{key}" for key in _KEPT_OF_ARCHITECTURE))
    kept: dict[str, str | int] = {}
    for key in keys:
        value = text(metadata, key) or number(metadata, key)
        if value is not None:
            kept[key] = value
    flags = ((key, metadata.get(key)) for key in HEADER_FLAGS)
    return kept | {key: int(value) for key, value in flags if isinstance(value, bool)}


class HeaderCache:
    """Path -> facts, of unchanged files. Not thread-safe.

    A cache file that cannot be read, or has another version's format, counts as empty; one that
    cannot be written is not an error.
    """

    def __init__(self, path: Path | None) -> None:
        """Reads the cache file; without `path`, keeps the cache in memory only. Blocks."""
        self._path = path
        self._kept = (_load(path) if path else None) or _Kept({}, {})

    def get(self, file: File) -> Reading | None:
        entry = self._kept.entries.get(file.path)
        return entry[1] if entry is not None and entry[0].key == file.key else None

    @property
    def tops(self) -> Mapping[str, str]:
        """Model folders as configured -> with links resolved, as of the last scan."""
        return self._kept.tops

    @property
    def files(self) -> list[File]:
        """The files of all entries."""
        return [file for file, _ in self._kept.entries.values()]

    def below(self, folders: tuple[str, ...]) -> Entries:
        """Returns the entries of files below these folders, which end in "/"."""
        if not folders:
            return {}
        entries = self._kept.entries
        return {path: entry for path, entry in entries.items() if path.startswith(folders)}

    def replace(self, entries: Entries, tops: dict[str, str]) -> None:
        """Replaces all entries; writes the file only if they have changed. Blocks."""
        kept = _Kept(entries, tops)
        if kept == self._kept:
            return
        self._kept = kept
        if self._path is not None:
            with suppress(OSError):
                _write(self._path, json.dumps(_document(kept), separators=(",", ":")))


class _Kept(Struct, frozen=True):
    entries: Entries
    tops: Mapping[str, str]


def _document(kept: _Kept) -> dict[str, Any]:
    files = {
        path: [list(file.key), packed(reading), *([file.real] if file.real != path else [])]
        for path, (file, reading) in kept.entries.items()
    }
    return {"schema": SCHEMA, "tops": dict(kept.tops), "files": files}


def packed(reading: Reading) -> str | list[Any]:
    """Converts a reading to JSON values; `unpacked` is the reverse, except for `is_lasting`."""
    if isinstance(reading, Unusable):
        return reading.reason
    return [
        reading.metadata,
        reading.tensor_count,
        reading.parameter_count,
        reading.routed_parameter_count,
        reading.bits_per_weight,
        reading.thinking,
        reading.evidence,
        reading.tools,
        reading.has_nextn,
        list(structs.astuple(reading.shape)),
    ]


def _load(path: Path) -> _Kept | None:
    """Returns None for any fault: half a cache is not worth the code."""
    try:
        document = json.loads(path.read_bytes())
        if document["schema"] != SCHEMA:
            return None
        files = document["files"].items()
        entries = {path: _entry(path, *packed_entry) for path, packed_entry in files}
        tops = {str(one): str(top) for one, top in document["tops"].items()}
        return _Kept(entries, tops)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _entry(path: str, key: Any, reading: Any, real: Any = None) -> tuple[File, Reading]:
    if real is not None and type(real) is not str:
        raise TypeError
    return File(path, real or path, _stat_key(key)), unpacked(reading)


def _stat_key(values: Any) -> StatKey:
    dev, ino, size, mtime, ctime = values
    if not all(type(value) is int for value in values):
        raise TypeError
    return (dev, ino, size, mtime, ctime)


def unpacked(packed: Any) -> Reading:
    """Raises one of the errors that `_load` catches if a value has the wrong type."""
    if isinstance(packed, str):
        return Unusable(packed, is_lasting=True)
    metadata, tensors, parameters, routed, bits, thinking, evidence, tools, nextn, shape = packed
    if not (
        type(tensors) is type(parameters) is type(routed) is int
        and type(bits) is float
        and type(evidence) is str
        and (tools is None or type(tools) is bool)
        and type(nextn) is bool
        and all(type(value) in (str, int) for value in metadata.values())
        and all(type(value) is int for value in shape)
    ):
        raise TypeError
    mode = None if thinking is None else ThinkingMode(thinking)
    dimensions = ModelShape(*shape)
    return HeaderFacts(
        metadata, tensors, parameters, routed, bits, mode, evidence, tools, nextn, dimensions
    )


def _write(path: Path, content: str) -> None:
    """Replaces the file in one step, without fsync: after a power cut an old cache will do."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(content, encoding="utf-8")
    temporary.replace(path)
