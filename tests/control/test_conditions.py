"""What is not as it should be, as tables: the one list that status, /readyz and events show."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from magid.catalog.profile import Profile
from magid.catalog.registry import with_settings
from magid.config.settings import Config
from magid.control import planner
from magid.control.conditions import (
    Code,
    DaemonCondition,
    Severity,
    Situation,
    conditions,
    messages,
)
from magid.control.program_conditions import engines_missing, older_program
from magid.control.snapshot import ActiveProfile, Disk, Phase, Snapshot, build
from magid.discovery.found import BrokenFile
from magid.discovery.walker import UnreadableRoot
from magid.servers.backend import ObservedServer, ServerState
from magid.servers.systemd import observer
from tests.support.moments import ALL, CONFIG, moment, servers
from tests.support.values import found, merged, observed

S = ServerState


def at(
    snapshot: Snapshot,
    running: dict[int, ObservedServer] | None = None,
    *,
    phase: Phase = Phase.SERVING,
    masked: frozenset[str] = frozenset(),
    controllers: frozenset[str] | None = None,
    unknown: tuple[str, ...] = (),
) -> list[DaemonCondition]:
    seen = running or {}
    plan = planner.plan(snapshot.wanted, seen)
    return conditions(
        Situation(
            phase, snapshot, seen, plan, masked=masked, controllers=controllers, unknown=unknown
        )
    )


def errors(found: list[DaemonCondition]) -> list[str]:
    return messages(found, Severity.ERROR)


def only(found: list[DaemonCondition], code: Code) -> DaemonCondition:
    (one,) = [one for one in found if one.code is code]
    return one


# -- what /readyz answers 503 for --------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "states", "reasons"),
    [
        (Phase.SERVING, (S.READY, S.READY), []),
        (Phase.SERVING, (S.READY, S.STOPPED), []),  # a person stopped it
        (Phase.SERVING, (S.READY, S.LOADING), []),  # a person restarts it
        (Phase.SERVING, (S.READY, S.FAILED), ["llama-server@8081.service (b) has failed"]),
        (
            Phase.SERVING,
            (S.BACKOFF, S.READY),
            ["llama-server@8080.service (a) ended and is being restarted"],
        ),
        (Phase.SCANNING, (S.READY, S.READY), ["the model folders are being read"]),
        (Phase.DRAINING, (S.READY, S.READY), ["magid is shutting down"]),
        (
            Phase.STARTING,
            (S.READY, S.LOADING),
            [
                "the boot is not finished: wanted servers are being started",
                "llama-server@8081.service (b) is loading",
            ],
        ),
    ],
)
def test_errors(phase: Phase, states: tuple[S, S], reasons: list[str]) -> None:
    snapshot = moment("a", "b")
    assert errors(at(snapshot, servers(snapshot, *states), phase=phase)) == reasons


def test_the_reason_of_a_failure_is_passed_on() -> None:
    snapshot = moment("a")
    spec = snapshot.wanted.specs[0]
    failed = {spec.port: observed(spec, S.FAILED, reason="out of memory")}
    down = only(at(snapshot, failed), Code.SERVER_DOWN)
    assert down.message.endswith("has failed: out of memory")
    assert down.remedy == ("magictl logs a",)


def test_a_failed_server_of_another_model_on_the_port_does_not_count() -> None:
    snapshot = moment("a")
    other = replace(observed(snapshot.wanted.specs[0], S.FAILED), model_id="z")
    assert not errors(at(snapshot, {other.port: other}))


def test_a_model_without_a_port_is_an_error() -> None:
    snapshot = moment("a", "b", config=Config(port_range=(8080, 8080)))
    (reason,) = errors(at(snapshot, servers(snapshot, S.READY)))
    assert reason.startswith("b has no server: no port of 8080-8080 is free")


def test_a_profile_that_cannot_be_read_is_an_error_unless_the_last_good_one_is_in_force() -> None:
    broken = ActiveProfile("all", None, "r2", "cannot read all.yaml: line 3: no")
    assert errors(at(moment("a", active=broken))) == [broken.problem]
    kept = replace(ALL, problem="cannot read all.yaml: line 3: no")
    snapshot = moment("a", active=kept)
    shown = at(snapshot, servers(snapshot, S.READY))
    assert (errors(shown), messages(shown, Severity.WARNING)) == ([], [kept.problem])


def test_no_readable_folder_is_an_error() -> None:
    disk = Disk(unreadable_roots=(UnreadableRoot("/models", "does not exist"),))
    shown = at(moment(disk=disk))
    (reason,) = errors(shown)
    assert reason.startswith("no model folder could be read")
    assert messages(shown, Severity.WARNING) == ["cannot read /models: does not exist"]


def test_of_the_default_folders_one_may_be_absent() -> None:
    absent, reason = "/none/models", "is not there"
    disk = Disk(unreadable_roots=(UnreadableRoot(absent, reason, is_absent=True),), listed=True)
    assert at(moment(disk=disk)) == []
    chosen = Config(port_range=(8080, 8081), model_paths=(Path(absent),))
    shown = at(moment(disk=disk, config=chosen))
    assert messages(shown, Severity.WARNING) == [f"cannot read {absent}: is not there"]
    there = replace(disk, unreadable_roots=(UnreadableRoot("/there", "cannot be read: no"),))
    assert only(at(moment(disk=there)), Code.FOLDER_UNREADABLE).message.startswith("cannot read")


def test_a_folder_that_does_not_answer_is_an_error() -> None:
    root = UnreadableRoot("/net/models", "has not answered for 5 s", is_late=True)
    shown = at(moment(disk=Disk(unreadable_roots=(root,), listed=True)))
    assert errors(shown) == ["the model folder /net/models has not answered for 5 s"]


def test_what_keeps_magid_from_knowing_is_an_error() -> None:
    disk = Disk(listed=True)  # listed, and then not read
    assert errors(at(moment(disk=disk), unknown=("no process", ""))) == ["no process"]


@pytest.mark.parametrize(
    ("unit", "severity", "remedy"),
    [
        (
            "magi-launcher.service",
            Severity.ERROR,
            ("systemctl unmask magi-launcher.service", "systemctl start magi-launcher.socket"),
        ),
        (
            "magi-key.socket",
            Severity.ERROR,
            ("systemctl unmask magi-key.socket", "systemctl start magi-key.socket"),
        ),
        ("magid.socket", Severity.WARNING, ("systemctl unmask magid.socket",)),
        ("magi-models.target", Severity.WARNING, ("systemctl unmask magi-models.target",)),
    ],
)
def test_a_masked_unit(unit: str, severity: Severity, remedy: tuple[str, ...]) -> None:
    masked = only(at(moment(), masked=frozenset({unit})), Code.UNIT_MASKED)
    assert masked.message.startswith(f"{unit} is masked: ")
    assert (masked.severity, masked.remedy) == (severity, remedy)


def test_every_unit_that_is_watched_has_its_consequence() -> None:
    shown = at(moment(), masked=frozenset(observer.OURS))
    assert len(shown) == len(observer.OURS)


def test_limits_that_the_kernel_does_not_keep() -> None:
    merge = merged(found("a"), found("b"))
    for name in ("a", "b"):
        entry = with_settings(merge.registry.models[name], {"memory_max": 2**30})
        merge = replace(merge, registry=merge.registry.with_entry(entry))
    disk = Disk(merge.found, listed=True)
    snapshot = build(1, merge.registry, disk, ALL, CONFIG, ())
    shown = only(at(snapshot, controllers=frozenset({"cpu"})), Code.LIMITS_NOT_IN_FORCE)
    assert shown.severity is Severity.WARNING
    assert shown.message == (
        "memoryMax of a, b is not in force: this kernel has no memory controller for control groups"
    )
    codes = {one.code for one in at(snapshot, controllers=frozenset({"memory"}))}
    assert Code.LIMITS_NOT_IN_FORCE not in codes


def test_an_upgrade_of_llama_server_names_the_models_that_run_the_older_one() -> None:
    snapshot = moment("a", "b", "c")
    running = servers(snapshot, S.READY, S.READY, S.STOPPED)
    ages = zip(running.values(), (100.0, 300.0, 100.0), strict=True)
    aged = [replace(server, started_at=at) for server, at in ages]
    (note,) = older_program(aged, snapshot.wanted, {None: 200.0})
    assert (note.code, note.severity) == (Code.OLDER_PROGRAM, Severity.NOTE)
    assert note.message == ("1 model runs an older llama-server, from before it was replaced: a")
    assert note.remedy == ("magictl restart a",)
    assert not list(older_program(aged, snapshot.wanted, {None: 50.0}))


def test_another_engine_for_all_is_none_of_a_model_with_its_own() -> None:
    snapshot = with_engine(moment("a", "b"), "a", "vulkan")
    aged = [replace(s, started_at=100.0) for s in servers(snapshot, S.READY, S.READY).values()]
    (note,) = older_program(aged, snapshot.wanted, {None: 200.0, "vulkan": 50.0})
    assert note.model_ids == ("b",)
    (note,) = older_program(aged, snapshot.wanted, {None: 50.0, "vulkan": 200.0})
    assert note.model_ids == ("a",)


def test_an_engine_that_is_gone_blocks_its_models_alone() -> None:
    """What runs with it goes on: nothing of the plan stops it."""
    snapshot = with_engine(moment("a", "b"), "a", "vulkan", absent=frozenset({"vulkan"}))
    assert [spec.model_id for spec in snapshot.wanted.specs] == ["b"]
    (found,) = engines_missing(snapshot.wanted.blocked, ())
    assert (found.code, found.severity) == (Code.ENGINE_MISSING, Severity.ERROR)
    assert found.message == "the engine 'vulkan' is not installed, and a has no other"
    assert found.remedy[1] == "magictl engine use default a"
    codes = {one.code for one in at(snapshot)}
    assert Code.NO_PORT not in codes
    running = servers(with_engine(moment("a", "b"), "a", "vulkan"), S.READY, S.READY)
    (found,) = engines_missing(snapshot.wanted.blocked, running.values())
    assert found.severity is Severity.WARNING
    assert not planner.plan(snapshot.wanted, running).stop


def with_engine(
    snapshot: Snapshot, model_id: str, engine: str, absent: frozenset[str] = frozenset()
) -> Snapshot:
    entry = snapshot.registry.models[model_id]
    changed = snapshot.registry.with_entry(replace(entry, settings={"engine": engine}))
    return build(2, changed, snapshot.disk, ALL, CONFIG, (), absent)


# -- what is missing or broken -----------------------------------------------------------------


def after_a_loss(*left: str, disk: Disk) -> Snapshot:
    """Of the models a, b and c, which are known from an earlier scan, these are left."""
    known = merged(found("a", "/big/a.gguf"), found("b", "/big/b.gguf"), found("c")).registry
    merge = merged(*(found(name) for name in left), registry=known)
    return build(1, merge.registry, replace(disk, found=merge.found), ALL, CONFIG, ())


@pytest.mark.parametrize(
    "disk",
    [
        Disk(listed=True, empty_folders=("/big",)),
        Disk(listed=True, unreadable_roots=(UnreadableRoot("/big", "is not there"),)),
    ],
)
def test_models_whose_disk_is_not_mounted(disk: Disk) -> None:
    missing = only(at(after_a_loss("c", disk=disk)), Code.MODELS_MISSING)
    assert missing.severity is Severity.WARNING
    assert missing.message == (
        "/big has none of the models that are known from there: a, b; is its disk mounted?"
    )
    assert missing.remedy == ("findmnt --target /big", "magictl rescan")
    assert missing.model_ids == ("a", "b")


def test_a_file_that_is_gone_alone_is_a_note() -> None:
    gone = only(at(after_a_loss("c", disk=Disk(listed=True))), Code.MODELS_GONE)
    assert gone.severity is Severity.NOTE
    assert gone.message == "2 models have no file any more: a, b"


def test_while_files_are_still_read_none_is_called_gone() -> None:
    assert at(after_a_loss(disk=Disk()))[0].code is Code.NO_FOLDER
    codes = {one.code for one in at(after_a_loss(disk=Disk()))}
    assert Code.MODELS_GONE not in codes


def test_broken_files_are_named() -> None:
    broken = tuple(BrokenFile(f"/models/{n}.gguf", "is cut off") for n in "abcde")
    shown = only(at(moment(disk=Disk(broken=broken, listed=True))), Code.FILES_BROKEN)
    assert shown.message == (
        "5 files cannot be used: /models/a.gguf (is cut off), /models/b.gguf (is cut off), "
        "/models/c.gguf (is cut off) and 2 more"
    )


# -- what is stopped, pending or left out --------------------------------------------------------


def test_one_of_two_that_is_stopped_is_a_note_and_says_why() -> None:
    snapshot = moment("a", "b")
    running = servers(snapshot, S.STOPPED, S.READY)
    running[8080] = replace(running[8080], reason="by systemctl")
    stopped = only(at(snapshot, running), Code.MODELS_STOPPED)
    assert stopped.severity is Severity.NOTE
    assert stopped.message == "1 wanted model is stopped: a (by systemctl)"
    assert stopped.remedy == ("magictl start a",)


def test_no_wanted_model_that_runs_is_a_warning() -> None:
    snapshot = moment("a", "b")
    stopped = only(at(snapshot, servers(snapshot, S.STOPPED, S.STOPPED)), Code.MODELS_STOPPED)
    assert stopped.severity is Severity.WARNING
    assert stopped.message == "2 wanted models are stopped: a, b"


def test_what_is_pending_is_a_note() -> None:
    snapshot = moment("a", "b", "c")
    running = servers(snapshot, S.READY, S.READY, S.READY)
    running[8080] = replace(running[8080], spec_hash="other settings")
    del running[8081]
    running[8085] = replace(running[8080], port=8085, model_id="d")
    pending = only(at(snapshot, running), Code.CHANGES_PENDING)
    assert pending.severity is Severity.NOTE
    assert pending.message == "changes are pending (to restart: a; to start: b; to stop: d)"
    assert pending.remedy == ("magictl diff", "magictl apply")
    assert not at(moment(), {})


@pytest.mark.parametrize(
    ("active", "message", "remedy"),
    [
        (
            ActiveProfile("few", Profile(name="Few", enabled_models=("a",))),
            "2 models are not wanted, because profile 'few' leaves them out: b, c",
            ("magictl enable b c", "magictl profile edit few"),
        ),
        (
            ActiveProfile(),
            "3 models are not wanted, because no profile is active: a, b, c",
            ("magictl enable a b c", "magictl profile ls"),
        ),
    ],
)
def test_what_the_profile_leaves_out(
    active: ActiveProfile, message: str, remedy: tuple[str, ...]
) -> None:
    shown = only(at(moment("a", "b", "c", active=active)), Code.MODELS_LEFT_OUT)
    assert (shown.severity, shown.message, shown.remedy) == (Severity.NOTE, message, remedy)


def test_a_model_that_a_user_has_disabled_is_not_left_out() -> None:
    merge = merged(found("a"))
    entry = replace(merge.registry.models["a"], enabled_override=False)
    disk = Disk(merge.found, listed=True)
    snapshot = build(1, merge.registry.with_entry(entry), disk, ALL, CONFIG, ())
    assert at(snapshot) == []


# -- all of it -----------------------------------------------------------------------------------


def test_the_document_lists_every_code() -> None:
    text = (Path(__file__).parents[2] / "docs/rest-api.md").read_text()
    rows = text.partition("## Conditions")[2].splitlines()
    assert sorted(row.split("`")[1] for row in rows if row.startswith("| `")) == sorted(Code)


def test_errors_come_first_and_what_is_healthy_has_none() -> None:
    few = ActiveProfile("few", Profile(name="Few", enabled_models=("a",)))
    snapshot = moment("a", "b", active=few)
    shown = at(snapshot, servers(snapshot, S.FAILED))
    assert [one.severity for one in shown] == sorted(
        (one.severity for one in shown), key=list(Severity).index
    )
    assert shown[0].code is Code.SERVER_DOWN
    whole = moment("a", "b")
    assert at(whole, servers(whole, S.READY, S.READY)) == []
