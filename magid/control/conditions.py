"""What is not as it should be, or not as wanted: the one list that all interfaces show.

Pure. A condition has a stable code, a sentence for a person, and the commands that change it.
"""

import shlex
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Final

from msgspec import Struct

from magid.control.planner import Plan
from magid.control.snapshot import Phase, Snapshot
from magid.control.undrafted import undrafted
from magid.errors import DraftMissing, MagidError
from magid.llama.runtime_settings import not_in_force
from magid.servers.backend import ObservedServer, ServerState
from magid.wording.counts import counted

_NAMED: Final = 3  # of a longer list


class Severity(StrEnum):
    """How much a condition matters."""

    ERROR = "error"  # something wanted does not work: /readyz answers 503
    WARNING = "warning"  # probably not intended
    NOTE = "note"  # as decided, and worth knowing


_ORDER: Final = tuple(Severity)


class Code(StrEnum):
    """What kind of condition it is. Part of the API."""

    NOT_SERVING = "NotServing"
    NO_FOLDER = "NoFolder"
    STATE_UNKNOWN = "StateUnknown"
    FOLDER_SILENT = "FolderSilent"
    FOLDER_UNREADABLE = "FolderUnreadable"
    PROFILE_UNUSABLE = "ProfileUnusable"
    UNIT_MASKED = "UnitMasked"
    SERVER_DOWN = "ServerDown"
    NO_PORT = "NoPort"
    DOES_NOT_FIT = "DoesNotFit"
    DRAFT_UNUSED = "DraftUnused"
    OFF_GPU = "OffGpu"
    NO_PROGRAM = "NoProgram"
    ENGINE_MISSING = "EngineMissing"
    OLDER_PROGRAM = "OlderProgram"
    GPU_UNUSED = "GpuUnused"
    LIMITS_NOT_IN_FORCE = "LimitsNotInForce"
    STATE_NOT_SAVED = "StateNotSaved"
    CAPTURING_TEXTS = "CapturingTexts"
    TOKENS_UNUSABLE = "TokensUnusable"
    NOT_LISTENING = "NotListening"
    MODELS_MISSING = "ModelsMissing"
    MODELS_GONE = "ModelsGone"
    FILES_BROKEN = "FilesBroken"
    MODELS_STOPPED = "ModelsStopped"
    CHANGES_PENDING = "ChangesPending"
    MODELS_LEFT_OUT = "ModelsLeftOut"


ABOUT_MODELS: Final = frozenset(
    {Code.MODELS_MISSING, Code.MODELS_GONE, Code.MODELS_LEFT_OUT, Code.CHANGES_PENDING}
)


class DaemonCondition(Struct, frozen=True):
    """One condition. `remedy` are commands, in the order in which to run them."""

    code: Code
    message: str
    severity: Severity = Severity.WARNING
    remedy: tuple[str, ...] = ()
    model_ids: tuple[str, ...] = ()


class Situation(Struct, frozen=True):
    """All that conditions follow from, at one moment."""

    phase: Phase
    snapshot: Snapshot
    observed: Mapping[int, ObservedServer]
    plan: Plan  # what `apply` would do
    queued: frozenset[int] = frozenset()  # ports whose start is queued
    masked: frozenset[str] = frozenset()  # of magid's own units
    controllers: frozenset[str] | None = None  # of control groups; None: limits are not looked at
    refused: Mapping[int, tuple[str, MagidError]] = {}  # by port: see `Placing.refused`
    left_out: Mapping[int, tuple[str, str]] = {}  # by port: see `LeftOut`
    unknown: tuple[str, ...] = ()  # what keeps magid from knowing the state; "" is skipped


def conditions(now: Situation) -> list[DaemonCondition]:
    """Returns all conditions, errors first."""
    return in_order(one for rule in _RULES for one in rule(now))


def in_order(found: Iterable[DaemonCondition]) -> list[DaemonCondition]:
    """Returns the conditions, errors first."""
    return sorted(found, key=lambda one: _ORDER.index(one.severity))


def messages(found: Iterable[DaemonCondition], *severities: Severity) -> list[str]:
    """Returns the messages of the conditions that have one of these severities."""
    return [one.message for one in found if one.severity in severities]


# -- magid itself ----------------------------------------------------------------------------

_PHASES: Final = {
    Phase.SCANNING: "the model folders are being read",
    Phase.STARTING: "the boot is not finished: wanted servers are being started",
    Phase.DRAINING: "magid is shutting down",
}


def _phase(now: Situation) -> Iterable[DaemonCondition]:
    if now.phase is not Phase.SERVING:
        yield DaemonCondition(Code.NOT_SERVING, _PHASES[now.phase], Severity.ERROR)
    elif not now.snapshot.disk.listed:
        yield DaemonCondition(
            Code.NO_FOLDER,
            "no model folder could be read; GET /api/models/status says why",
            Severity.ERROR,
            ("magictl doctor", "magictl rescan"),
        )


def _unknown(now: Situation) -> Iterable[DaemonCondition]:
    for why in filter(None, now.unknown):
        yield DaemonCondition(Code.STATE_UNKNOWN, why, Severity.ERROR)


_MASKED: Final = {  # unit -> what follows, whether that is an error, and how it is started again
    "magi-launcher.socket": ("no server can be started or stopped", True, "magi-launcher.socket"),
    "magi-launcher.service": ("no server can be started or stopped", True, "magi-launcher.socket"),
    "magi-key.socket": ("no server can be started", True, "magi-key.socket"),
    "magi-models.target": ("`systemctl stop magi-models.target` ends no models", False, ""),
    "magid.service": ("magid will not start again", False, ""),
    "magid.socket": ("magid will not be reached over TCP after its next start", False, ""),
    "magid-local.socket": (
        "magid will not be reached over its unix socket after its next start", False, ""
    ),
    "magid-view.socket": ("the group magi-view cannot read after the next start", False, ""),
}  # fmt: skip


def _masked(now: Situation) -> Iterable[DaemonCondition]:
    for unit, (follows, is_error, start) in _MASKED.items():
        if unit in now.masked:
            yield DaemonCondition(
                Code.UNIT_MASKED,
                f"{unit} is masked: {follows}",
                Severity.ERROR if is_error else Severity.WARNING,
                (f"systemctl unmask {unit}", *([f"systemctl start {start}"] if start else ())),
            )


def _saved(now: Situation) -> Iterable[DaemonCondition]:
    for problem in now.snapshot.store_problems:
        yield DaemonCondition(Code.STATE_NOT_SAVED, problem, remedy=("magictl doctor",))


def _profile(now: Situation) -> Iterable[DaemonCondition]:
    active = now.snapshot.active
    if active.problem:
        severity = Severity.ERROR if active.profile is None else Severity.WARNING
        yield DaemonCondition(Code.PROFILE_UNUSABLE, active.problem, severity)


# -- the disk --------------------------------------------------------------------------------


def _folders(now: Situation) -> Iterable[DaemonCondition]:
    disk = now.snapshot.disk
    for root in disk.unreadable_roots:
        if root.is_late:
            text = f"the model folder {root.path} {root.reason}"
            yield DaemonCondition(Code.FOLDER_SILENT, text, Severity.ERROR)
        elif not (disk.listed and root.is_absent and now.snapshot.may_lack_folders):
            text = f"cannot read {root.path}: {root.reason}"
            yield DaemonCondition(Code.FOLDER_UNREADABLE, text, remedy=("magictl doctor",))


def _missing(now: Situation) -> Iterable[DaemonCondition]:
    for folder, entries in now.snapshot.away.items():
        names = [entry.model_id for entry in entries]
        yield DaemonCondition(
            Code.MODELS_MISSING,
            f"{folder} has none of the models that are known from there: {listed(names)}; "
            "is its disk mounted?",
            remedy=(f"findmnt --target {shlex.quote(folder)}", "magictl rescan"),
            model_ids=tuple(names),
        )


def _gone(now: Situation) -> Iterable[DaemonCondition]:
    """Notes models whose file alone is gone."""
    away = {entry.model_id for entries in now.snapshot.away.values() for entry in entries}
    names = [e.model_id for e in now.snapshot.missing if e.model_id not in away]
    if names and now.snapshot.disk.is_read:
        yield DaemonCondition(
            Code.MODELS_GONE,
            f"{counted(len(names), 'model has', 'models have')} no file any more: {listed(names)}",
            Severity.NOTE,
            model_ids=tuple(names),
        )


def _broken(now: Situation) -> Iterable[DaemonCondition]:
    silent = {root.path for root in now.snapshot.disk.unreadable_roots}
    broken = [file for file in now.snapshot.disk.broken if file.path not in silent]
    if broken:
        files = [f"{file.path} ({file.reason})" for file in broken]
        yield DaemonCondition(
            Code.FILES_BROKEN,
            f"{counted(len(files), 'file')} cannot be used: {listed(files)}",
            remedy=("magictl doctor",),
        )


# -- servers ---------------------------------------------------------------------------------


def _down(now: Situation) -> Iterable[DaemonCondition]:
    starting = now.phase is Phase.STARTING
    for spec in now.snapshot.wanted.specs:
        server = now.observed.get(spec.port)
        if server is None or server.model_id != spec.model_id:
            continue
        if server.state in (ServerState.FAILED, ServerState.BACKOFF) or (
            starting and server.state.is_loading
        ):
            yield DaemonCondition(
                Code.SERVER_DOWN,
                f"{server.unit} ({spec.model_id}) {server.described}",
                Severity.ERROR,
                () if starting else (f"magictl logs {spec.model_id}",),
                (spec.model_id,),
            )


def _without_port(now: Situation) -> Iterable[DaemonCondition]:
    for line in now.snapshot.wanted.blocked:
        if not line.engine:
            text = f"{line.model_id} has no server: {line.reason}"
            yield DaemonCondition(Code.NO_PORT, text, Severity.ERROR, model_ids=(line.model_id,))


def _without_room(now: Situation) -> Iterable[DaemonCondition]:
    """Names the wanted models that had no place on the GPUs when they were to start."""
    for spec in now.snapshot.wanted.specs:
        spec_hash, error = now.refused.get(spec.port, ("", None))
        server = now.observed.get(spec.port)
        is_down = server is None or not server.state.is_running
        is_told = isinstance(error, DraftMissing)  # by `_undrafted`
        if error is not None and not is_told and spec_hash == spec.hash and is_down:
            is_note = spec.port in now.snapshot.wanted.on_demand
            listing = "ps" if error.details.get("devices") == [] else "gpus"
            yield DaemonCondition(
                Code.DOES_NOT_FIT, error.message, Severity.NOTE if is_note else Severity.ERROR,
                (f"magictl {listing}", f"magictl start {spec.model_id}"), (spec.model_id,),
            )  # fmt: skip


def _undrafted(now: Situation) -> Iterable[DaemonCondition]:
    """Names the models that lack their draft."""
    models, gone = now.snapshot.models, now.snapshot.gone_drafts
    for one in undrafted(models, gone, now.observed, now.left_out):
        severity = Severity.ERROR if one.is_blocked else Severity.WARNING
        yield DaemonCondition(Code.DRAFT_UNUSED, one.message, severity, one.remedy, (one.model_id,))


def _off_gpu(now: Situation) -> Iterable[DaemonCondition]:
    """Notes the models that run in part on the processor, as their setting offload allows."""
    names = sorted({s.model_id for s in now.observed.values() if _is_off_gpu(s, now)})
    if names:
        said = counted(len(names), "model runs", "models run")
        text = f"{said} on the processor, in part at least, for lack of room on the GPUs: "
        remedy = ("magictl gpus", f"magictl restart {' '.join(names[:_NAMED])}")
        text += listed(names)
        yield DaemonCondition(Code.OFF_GPU, text, Severity.NOTE, remedy, tuple(names))


def _is_off_gpu(server: ObservedServer, now: Situation) -> bool:
    """Whether it would be on a GPU if there had been room."""
    placement, spec = server.placement, now.snapshot.wanted.by_port.get(server.port)
    if placement is None or not server.state.is_running or not placement.pins_devices:
        return False
    is_wish = spec is not None and (spec.device == "none" or spec.n_gpu_layers == 0)
    return placement.extent == "part" or (placement.extent == "none" and not is_wish)


def _stopped(now: Situation) -> Iterable[DaemonCondition]:
    """Tells which wanted models are stopped, and why; a warning if no wanted model runs."""
    if now.phase is not Phase.SERVING:
        return
    by_reason: dict[str, list[str]] = {}
    always = [s for s in now.snapshot.wanted.specs if s.port not in now.snapshot.wanted.on_demand]
    for spec in always:
        server = now.observed.get(spec.port)
        if (
            server is not None
            and _is_stopped(server, spec.model_id)
            and spec.port not in now.queued
        ):
            by_reason.setdefault(server.reason, []).append(spec.model_id)
    is_all = sum(map(len, by_reason.values())) == len(always)
    for reason, found in by_reason.items():
        names = list(dict.fromkeys(found))
        yield DaemonCondition(
            Code.MODELS_STOPPED,
            f"{counted(len(names), 'wanted model is', 'wanted models are')} stopped: "
            f"{listed(names)}{f' ({reason})' if reason else ''}",
            Severity.WARNING if is_all else Severity.NOTE,
            (f"magictl start {' '.join(names)}",),
            tuple(names),
        )


def _limits(now: Situation) -> Iterable[DaemonCondition]:
    """Names the limits of enabled models that the kernel does not keep, by limit."""
    if now.controllers is None:
        return
    by_limit: dict[tuple[str, str], list[str]] = {}
    for model in now.snapshot.models.values():
        if model.enabled:
            for key, why in not_in_force(model.settings, now.controllers).items():
                by_limit.setdefault((key, why), []).append(model.model_id)
    for (key, why), names in by_limit.items():
        yield DaemonCondition(
            Code.LIMITS_NOT_IN_FORCE,
            f"{key} of {listed(names)} is not in force: {why}",
            model_ids=tuple(names),
        )


def _is_stopped(server: ObservedServer, model_id: str) -> bool:
    return server.state is ServerState.STOPPED and server.model_id == model_id


def _pending(now: Situation) -> Iterable[DaemonCondition]:
    if now.phase is Phase.SERVING and not now.plan.is_empty:
        starts = {line.spec.model_id for line in now.plan.start}
        stops = {line.model_id for line in now.plan.stop}
        parts = [
            (starts & stops, "to restart"),
            (starts - stops, "to start"),
            (stops - starts, "to stop"),
        ]
        said = "; ".join(f"{verb}: {listed(sorted(ids))}" for ids, verb in parts if ids)
        yield DaemonCondition(
            Code.CHANGES_PENDING,
            f"changes are pending ({said})",
            Severity.NOTE,
            ("magictl diff", "magictl apply"),
            tuple(sorted(now.plan.model_ids)),
        )


def _left_out(now: Situation) -> Iterable[DaemonCondition]:
    """Names the models that no profile or override enables, and the two ways to enable them."""
    models = now.snapshot.models.values()
    names = [m.model_id for m in models if not m.enabled and m.entry.enabled_override is None]
    if not names:
        return
    profile, them = now.snapshot.active.name, "it" if len(names) == 1 else "them"
    if profile is None:
        why, change = "no profile is active", "magictl profile ls"
    else:
        why, change = f"profile {profile!r} leaves {them} out", f"magictl profile edit {profile}"
    yield DaemonCondition(
        Code.MODELS_LEFT_OUT,
        f"{counted(len(names), 'model is', 'models are')} not wanted, because {why}: "
        f"{listed(names)}",
        Severity.NOTE,
        (f"magictl enable {' '.join(names[:_NAMED])}", change),
        tuple(names),
    )


_RULES: Final[tuple[Callable[[Situation], Iterable[DaemonCondition]], ...]] = (
    *(_phase, _unknown, _masked, _folders, _profile, _down, _without_port, _without_room),
    *(_undrafted, _off_gpu, _saved, _missing, _broken, _limits, _stopped, _pending),
    *(_gone, _left_out),
)


# -- words -----------------------------------------------------------------------------------


def listed(names: list[str]) -> str:
    """Returns the first names, and how many there are besides."""
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
