"""Model folders -> what is in them: models with all that is known of them, and what is broken.

Files are data, never errors: whatever is wrong with one is reported beside the models and stops
nothing. All of it blocks and belongs in a thread; see `Scanner`.
"""

import hashlib
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from math import floor
from pathlib import Path
from time import perf_counter, time_ns
from typing import Final

from magid import projectors, shards
from magid.errors import GgufError
from magid.folders import File, Listing, walk
from magid.gguf import read_head
from magid.headercache import (
    Entries,
    Facts,
    HeaderCache,
    Reading,
    Unusable,
    kept_metadata,
)
from magid.kinds import ModelKind as ModelKind
from magid.kinds import companion_kind, foreign, model_kind
from magid.naming import ModelName, identify, nominal_bits, number, text
from magid.readers import read_all
from magid.tiers import (
    ThinkingMode,
    Thresholds,
    Tier,
    assign_tier,
    effective_billions,
    thinking_of_name,
)

_READERS: Final = 2
"""Threads that look at the beginnings of files: one parses while the other waits for the disk."""

_SETTLED_NS: Final = 20_000_000
"""A file that changed less than this before it was looked at may change again within the same
tick of the file system's clock (at most 10 ms) and look the same: it is not taken as unchanged."""


@dataclass(frozen=True, slots=True)
class Companion:
    """A GGUF file that is no model by itself."""

    kind: str  # mmproj | draft | lora | imatrix | vocab
    path: str


@dataclass(frozen=True, slots=True)
class FoundModel:
    """One model on disk, with all its shards."""

    path: str  # what llama-server gets: the first shard, absolute, links resolved
    filename: str  # the name it has in its folder, which a link may have given it
    files: tuple[str, ...]
    companions: tuple[Companion, ...]  # the projector to start it with, if there is one
    kind: ModelKind
    name: ModelName
    display_name: str
    architecture: str
    context_length: int | None  # tokens it was trained for
    parameter_count: int
    active_parameter_count: int  # per token; less than all in a mixture of experts
    size_bytes: int  # without the projector
    bits_per_weight: float  # measured over all tensors
    thinking_mode: ThinkingMode
    thinking_evidence: str
    tier: Tier
    base_id: str
    stamp: str  # 16 hex digits: another value means other content, of the projector too

    @property
    def is_thinking(self) -> bool:
        return self.thinking_mode is ThinkingMode.ALWAYS


@dataclass(frozen=True, slots=True)
class BrokenFile:
    """A file or folder that cannot be used, and why; the reason does not repeat the path."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class PendingFile:
    """A file of a first listing, whose whole header was not read yet."""

    path: str
    filename: str
    size_bytes: int  # of all its shards
    architecture: str | None
    name: str | None  # general.name, printable
    context_length: int | None


@dataclass(frozen=True, slots=True)
class Scan:
    """What all roots hold."""

    models: tuple[FoundModel, ...] = ()  # in path order
    broken: tuple[BrokenFile, ...] = ()  # in path order; unreadable folders too
    companions: tuple[Companion, ...] = ()  # in path order, paired or not
    unreadable_roots: tuple[BrokenFile, ...] = ()  # links in the path resolved
    duration_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Assembled:
    """What a list of files makes; kept, because most scans see the same list again."""

    files: list[File] = field(default_factory=list)
    models: tuple[FoundModel, ...] = ()
    broken: tuple[BrokenFile, ...] = ()
    companions: tuple[Companion, ...] = ()
    is_lasting: bool = True


class Scanner:
    """Scans folders, again and again. Every method blocks, and may be called from any thread.

    Reading headers takes the GIL for a millisecond or two at a time, so that an event loop in the
    same process goes on answering. The cache is read with the first call.
    """

    def __init__(
        self, roots: Sequence[Path], thresholds: Thresholds, cache_path: Path | None
    ) -> None:
        self._roots = tuple(roots)
        self._thresholds = thresholds
        self._cache_path = cache_path
        self._lock = threading.Lock()
        self._cache: HeaderCache | None = None
        self._last: _Assembled | None = None

    def first_listing(self) -> tuple[PendingFile, ...]:
        """The models that a scan will have to read, by the first 16 KiB of each, in path order.

        Takes milliseconds where a scan takes seconds. Files in the cache are left out (their scan
        takes no time), and so is what turns out to be broken or a companion.
        """
        with self._lock:
            cache = self._opened_cache()
            files = [file for file in walk(self._roots).files if not cache.get(file.path, file.key)]
            parts = [one for one in shards.join(files) if one.numbers[0] == 1]
            with ThreadPoolExecutor(_READERS, "magid-list") as readers:
                listed = tuple(readers.map(_pending, parts))
        return tuple(pending for pending in listed if pending)

    def scan(self, progress: Callable[[int, int], None] | None = None) -> Scan:
        """Look at every file and read the new and the changed ones. Idempotent.

        `progress` is called in this thread with the files read so far and all to be read. Scans at
        the same time come one after another.
        """
        with self._lock:
            start = perf_counter()
            before = time_ns()
            listing = walk(self._roots)
            if self._last is None or not self._last.is_lasting or self._last.files != listing.files:
                self._last = self._read(listing, before, progress)
            return replace(_report(self._last, listing), duration_s=perf_counter() - start)

    def _opened_cache(self) -> HeaderCache:
        if self._cache is None:
            self._cache = HeaderCache(self._cache_path)
        return self._cache

    def _read(
        self, listing: Listing, looked_at: int, progress: Callable[[int, int], None] | None
    ) -> _Assembled:
        cache = self._opened_cache()
        readings: dict[str, Reading] = {}
        lasting: Entries = {}
        unread: list[File] = []
        for file in listing.files:
            if cached := cache.get(file.path, file.key):
                readings[file.path] = cached
                lasting[file.path] = (file.key, cached)
            else:
                unread.append(file)
        with closing(read_all([file.real for file in unread])) as fresh:
            for done, (file, reading) in enumerate(zip(unread, fresh, strict=True), start=1):
                readings[file.path] = reading
                if _lasts(file, reading, looked_at):
                    lasting[file.path] = (file.key, reading)
                if progress is not None:
                    progress(done, len(unread))
        gone = tuple(f"{root.rstrip('/')}/" for root, _ in listing.unreadable_roots)
        cache.replace(cache.below(gone) | lasting)
        assembled = _assemble(listing.files, readings, self._thresholds)
        return replace(assembled, is_lasting=len(lasting) == len(listing.files))


def _lasts(file: File, reading: Reading, looked_at: int) -> bool:
    """Whether the same key will mean the same content. `looked_at` is in ns since the epoch."""
    if isinstance(reading, Unusable) and not reading.is_lasting:
        return False
    return file.key[4] < looked_at - _SETTLED_NS


def _report(assembled: _Assembled, listing: Listing) -> Scan:
    walked = tuple(BrokenFile(path, reason) for path, reason in listing.broken)
    broken = assembled.broken
    if walked:
        broken = tuple(sorted((*broken, *walked), key=lambda file: file.path))
    return Scan(
        models=assembled.models,
        broken=broken,
        companions=assembled.companions,
        unreadable_roots=tuple(BrokenFile(*root) for root in listing.unreadable_roots),
    )


def _pending(parts: shards.Parts) -> PendingFile | None:
    first = parts.files[0]
    try:
        head = read_head(first.real)
    except GgufError:
        return None
    metadata = kept_metadata(head.metadata)
    if companion_kind(first.name, metadata):
        return None
    architecture = text(metadata, "general.architecture")
    return PendingFile(
        path=_path_to_open(parts),
        filename=first.name,
        size_bytes=sum(file.key[2] for file in parts.files),
        architecture=architecture,
        name=text(head.metadata, "general.name"),
        context_length=number(metadata, f"{architecture}.context_length") or None,
    )


# -- from files and facts to models; pure ----------------------------------------------------


def _assemble(
    files: list[File], readings: Mapping[str, Reading], thresholds: Thresholds
) -> _Assembled:
    companions: list[Companion] = []
    projector_files: dict[str, list[File]] = defaultdict(list)
    others: list[File] = []
    for file in files:
        kind = _companion_of(file, readings[file.path])
        if kind is None:
            others.append(file)
            continue
        companions.append(Companion(kind, file.real))
        if kind == "mmproj":
            projector_files[file.folder].append(file)
    broken: list[BrokenFile] = []
    usable: list[tuple[shards.Parts, list[Facts]]] = []
    for parts in shards.join(others):
        facts = [readings[file.path] for file in parts.files]
        known = [one for one in facts if isinstance(one, Facts)]
        if reason := shards.problem(parts, facts) or foreign(known[0].metadata):
            broken.append(BrokenFile(parts.files[0].path, reason))
        else:
            usable.append((parts, known))
    pairs = _pair(usable, projector_files, readings)
    models = [
        _model(parts, facts, pairs.get(parts.files[0].path), thresholds) for parts, facts in usable
    ]
    return _Assembled(files, tuple(models), tuple(broken), tuple(companions))


def _companion_of(file: File, reading: Reading) -> str | None:
    if isinstance(reading, Unusable):
        return None
    if kind := companion_kind(file.name, reading.metadata):
        return kind
    is_split = (number(reading.metadata, "split.count") or 1) > 1
    return "vocab" if reading.tensor_count == 0 and not is_split else None


def _pair(
    usable: Sequence[tuple[shards.Parts, list[Facts]]],
    projector_files: Mapping[str, Sequence[File]],
    readings: Mapping[str, Reading],
) -> dict[str, File]:
    """Path of a model's first file -> its projector."""
    neighbours: dict[str, list[tuple[str, projectors.Candidate]]] = defaultdict(list)
    for parts, facts in usable:
        first = parts.files[0]
        if first.folder in projector_files:
            described = projectors.candidate(first.name, facts[0].metadata)
            neighbours[first.folder].append((first.path, described))
    pairs = {}
    for folder, models in neighbours.items():
        offered = projector_files[folder]
        candidates = [_candidate(file, readings[file.path]) for file in offered]
        all_models = [described for _, described in models]
        for path, described in models:
            chosen = projectors.choose(described, all_models, candidates)
            if chosen is not None:
                pairs[path] = offered[chosen]
    return pairs


def _candidate(file: File, reading: Reading) -> projectors.Candidate:
    return projectors.candidate(file.name, reading.metadata if isinstance(reading, Facts) else {})


def _model(
    parts: shards.Parts, facts: Sequence[Facts], projector: File | None, thresholds: Thresholds
) -> FoundModel:
    first, metadata = parts.files[0], facts[0].metadata
    total = sum(one.parameter_count for one in facts)
    active = _active(total, sum(one.routed_parameter_count for one in facts), metadata)
    bits = sum(one.bits_per_weight * one.parameter_count for one in facts) / max(total, 1)
    name = identify(first.name, metadata, parameter_count=total, bits=bits)
    kind = model_kind(first.name, metadata)
    mode, evidence = _thinking(kind, facts[0], first.name)
    nominal = nominal_bits(name.quantization)
    tier = assign_tier(
        billions=effective_billions(total, active) if active < total else name.size_params,
        bits=floor(bits) if nominal is None else nominal,
        thinking=mode,
        thresholds=thresholds,
    )
    architecture = text(metadata, "general.architecture") or ""
    return FoundModel(
        path=_path_to_open(parts),
        filename=first.name,
        files=tuple(file.path if parts.count > 1 else file.real for file in parts.files),
        companions=(Companion("mmproj", projector.real),) if projector else (),
        kind=kind,
        name=name,
        display_name=name.display_name(),
        architecture=architecture,
        context_length=number(metadata, f"{architecture}.context_length") or None,
        parameter_count=total,
        active_parameter_count=active,
        size_bytes=sum(file.key[2] for file in parts.files),
        bits_per_weight=bits,
        thinking_mode=mode,
        thinking_evidence=evidence,
        tier=tier,
        base_id=name.base_id(tier),
        stamp=_stamp((*parts.files, projector) if projector else parts.files),
    )


def _path_to_open(parts: shards.Parts) -> str:
    """Where a link leads; but shards are found by their names, which only the links have."""
    return parts.files[0].path if parts.count > 1 else parts.files[0].real


def _active(total: int, routed: int, metadata: Mapping[str, object]) -> int:
    """Parameters that one token passes through: all but the experts that are not chosen for it."""
    architecture = text(metadata, "general.architecture")
    experts = number(metadata, f"{architecture}.expert_count")
    used = number(metadata, f"{architecture}.expert_used_count")
    if not experts or not used:
        return total
    return total - routed + routed * min(used, experts) // experts


def _thinking(kind: ModelKind, facts: Facts, filename: str) -> tuple[ThinkingMode, str]:
    """As `tiers.detect_thinking`, of which the template's part was done when it was read."""
    if kind is not ModelKind.CHAT:
        return ThinkingMode.NONE, f"a model of the kind {kind} writes no text"
    if facts.thinking is not None:
        return facts.thinking, facts.evidence
    words = (text(facts.metadata, key) for key in ("general.basename", "general.finetune"))
    return thinking_of_name(" ".join((filename, *filter(None, words))))


def _stamp(files: Iterable[File]) -> str:
    return hashlib.sha256(repr([file.key for file in files]).encode()).hexdigest()[:16]
