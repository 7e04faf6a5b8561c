"""Maps what systemd reports of a unit to the state of a server. Pure; its tests are tables.

The names are those of org.freedesktop.systemd1's Unit and Service interfaces, as GetAll with an
empty interface name returns them in one call. Differences between releases, 252 to 262, are noted.
"""

import re
import signal
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

from msgspec import Struct

from magid.llama import spec_values
from magid.llama.log_errors import error_text
from magid.llama.placement import FIELD, Placement, parse
from magid.llama.spec_values import SpecValues
from magid.servers.backend import (
    BY_SYSTEMCTL,
    WITH_TARGET,
    ObservedServer,
    ServerState,
    restarting_in,
)
from magid.standalone.wait_ready import NOT_READY
from magid.systemd.unit_names import port_in

_EXITED, _KILLED, _DUMPED = 1, 2, 3  # CLD_EXITED and so on, as in ExecMainCode
_NEVER: Final = 2**64 - 1  # "infinity", and unknown figures
_NO_UID: Final = 2**32 - 1
_CRASHES = (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
_LOAD_FAILURES: Final = frozenset({"error", "bad-setting", "masked"})
_ACTIVE: Final = frozenset({"active", "reloading", "refreshing"})
_ENDING_JOBS: Final = frozenset({"stop", "restart", "try-restart"})
_ENDS_OF_STOPS: Final = frozenset({"timeout", "signal", "core-dump", "exit-code"})
_AT_ONCE_US: Final = 1_000_000  # one transaction of systemd stops a target and its units


# systemd.exec(5), "Process Exit Codes": the program itself was never run.
_STEPS: Final[Mapping[int, str]] = {
    200: "CHDIR", 202: "FDS", 203: "EXEC", 205: "LIMITS", 206: "OOM_ADJUST", 208: "STDIN",
    209: "STDOUT", 214: "SETSCHEDULER", 216: "GROUP", 217: "USER", 218: "CAPABILITIES",
    219: "CGROUP", 220: "SETSID", 222: "STDERR", 224: "PAM", 225: "NETWORK", 226: "NAMESPACE",
    227: "NO_NEW_PRIVILEGES", 228: "SECCOMP", 231: "APPARMOR", 232: "ADDRESS_FAMILIES",
    233: "RUNTIME_DIRECTORY", 235: "CHOWN", 237: "KEYRING", 238: "STATE_DIRECTORY",
    243: "CREDENTIALS", 245: "BPF",
}  # fmt: skip
_STEP_FAILED = re.compile(r"\S+\.service: (Failed (?!with result).*)")


class FailureReason(Struct, frozen=True):
    """Why a server is not running although it was not stopped.

    The reason consists of `said`, the message of process `witness` if there is one, and `then`. The
    cause of a failed start is its `first` error message; of a later end, the last.
    """

    said: str
    then: str = ""
    witness: int | None = None  # a pid; 1 is systemd itself
    first: bool = True

    def with_quote(self, quote: str) -> str:
        """Returns the whole reason."""
        return self.said + (f": {quote}" if quote else "") + self.then


def fields_of(properties: Mapping[str, Any]) -> dict[str, str]:
    """Returns the unit's LogExtraFields by name; the first of each."""
    fields: dict[str, str] = {}
    for field in properties.get("LogExtraFields", ()):
        name, _, value = bytes(field).decode(errors="replace").partition("=")
        fields.setdefault(name, value)
    return fields


def is_ours(properties: Mapping[str, Any]) -> bool:
    """Returns whether magid's launcher created the unit. Other units of such a name are ignored."""
    return bool(properties.get("Transient")) and bool(fields_of(properties).get("MAGI_SPEC"))


# -- the server ------------------------------------------------------------------------------


def observed_from(properties: Mapping[str, Any], quote: str = "") -> ObservedServer:
    """Returns the server that this unit runs; `quote` is the message of `failure_of`'s witness."""
    fields = fields_of(properties)
    state = state_of(properties)
    failure = failure_of(properties)
    placement = parse(fields.get(FIELD, "null"))
    return ObservedServer(
        port=port_in(str(properties["Id"])) or 0,
        model_id=fields.get("MAGI_MODEL", ""),
        instance=_number(fields.get("MAGI_INSTANCE", "")),
        spec_hash=fields.get("MAGI_SPEC", ""),
        state=state,
        reason=failure.with_quote(quote) if failure else why_stopped(properties),
        pid=int(properties.get("MainPID", 0)) or None,
        host=_host(properties),
        started_at=_seconds(properties, "ExecMainStartTimestamp") if state.is_running else None,
        ready_at=(
            _seconds(properties, "ActiveEnterTimestamp") if state is ServerState.READY else None
        ),
        restarts=_restarts(properties),
        invocation_id=invocation_of(properties),
        uid=_uid(properties),
        values=_values(properties, placement),
        placement=placement,
    )


def _values(properties: Mapping[str, Any], placement: Placement | None) -> SpecValues:
    """Returns what the unit's command shows of its spec, so without what its placement decides.

    Its limits too, unless a drop-in may have set them.
    """
    commands = properties.get("ExecStart") or ()
    words = list(commands[-1][1]) if commands else []
    if "--" not in words:  # it stands between exec_model.py and the server's own command
        return ()
    command = [str(word) for word in words[words.index("--") + 1 :]]
    found = spec_values.of_command(command, placement)
    is_limited = {"MemoryMax", "CPUQuotaPerSecUSec"} <= set(properties)
    if not found or properties.get("DropInPaths") or not is_limited:
        return found
    memory, quota = figure(properties["MemoryMax"]), figure(properties["CPUQuotaPerSecUSec"])
    limits = (
        ("memory_max", None if memory is None else str(memory)),
        ("cpu_quota", None if quota is None else str(quota // 10_000)),
    )
    return (*found, *limits)


def _uid(properties: Mapping[str, Any]) -> int | None:
    """Returns the current dynamic user; systemd writes "none" as the largest number."""
    uid = int(properties.get("UID", _NO_UID))
    return None if uid == _NO_UID else uid


def invocation_of(properties: Mapping[str, Any]) -> str | None:
    """Returns the id of the current process, or of the last one; None if there was none yet."""
    return bytes(properties.get("InvocationID", b"")).hex() or None


def state_of(properties: Mapping[str, Any]) -> ServerState:
    """Returns the server's state. "JobType", if there is a job, is added to the properties."""
    active, step = str(properties.get("ActiveState", "")), str(properties.get("SubState", ""))
    job = str(properties.get("JobType", ""))
    if step.startswith("auto-restart") or step.endswith("-before-auto-restart"):
        return ServerState.BACKOFF  # ("...-before-...": from 254 on, for a moment)
    if active in _ACTIVE:
        return ServerState.STOPPING if job in _ENDING_JOBS else ServerState.READY
    if active == "activating":
        loads = _status_text(properties).startswith("loading")
        return ServerState.LOADING if loads else ServerState.STARTING
    if active == "deactivating":
        return ServerState.STOPPING
    if job and job != "stop":
        return ServerState.STARTING  # it waits for other units or in systemd's job queue
    broken = properties.get("LoadState") in _LOAD_FAILURES
    is_down = active == "inactive" or (active == "failed" and _is_stopped(properties))
    return ServerState.STOPPED if is_down and not broken else ServerState.FAILED


def _status_text(properties: Mapping[str, Any]) -> str:
    """Returns what wait_ready.py has said of this start; systemd forgets it at the next one."""
    return str(properties.get("StatusText", ""))


def _is_stopped(properties: Mapping[str, Any]) -> bool:
    """Returns whether its process, once ready, was told to stop and then crashed or was killed.

    That is a stop on purpose, which systemd calls a failure. Only a stop that was asked for ends in
    this order, apart from those with a result of their own (watchdog, oom-kill, start-limit-hit).
    """
    began = int(properties.get("ExecMainStartTimestampMonotonic", 0))
    left = int(properties.get("ActiveExitTimestampMonotonic", 0))
    ended = int(properties.get("ExecMainExitTimestampMonotonic", 0))
    return properties.get("Result") in _ENDS_OF_STOPS and 0 < began <= left < ended


def _restarts(properties: Mapping[str, Any]) -> int:
    """Returns the number of restarts. systemd also counts the one that it then refused."""
    counted = int(properties.get("NRestarts", 0))
    return counted - 1 if counted and _given_up(properties) else counted


def _given_up(properties: Mapping[str, Any]) -> bool:
    """Returns whether the start limit was hit. 252 leaves the result of the last end in place."""
    if properties.get("Result") == "start-limit-hit":
        return True
    burst = int(properties.get("StartLimitBurst", 0))
    tried = 0 < burst <= int(properties.get("NRestarts", 0))
    return tried and state_of(properties) is ServerState.FAILED


# -- why -------------------------------------------------------------------------------------


def why_stopped(properties: Mapping[str, Any]) -> str:
    """Returns who or what ended a stopped server; "" in every other state, or if unknown.

    "TargetStopped", when magi-models.target was last stopped, is added to the properties.
    """
    if state_of(properties) is not ServerState.STOPPED:
        return ""
    left = int(properties.get("ActiveExitTimestampMonotonic", 0))  # it began to stop
    ended = int(properties.get("ExecMainExitTimestampMonotonic", 0))
    began = int(properties.get("ExecMainStartTimestampMonotonic", 0))
    if 0 < began < ended and left < began:  # stopped before systemd knew that it was ready
        left = ended - 1
    if not left or not ended:
        return ""
    if ended <= left:
        return f"its process ended by itself ({_how_ended(properties)})"
    target = int(properties.get("TargetStopped", 0))
    return WITH_TARGET if abs(left - target) < _AT_ONCE_US else BY_SYSTEMCTL


def _how_ended(properties: Mapping[str, Any]) -> str:
    status = int(properties.get("ExecMainStatus", 0))
    if int(properties.get("ExecMainCode", 0)) == _EXITED:
        return f"status {status}"
    try:
        return signal.Signals(status).name
    except ValueError:
        return f"signal {status}"


def failure_of(properties: Mapping[str, Any]) -> FailureReason | None:
    """Returns why it failed or is about to be started again; None in every other state."""
    state = state_of(properties)
    if state not in (ServerState.FAILED, ServerState.BACKOFF):
        return None
    if properties.get("LoadState") in _LOAD_FAILURES:
        return FailureReason(f"systemd cannot use the unit: {_load_error(properties)}")
    failure = _of_start(properties) or _of_result(properties)
    return FailureReason(failure.said, _what_follows(properties), failure.witness, failure.first)


def _load_error(properties: Mapping[str, Any]) -> str:
    error = properties.get("LoadError") or ("", "")
    advice = f"see `systemctl status {properties.get('Id')}`"
    return f"{error[1] or properties.get('LoadState')}; {advice}"


def _what_follows(properties: Mapping[str, Any]) -> str:
    if _given_up(properties):
        restarts = _restarts(properties)
        # Manual starts count towards systemd's limit too.
        return f"; given up after {restarts or 'too many'} {'restarts' if restarts else 'starts'}"
    if state_of(properties) is not ServerState.BACKOFF:
        return ""
    # RestartUSecNext: from 254 on, where the pause grows.
    pause = int(properties.get("RestartUSecNext", properties.get("RestartUSec", _NEVER)))
    return restarting_in(pause / 1e6) if pause < _NEVER else "; restarting"


def _of_start(properties: Mapping[str, Any]) -> FailureReason | None:
    """Returns why wait_ready.py killed it, if it did."""
    said = _status_text(properties)
    return FailureReason(said.removeprefix(NOT_READY)) if said.startswith(NOT_READY) else None


def _of_result(properties: Mapping[str, Any]) -> FailureReason:
    pid = int(properties.get("ExecMainPID", 0)) or None
    ready = _was_ready(properties)
    match str(properties.get("Result", "")):
        case "oom-kill":
            return FailureReason("was killed by the kernel because memory ran out (oom-kill)")
        case "timeout" if ready:
            return FailureReason("did not end in time and was killed (timeout)")
        case "timeout":
            return FailureReason(
                "was not ready, took too long to start or to stop, and was ended (timeout)",
                witness=pid,
                first=not ready,
            )
        case "watchdog":
            return FailureReason("gave no sign of life and was ended (watchdog)")
        case "resources":
            return FailureReason(
                "could not be started by systemd (resources)", witness=1, first=False
            )
        case "success" | "protocol" | "exit-code" | "signal" | "core-dump" | "start-limit-hit":
            return _of_process(properties, pid, ready)
        case result:
            return FailureReason(f"failed ({result or 'for a reason that systemd does not tell'})")


def _was_ready(properties: Mapping[str, Any]) -> bool:
    began = int(properties.get("ExecMainStartTimestampMonotonic", 0))
    return int(properties.get("ActiveEnterTimestampMonotonic", 0)) >= began > 0


def _of_process(properties: Mapping[str, Any], pid: int | None, ready: bool) -> FailureReason:
    code = int(properties.get("ExecMainCode", 0))
    status = int(properties.get("ExecMainStatus", 0))
    if code in (_KILLED, _DUMPED):
        said, crashed = _killed_by(status)
        if code == _DUMPED:
            said += " and left a core dump"
        return FailureReason(said, witness=pid if crashed else None, first=not ready)
    if code != _EXITED:
        return FailureReason("could not be started", witness=1, first=False)
    if not status:  # ended by a signal from outside: its log has no cause
        return FailureReason("exited with status 0")
    if status in _STEPS:
        said = f"could not be set up by systemd (step {_STEPS[status]})"
        return FailureReason(said, witness=pid, first=False)
    return FailureReason(f"exited with status {status}", witness=pid, first=not ready)


def _killed_by(number: int) -> tuple[str, bool]:
    """Returns a description of the signal, and whether the process may have logged a cause."""
    try:
        known = signal.Signals(number)
    except ValueError:
        return f"was killed by signal {number}", False
    if known in _CRASHES or known is signal.SIGKILL:
        return f"crashed ({known.name})", known in _CRASHES
    return f"was ended by {known.name}", False


def complaint(lines: Sequence[tuple[int, str]], failure: FailureReason) -> str:
    """Returns the log line that explains the failure; "" if none does.

    `lines` are (pid, text), oldest first.
    """
    said = (text for pid, text in lines if pid == failure.witness)
    errors = [quote for text in said if (quote := _error_in(text))]
    return (errors[0] if failure.first else errors[-1]) if errors else ""


def _error_in(line: str) -> str:
    step = _STEP_FAILED.fullmatch(line)
    text = error_text(step[1]) or step[1] if step else error_text(line)
    return text.removeprefix("error: ")


# -- values ----------------------------------------------------------------------------------


def figure(value: object) -> int | None:
    """Returns a number from the manager; None if the manager does not know it."""
    return value if isinstance(value, int) and 0 <= value < _NEVER else None


def _host(properties: Mapping[str, Any]) -> str:
    commands = properties.get("ExecStart") or ()
    argv = list(commands[-1][1]) if commands else []
    return next((str(b) for a, b in pairwise(argv) if a == "--host"), "")


def _seconds(properties: Mapping[str, Any], name: str) -> float | None:
    """Converts a time of the manager, in microseconds, to seconds since the epoch."""
    return int(properties.get(name, 0)) / 1e6 or None


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0
