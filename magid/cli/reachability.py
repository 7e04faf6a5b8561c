"""Whether magid answers, and if not, why: quickly, and in words that lead to the cause.

A request may take as long as a model takes to load, but a magid that cannot start, or that is
frozen, never answers. systemd accepts connections for it, so the silence says nothing.
"""

import http.client
import os
import select
from collections.abc import Callable
from contextlib import closing

SOCKET = "/run/magi/magid.sock"
VIEW_SOCKET = "/run/magi/view.sock"  # for the group magi-view, which may only read
URL = "http://127.0.0.1:8000"
# Where magid's service listens: of another address systemd knows nothing.
_SERVICES = (f"unix:{SOCKET}", f"unix:{VIEW_SOCKET}", URL)

SILENCE_S = 1.0  # without an answer, before the cause is looked for
_PROBE_S = 1.0
_FROZEN_S = 10.0  # without an answer to any request

Connect = Callable[[], http.client.HTTPConnection]


class Unreachable(Exception):
    """No answer will come; the text says why, and what to do."""


def wait_for_answer(connection: http.client.HTTPConnection, where: str, connect: Connect) -> None:
    """Returns when an answer begins, or magid is known to work. Raises Unreachable, OSError."""
    silent_s = 0.0
    starts: set[str] = set()
    while not select.select([connection.sock], [], [], SILENCE_S)[0]:
        if reason := failure_at(where, starts):
            raise Unreachable(explained(reason))
        if answers(connect):
            return
        silent_s += SILENCE_S + _PROBE_S
        if silent_s >= _FROZEN_S and not is_starting_at(where):
            raise Unreachable(
                f"cannot get an answer from magid at {where}: it does not answer other requests "
                f"either\n{_tried('systemctl restart magid')}"
            )


def answers(connect: Connect) -> bool:
    """Whether magid answers a test request in time."""
    try:
        with closing(connect()) as probe:
            probe.timeout = _PROBE_S
            probe.connect()
            probe.sock.settimeout(_PROBE_S)
            probe.request("GET", "/livez")
            probe.getresponse()
    except (OSError, http.client.HTTPException):
        return False
    return True


def failure_at(where: str, starts: set[str] | None = None) -> str:
    """Returns why the service that listens there does not run; "" if it runs, or if unknown."""
    if where not in _SERVICES:
        return ""
    from magid.doctor.collect.service_failure import failure  # late: only needed here

    return failure(starts)


def is_starting_at(where: str) -> bool:
    if where not in _SERVICES:
        return False
    from magid.doctor.collect.service_failure import look  # late: only needed here

    service = look()
    return service is not None and service.is_starting


def explained(reason: str) -> str:
    """The text of an error: the cause first, and one block of commands.

    `reason` is one of magid's: "cannot ...: why; what to do".
    """
    cause, _, advice = reason.rpartition("; ")
    if not cause:
        cause, advice = reason, ""
    if advice.startswith("systemctl "):  # that alone is the remedy
        return f"{cause}\n{_tried(advice)}"
    commands = [f"{_sudo()}magid --check", f"{_sudo()}systemctl restart magid"]
    if advice.startswith(("apt ", "journalctl ")):
        advice = f"{_sudo()}{advice}"
    block = "\n     ".join([advice, *commands] if advice else commands)
    return f"{cause}\nmagid does not run because of this\ntry: {block}"


def _tried(command: str) -> str:
    return f"try: {_sudo()}{command}"


def _sudo() -> str:
    return "" if os.geteuid() == 0 else "sudo "
