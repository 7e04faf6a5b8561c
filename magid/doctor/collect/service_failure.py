"""Why magid's service does not run: a look at systemd that any user may take.

magid tells systemd the reason as its status before it ends; where it could not even be run, the log
says why, to those who may read it. Imports little: magictl asks when it gets no answer.
"""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from magid.doctor.collect.commands import CannotCollect, output_of

SERVICE: Final = "magid.service"
_LOOK_S: Final = 1.5
_LOOKS: Final = 6
_BETWEEN_S: Final = 0.1
_MANY_STARTS: Final = 3
_PROPERTIES: Final = (
    *("LoadState", "ActiveState", "SubState", "Result"),
    *("ExecMainStatus", "NRestarts", "StatusText", "InvocationID"),
)
_CHATTER: Final = re.compile(  # of PID 1 about every start and end
    r"Start(ing|ed) |Stop(ping|ped) |Failed to start |Reload(ing|ed) "
    r"|magid\.service: (Main process|Failed with|Scheduled|Start request|Consumed|Deactivated)"
)
# Statuses of processes that systemd could not run; systemd.exec(5).
_NOT_RUN: Final[Mapping[int, str]] = {
    203: "cannot run magid: its program /usr/bin/magid is not there, or cannot be run; "
    "apt install --reinstall magi",
    216: "cannot run magid: there is no group magi; systemd-sysusers",
    217: "cannot run magid: there is no user magi; systemd-sysusers",
    226: "cannot run magid: systemd cannot make its sandbox",
}


@dataclass(frozen=True, slots=True)
class Service:
    """magid.service, as systemd shows it; `said` is its last status line."""

    load: str
    active: str
    sub: str
    result: str
    status: int
    restarts: int
    said: str
    invocation: str = ""  # of its last start

    @property
    def is_starting(self) -> bool:
        return self.active in ("activating", "deactivating", "reloading")


def look() -> Service | None:
    """None where there is no such service, or systemd does not answer in time."""
    try:
        shown = _shown(
            output_of(
                ["systemctl", "show", f"--property={','.join(_PROPERTIES)}", "--", SERVICE],
                timeout_s=_LOOK_S,
            )
        )
    except CannotCollect:
        return None
    if shown.get("LoadState", "not-found") == "not-found":
        return None
    return Service(
        load=shown["LoadState"],
        active=shown.get("ActiveState", ""),
        sub=shown.get("SubState", ""),
        result=shown.get("Result", ""),
        status=_number(shown.get("ExecMainStatus", "")),
        restarts=_number(shown.get("NRestarts", "")),
        said=shown.get("StatusText", ""),
        invocation=shown.get("InvocationID", ""),
    )


def failure_of(service: Service) -> str:
    """Why it does not run, as magid's errors are written; "" if it runs or still starts. Pure."""
    if service.load == "masked":
        return f"cannot start magid: its unit is masked; systemctl unmask {SERVICE}"
    if service.active == "active":
        return ""
    if service.said.startswith("cannot "):
        return service.said
    has_ended = service.sub == "auto-restart" or service.restarts > 0
    if service.is_starting and not has_ended:
        return ""
    if service.active == "inactive" and service.result == "success":
        return "cannot use magid: it is stopped; systemctl start magid"
    if service.status in _NOT_RUN:
        return _NOT_RUN[service.status]
    return _ended(_how(service))


def _how(service: Service) -> str:
    if service.result == "success":
        return "it ends and is started again and again"
    return f"it ended with {service.result or 'failure'}, status {service.status}"


def _ended(why: str) -> str:
    return f"cannot start magid: {why}; journalctl -n 20 -u magid"


def last_line(log: str) -> str:
    """The last line that is not one of PID 1's about every start and end. Pure."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    said = [line for line in lines if not _CHATTER.match(line)]
    return said[-1].removeprefix("magid: ") if said else ""


def failure(seen: set[str] | None = None) -> str:
    """Why magid's service does not run; "" if it runs, starts, or there is none. Never raises.

    Takes the log where magid has not said it itself. Blocks for three seconds at most, half a
    second of them where it starts: one that ends at once and is started again, by clients that
    wait, is seen by its many starts. `seen` keeps them between calls.
    """
    starts = set() if seen is None else seen
    found = ""
    service = look()
    for _ in range(_LOOKS):
        found = failure_of(service) if service else ""
        if found or service is None or not service.is_starting:
            break
        starts.add(service.invocation)
        if len(starts) >= _MANY_STARTS:  # two are a restart
            found = _ended(_how(service))
            break
        time.sleep(_BETWEEN_S)
        service = look()
    if service is None or found != _ended(_how(service)):
        return found
    logged = last_line(_log())
    if logged.startswith("cannot "):
        return logged
    return _ended(logged) if logged else found


def _log() -> str:
    argv = ["journalctl", "--quiet", "--no-pager", "--output=cat", "--lines=20"]
    try:
        return output_of([*argv, f"--unit={SERVICE}"], timeout_s=_LOOK_S)
    except CannotCollect:
        return ""


def _shown(text: str) -> dict[str, str]:
    return dict(line.partition("=")[::2] for line in text.splitlines())


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0
