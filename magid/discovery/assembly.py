"""Makes models of files and their headers: shards, companions, names and tiers. Pure."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from math import floor

from msgspec import Struct, field, structs

from magid.discovery import grouping
from magid.discovery.abilities import abilities_of
from magid.discovery.adapters import adapters_of, pair_adapters
from magid.discovery.drafts import draft_kind, drafts_of, is_draft, pair_drafts
from magid.discovery.found import BrokenFile, CompanionFile, FoundModel
from magid.discovery.header_cache import HeaderFacts, Reading, Unusable
from magid.discovery.kinds import ModelKind, companion_kind, foreign, model_kind
from magid.discovery.naming import identify, nominal_bits, number, text
from magid.discovery.projectors import Pairing, candidate, pair
from magid.discovery.tiers import (
    ThinkingMode,
    Thresholds,
    assign_tier,
    effective_billions,
    thinking_of_name,
)
from magid.discovery.walker import File


class Assembled(Struct, frozen=True):
    """The result of `assemble`; kept, because most scans list the same files again."""

    files: list[File] = field(default_factory=list)
    models: tuple[FoundModel, ...] = ()
    broken: tuple[BrokenFile, ...] = ()
    companions: tuple[CompanionFile, ...] = ()
    is_lasting: bool = True  # the same files would give the same result


def assemble(
    files: list[File], readings: Mapping[str, Reading], thresholds: Thresholds
) -> Assembled:
    companions: list[CompanionFile] = []
    projectors: list[File] = []
    drafts: list[File] = []
    adapters: list[File] = []
    others: list[grouping.Parts] = []
    for parts in grouping.join(files):
        first = parts.files[0]
        kind = _companion_of(first, readings[first.path])  # the other shards have no such header
        if kind is None:
            others.append(parts)
            continue
        companions += [CompanionFile(kind, file.real) for file in parts.files]
        if kind == "mmproj":
            projectors.append(first)
        if kind == "draft" and len(parts.files) == 1 and _can_draft(first, readings[first.path]):
            drafts.append(first)
        if kind == "lora" and text(_metadata(readings[first.path]), "adapter.type") == "lora":
            adapters.append(first)
    broken: list[BrokenFile] = []
    usable: list[tuple[grouping.Parts, list[HeaderFacts]]] = []
    for parts in others:
        facts = [readings[file.path] for file in parts.files]
        known = [one for one in facts if isinstance(one, HeaderFacts)]
        if reason := grouping.problem(parts, facts) or foreign(known[0].metadata):
            broken.append(BrokenFile(parts.files[0].path, reason))
        else:
            usable.append((parts, known))
    pairing = _pairing(usable, projectors, readings)
    broken += [BrokenFile(path, reason) for path, reason in pairing.unfit.items()]
    firsts = [parts.files[0] for parts, _ in usable]
    metadata = _all_metadata((*firsts, *drafts, *adapters), readings)
    drafting = pair_drafts(firsts, drafts, metadata)
    adapting = pair_adapters(firsts, adapters, metadata)
    unfit = drafting.unfit | adapting.unfit
    broken += [BrokenFile(path, reason) for path, reason in unfit.items()]
    models = []
    for parts, known in usable:
        path = parts.files[0].path
        projector = pairing.chosen.get(path)
        seen = _metadata(readings[projector.path]) if projector else None
        found = _model(parts, known, projector, seen, thresholds)
        beside = [
            (file, draft_kind(file.name, _metadata(readings[file.path])), _stamp([file]))
            for file in drafting.matching.get(path, ())
        ]
        has_nextn = any(one.has_nextn for one in known)
        own = drafts_of(found.kind, found.architecture, beside, has_nextn=has_nextn)
        loras = [(file, _stamp([file])) for file in adapting.matching.get(path, ())]
        models.append(structs.replace(found, drafts=own, adapters=adapters_of(loras)))
    return Assembled(files, tuple(models), tuple(broken), tuple(companions))


def _companion_of(file: File, reading: Reading) -> str | None:
    if isinstance(reading, Unusable):
        return None
    if kind := companion_kind(file.name, reading.metadata):
        return kind
    is_split = (number(reading.metadata, "split.count") or 1) > 1
    return "vocab" if reading.tensor_count == 0 and not is_split else None


def _can_draft(file: File, reading: Reading) -> bool:
    return isinstance(reading, HeaderFacts) and is_draft(
        file.name, reading.metadata, has_nextn=reading.has_nextn
    )


def _pairing(
    usable: Sequence[tuple[grouping.Parts, list[HeaderFacts]]],
    offered: Sequence[File],
    readings: Mapping[str, Reading],
) -> Pairing:
    if not offered:
        return Pairing()
    models = [candidate(parts.files[0], facts[0].metadata) for parts, facts in usable]
    return pair(models, [candidate(file, _metadata(readings[file.path])) for file in offered])


def _all_metadata(
    files: Iterable[File], readings: Mapping[str, Reading]
) -> dict[str, Mapping[str, object]]:
    return {file.path: _metadata(readings[file.path]) for file in files}


def _metadata(reading: Reading) -> Mapping[str, object]:
    return reading.metadata if isinstance(reading, HeaderFacts) else {}


def _model(
    parts: grouping.Parts,
    facts: Sequence[HeaderFacts],
    projector: File | None,
    projector_metadata: Mapping[str, object] | None,
    thresholds: Thresholds,
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
    own = (*parts.files, projector) if projector else parts.files
    return FoundModel(
        path=path_to_open(parts),
        filename=first.name,
        files=tuple(file.path if parts.count > 1 else file.real for file in parts.files),
        companions=(CompanionFile("mmproj", projector.real),) if projector else (),
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
        abilities=abilities_of(
            kind, metadata, architecture, tools=facts[0].tools, projector=projector_metadata
        ),
        tier=tier,
        base_id=name.base_id(tier),
        shape=sum((one.shape for one in facts[1:]), start=facts[0].shape),
        stamp=_stamp(own),
        paths=tuple(dict.fromkeys((*(f.path for f in own), *(f.real for f in own)))),
    )


def path_to_open(parts: grouping.Parts) -> str:
    """The target of a link; but for shards the link: llama-server finds the others by name."""
    return parts.files[0].path if parts.count > 1 else parts.files[0].real


def _active(total: int, routed: int, metadata: Mapping[str, object]) -> int:
    """Returns the parameters that one token uses: all but the experts not chosen for it."""
    architecture = text(metadata, "general.architecture")
    experts = number(metadata, f"{architecture}.expert_count")
    used = number(metadata, f"{architecture}.expert_used_count")
    if not experts or not used:
        return total
    return total - routed + routed * min(used, experts) // experts


def _thinking(kind: ModelKind, facts: HeaderFacts, filename: str) -> tuple[ThinkingMode, str]:
    """As `tiers.detect_thinking`; the template was already searched when the header was read."""
    if kind is not ModelKind.CHAT:
        return ThinkingMode.NONE, f"a model of kind {kind} writes no text"
    if facts.thinking is not None:
        return facts.thinking, facts.evidence
    words = (text(facts.metadata, key) for key in ("general.basename", "general.finetune"))
    return thinking_of_name(" ".join((filename, *filter(None, words))))


def _stamp(files: Iterable[File]) -> str:
    return hashlib.sha256(repr([file.key for file in files]).encode()).hexdigest()[:16]
