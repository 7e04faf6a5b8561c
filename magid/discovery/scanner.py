"""Model folders -> what is in them: models with all that is known of them, and what is broken.

Files are data, never errors: whatever is wrong with one is reported beside the models and stops
nothing. All of it blocks and belongs in a thread; see `Scanner`.
"""

import hashlib
import threading
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from math import floor
from pathlib import Path
from time import perf_counter, time_ns
from typing import Any, Final

from magid.discovery import grouping, projectors
from magid.discovery.header_cache import Entries, Facts, HeaderCache, Reading, Unusable
from magid.discovery.kinds import ModelKind, companion_kind, foreign, model_kind
from magid.discovery.naming import ModelName, identify, nominal_bits, number, text
from magid.discovery.roots import Roots, why_no_process
from magid.discovery.tiers import (
    ThinkingMode,
    Thresholds,
    Tier,
    assign_tier,
    effective_billions,
    thinking_of_name,
)
from magid.discovery.walker import File, Listing, UnreadableRoot, printable, with_known
from magid.errors import Conflict, RescanFailed
from magid.host.workers import LATE_S

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
    broken: tuple[BrokenFile, ...] = ()  # in path order; unreadable and silent folders too
    companions: tuple[Companion, ...] = ()  # in path order, paired or not
    unreadable_roots: tuple[UnreadableRoot, ...] = ()
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

    What touches the folders happens in processes of their own, so that neither a folder that does
    not answer nor the parsing of headers holds up whoever shares this process. The cache is read
    with the first call.
    """

    def __init__(
        self,
        roots: Sequence[Path],
        thresholds: Thresholds,
        cache_path: Path | None,
        *,
        late_s: float = LATE_S,
    ) -> None:
        self._thresholds = thresholds
        self._cache_path = cache_path
        self._lock = threading.Lock()
        self._cache: HeaderCache | None = None
        self._last: _Assembled | None = None
        self._stopped = False
        self._roots = Roots(roots, late_s)
        self._end = weakref.finalize(self, self._roots.close)

    def first_listing(self) -> tuple[PendingFile, ...]:
        """The models that a scan will have to read, by the first 16 KiB of each, in path order.

        Takes milliseconds where a scan takes seconds. Files in the cache are left out (their scan
        takes no time), and so is what turns out to be broken or a companion. Raises as `scan`.
        """
        with self._lock, _as_refusal():
            self._go_on()
            cache = self._opened_cache()
            files = [file for file in self._listing().files if not cache.get(file)]
            parts = [one for one in grouping.join(files) if one.numbers[0] == 1]
            firsts = {one.files[0].path: one for one in parts}
            with closing(self._roots.begin([one.files[0] for one in parts])) as beginnings:
                listed = [_pending(firsts[file.path], found) for file, found in beginnings if found]
        return tuple(sorted(filter(None, listed), key=lambda pending: pending.path))

    def scan(self, progress: Callable[[int, int], None] | None = None) -> Scan:
        """Look at every file and read the new and the changed ones. Idempotent.

        `progress` is called in this thread with the files read so far and all to be read. Scans at
        the same time come one after another. Raises RescanFailed where no process can be made for
        it, and Conflict once it is stopped.
        """
        with self._lock, _as_refusal():
            self._go_on()
            start = perf_counter()
            before = time_ns()
            listing = self._listing()
            if self._last is None or not self._last.is_lasting or self._last.files != listing.files:
                self._last = self._read(listing, before, progress)
            self._go_on()
            scan = _report(self._last, listing, self._roots.late)
            return replace(scan, duration_s=perf_counter() - start)

    @property
    def has_news(self) -> bool:
        """A folder that was late has answered since. Does not block."""
        return self._roots.has_news

    def stop(self) -> None:
        """End the scan under way, which raises Conflict. From any thread; does not block."""
        self._stopped = True
        self._roots.stop()

    def close(self) -> None:
        """Stop, and end all processes. Idempotent."""
        self.stop()
        with self._lock:
            self._end()

    def tidy(self) -> None:
        """End processes that are not needed at present; does nothing while a scan is under way."""
        if self._lock.acquire(blocking=False):
            try:
                self._roots.tidy()
            finally:
                self._lock.release()

    def _go_on(self) -> None:
        if self._stopped:
            raise Conflict("cannot finish the scan: magid is shutting down; try again in a moment")

    def _opened_cache(self) -> HeaderCache:
        if self._cache is None:
            self._cache = HeaderCache(self._cache_path)
            self._roots.remember(self._cache.tops)
        return self._cache

    def _listing(self) -> Listing:
        """What is there; of folders that do not answer, what is known to have been there."""
        known = self._opened_cache().files if self._last is None else self._last.files
        listing = self._roots.listing()
        self._go_on()
        return with_known(listing, known)

    def _read(
        self, listing: Listing, looked_at: int, progress: Callable[[int, int], None] | None
    ) -> _Assembled:
        cache = self._opened_cache()
        readings: dict[str, Reading] = {}
        lasting: Entries = {}
        unread: list[File] = []
        for file in listing.files:
            if cached := cache.get(file):
                readings[file.path] = cached
                lasting[file.path] = (file, cached)
            else:
                unread.append(file)
        with closing(self._roots.read(unread)) as fresh:
            for done, (file, reading) in enumerate(fresh, start=1):
                self._go_on()
                readings[file.path] = reading
                if _lasts(file, reading, looked_at):
                    lasting[file.path] = (file, reading)
                if progress is not None:
                    progress(done, len(unread))
        gone = tuple(f"{root.path.rstrip('/')}/" for root in listing.unreadable_roots)
        cache.replace(cache.below(gone) | lasting, self._roots.tops)
        assembled = _assemble(listing.files, readings, self._thresholds)
        return replace(assembled, is_lasting=len(lasting) == len(listing.files))


@contextmanager
def _as_refusal() -> Iterator[None]:
    """A process that cannot be made is told as a scan that failed."""
    try:
        yield
    except OSError as error:
        raise RescanFailed(f"cannot read the model folders: {why_no_process(error)}") from error


def _lasts(file: File, reading: Reading, looked_at: int) -> bool:
    """Whether the same key will mean the same content. `looked_at` is in ns since the epoch."""
    if isinstance(reading, Unusable) and not reading.is_lasting:
        return False
    return file.key[4] < looked_at - _SETTLED_NS


def _report(assembled: _Assembled, listing: Listing, late: Sequence[tuple[str, str]]) -> Scan:
    """`late` are also the roots that fell silent while their files were read."""
    walked = tuple(BrokenFile(path, reason) for path, reason in listing.broken)
    silent = [UnreadableRoot(printable(top), why, is_late=True) for top, why in late]
    mute = (BrokenFile(root.path, root.reason) for root in silent)
    broken = sorted((*assembled.broken, *walked, *mute), key=lambda file: file.path)
    unreadable = [root for root in listing.unreadable_roots if not root.is_late]
    return Scan(
        models=assembled.models,
        broken=tuple(broken),
        companions=assembled.companions,
        unreadable_roots=tuple({root.path: root for root in (*silent, *unreadable)}.values()),
    )


def _pending(parts: grouping.Parts, beginning: Any) -> PendingFile | None:
    first = parts.files[0]
    metadata, name = beginning
    if companion_kind(first.name, metadata):
        return None
    architecture = text(metadata, "general.architecture")
    return PendingFile(
        path=_path_to_open(parts),
        filename=first.name,
        size_bytes=sum(file.key[2] for file in parts.files),
        architecture=architecture,
        name=name,
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
    usable: list[tuple[grouping.Parts, list[Facts]]] = []
    for parts in grouping.join(others):
        facts = [readings[file.path] for file in parts.files]
        known = [one for one in facts if isinstance(one, Facts)]
        if reason := grouping.problem(parts, facts) or foreign(known[0].metadata):
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
    usable: Sequence[tuple[grouping.Parts, list[Facts]]],
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
    parts: grouping.Parts, facts: Sequence[Facts], projector: File | None, thresholds: Thresholds
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


def _path_to_open(parts: grouping.Parts) -> str:
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
