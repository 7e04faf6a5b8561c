"""Models without their draft, and the words for it."""

from typing import Any

from msgspec.structs import replace

from magid.catalog.effective import Model
from magid.catalog.registry import with_settings
from magid.control.conditions import Code, DaemonCondition, Severity, Situation, conditions
from magid.control.planner import Plan
from magid.control.snapshot import Disk, Phase, Snapshot, build
from magid.control.undrafted import gone_drafts, missing_draft
from magid.control.wishes import facts_of
from magid.discovery.found import Draft
from magid.servers.backend import ServerState
from tests.support.moments import ALL, CONFIG, servers
from tests.support.values import found, merged

DRAFT = Draft("mtp", "/models/mtp-a.gguf", "mtp-a.gguf", "s1")


def moment(*drafts: Draft, **settings: Any) -> Snapshot:
    """One model, `a`, with these drafts beside it and these settings of its own."""
    merge = merged(found("a", drafts=drafts))
    ((model_id, entry),) = merge.registry.models.items()
    entries = {model_id: with_settings(entry, settings)}
    registry = replace(merge.registry, models=entries)
    return build(1, registry, Disk(merge.found, listed=True), ALL, CONFIG, ())


def one(snapshot: Snapshot) -> Model:
    (model,) = snapshot.models.values()
    return model


def said(snapshot: Snapshot, *states: ServerState, **more: Any) -> list[DaemonCondition]:
    running = servers(snapshot, *states) if states else {}
    now = Situation(Phase.SERVING, snapshot, running, Plan(), **more)
    return [c for c in conditions(now) if c.code is Code.DRAFT_UNUSED]


def test_a_draft_that_is_chosen_and_gone_keeps_the_model_from_starting() -> None:
    there, gone = moment(DRAFT, draft="mtp-a.gguf"), moment(draft="mtp-a.gguf")
    assert (missing_draft(one(there)), said(there)) == ("", [])
    assert facts_of(one(gone)).missing_draft == "mtp-a.gguf is no draft in its folder"
    (condition,) = said(gone)
    assert condition.severity is Severity.ERROR
    assert condition.message == (
        "a is not started: mtp-a.gguf is no draft in its folder, which its setting draft names"
    )
    assert condition.remedy[0] == "magictl set a draft=auto"
    (condition,) = said(gone, ServerState.READY)
    assert condition.severity is Severity.WARNING
    assert condition.message.startswith("a runs on, and cannot be started again: mtp-a.gguf")
    (condition,) = said(moment(draft="mtp-a.gguf", start="on-demand"))
    assert condition.severity is Severity.WARNING


def test_a_draft_that_auto_had_found() -> None:
    with_one, without = moment(DRAFT), moment()
    gone = gone_drafts(with_one.models, {}, without.models)
    assert gone == {"a": "/models/mtp-a.gguf"}
    assert gone_drafts(without.models, gone, without.models) == gone, "until it is back"
    assert gone_drafts(without.models, gone, with_one.models) == {}
    assert gone_drafts(without.models, gone, moment(draft="off").models) == {}
    (condition,) = said(replace(without, gone_drafts=gone))
    assert (condition.severity, condition.message) == (
        Severity.WARNING, "a has lost its draft: /models/mtp-a.gguf is gone; it starts without one"
    )  # fmt: skip


def test_a_server_that_was_started_without_its_draft() -> None:
    snapshot = moment(DRAFT)
    (spec,) = snapshot.wanted.specs
    left_out = {spec.port: (spec.hash, "its draft (/models/mtp-a.gguf): cannot load")}
    (condition,) = said(snapshot, ServerState.READY, left_out=left_out)
    assert condition.message == "a runs without its draft (/models/mtp-a.gguf): cannot load"
    assert said(snapshot, ServerState.STOPPED, left_out=left_out) == []
    other = {spec.port: ("another", "its draft")}
    assert said(snapshot, ServerState.READY, left_out=other) == []
