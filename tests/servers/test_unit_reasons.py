"""From a unit's properties to why its server failed: tables, as 252 to 262 fill them."""

from typing import Any

import pytest

from magid.servers.systemd.unit_state import (
    FailureReason,
    complaint,
    failure_of,
    figure,
    observed_from,
)
from tests.support.unit_properties import DUMPED, EXITED, KILLED, ended, unit

NO_WORDS, WORDS = "", "no space left"


@pytest.mark.parametrize(
    ("changes", "quote", "reason"),
    [
        ({"Result": "oom-kill"}, "", "was killed by the kernel because memory ran out (oom-kill)"),
        ({"Result": "timeout"}, "", "did not end in time and was killed (timeout)"),
        (
            {"Result": "timeout", "ActiveEnterTimestampMonotonic": 50},
            "",
            "was not ready, took too long to start or to stop, and was ended (timeout)",
        ),
        ({"Result": "watchdog"}, "", "gave no sign of life and was ended (watchdog)"),
        (
            {"Result": "resources"},
            "no room",
            "could not be started by systemd (resources): no room",
        ),
        # It ended by itself, with a status of success, before it was ready.
        ({"Result": "protocol", "ExecMainCode": EXITED}, "", "exited with status 0"),
        ({"Result": "new"}, "", "failed (new)"),
        ({"Result": ""}, "", "failed (for a reason that systemd does not tell)"),
        (
            {"Result": "exit-code", "ExecMainCode": EXITED, "ExecMainStatus": 1},
            WORDS,
            "exited with status 1: no space left",
        ),
        ({"Result": "success", "ExecMainCode": EXITED}, NO_WORDS, "exited with status 0"),
        (
            {"Result": "success", "ExecMainCode": KILLED, "ExecMainStatus": 15},
            "",
            "was ended by SIGTERM",
        ),
        (
            {"Result": "exit-code", "ExecMainCode": EXITED, "ExecMainStatus": 226},
            "Failed at step NAMESPACE",
            "could not be set up by systemd (step NAMESPACE): Failed at step NAMESPACE",
        ),
        (
            {"Result": "signal", "ExecMainCode": KILLED, "ExecMainStatus": 9},
            "",
            "crashed (SIGKILL)",
        ),
        (
            {"Result": "core-dump", "ExecMainCode": DUMPED, "ExecMainStatus": 11},
            "",
            "crashed (SIGSEGV) and left a core dump",
        ),
        (
            {"Result": "signal", "ExecMainCode": KILLED, "ExecMainStatus": 63},
            "",
            "was killed by signal 63",
        ),
        ({"Result": "exit-code"}, "", "could not be started"),
        (
            {"LoadState": "bad-setting", "LoadError": ("x", "Invalid argument")},
            "",
            "systemd cannot use the unit: Invalid argument; see `systemctl status "
            "llama-server@8080.service`",
        ),
    ],
)
def test_reason(changes: dict[str, Any], quote: str, reason: str) -> None:
    assert observed_from(ended(**changes), quote).reason == reason


CRASH = {"Result": "signal", "ExecMainCode": KILLED, "ExecMainStatus": 11}


@pytest.mark.parametrize(
    ("changes", "restarts", "tail"),
    [
        # from 254 on
        ({"Result": "start-limit-hit", "NRestarts": 3}, 2, "given up after 2 restarts"),
        ({"Result": "start-limit-hit", "NRestarts": 1}, 0, "given up after too many starts"),
        # 252: the last result stays
        ({"NRestarts": 6, "StartLimitBurst": 6}, 5, "given up after 5 restarts"),
        ({"NRestarts": 5, "StartLimitBurst": 6}, 5, "(SIGSEGV)"),
        ({"NRestarts": 9, "StartLimitBurst": 0}, 9, "(SIGSEGV)"),
    ],
)
def test_given_up(changes: dict[str, Any], restarts: int, tail: str) -> None:
    server = observed_from(ended(**(CRASH | changes)))
    assert server.restarts == restarts
    assert server.reason.startswith("crashed (SIGSEGV)")
    assert server.reason.endswith(tail)


@pytest.mark.parametrize(
    ("pauses", "tail"),
    [
        ({"RestartUSec": 1_500_000}, "; restarting in 2 s"),
        ({"RestartUSec": 1, "RestartUSecNext": 60_000_000}, "; restarting in 60 s"),
        ({"RestartUSec": 2**64 - 1}, "; restarting"),
    ],
)
def test_backoff_says_when(pauses: dict[str, int], tail: str) -> None:
    waiting = {"ActiveState": "activating", "SubState": "auto-restart"}
    reason = observed_from(ended(**(CRASH | waiting | pauses))).reason
    assert reason == "crashed (SIGSEGV)" + tail


@pytest.mark.parametrize("state", ["active", "inactive", "activating", "deactivating"])
def test_no_reason_where_nothing_is_wrong(state: str) -> None:
    assert observed_from(unit(ActiveState=state, SubState="", **CRASH)).reason == ""


EXIT_1 = {"Result": "exit-code", "ExecMainCode": EXITED, "ExecMainStatus": 1}


@pytest.mark.parametrize(
    ("changes", "witness", "first"),
    [
        (EXIT_1, 77, False),
        (EXIT_1 | {"ActiveEnterTimestampMonotonic": 50}, 77, True),
        (CRASH, 77, False),
        ({"Result": "signal", "ExecMainCode": KILLED, "ExecMainStatus": 9}, None, False),
        ({"Result": "oom-kill"}, None, True),
        (EXIT_1 | {"StatusText": "loading (3 s)"}, 77, False),
        # wait_ready.py has killed it, and says why
        ({"Result": "signal", "StatusText": "not ready: late"}, None, True),
    ],
)
def test_who_is_asked(changes: dict[str, Any], witness: int | None, first: bool) -> None:
    failure = failure_of(ended(**changes))
    assert failure is not None
    assert failure.witness == witness
    assert witness is None or failure.first is first


def test_the_words_of_ready_say_it_all() -> None:
    words = "the server was not ready within 9 s: its port does not answer"
    killed = {"Result": "signal", "ExecMainCode": KILLED, "ExecMainStatus": 9}
    late = ended(**(killed | {"StatusText": f"not ready: {words}"}))
    assert observed_from(late).reason == words
    again = {"ActiveState": "activating", "SubState": "auto-restart", "RestartUSec": 2_000_000}
    assert observed_from(late | again).reason == f"{words}; restarting in 2 s"


LINES = [
    (77, "0.00.010.001 I srv  load_model: loading"),
    (77, "0.00.010.289 E llama_model_load: data is not within the file bounds"),
    (78, "error: the server ended before it was ready"),
    (77, "0.00.010.300 E srv  exiting due to model loading error"),
    (1, "llama-server@8080.service: Failed with result 'exit-code'."),
    (1, "llama-server@8080.service: Failed to set up credentials: Permission denied"),
    (79, "llama-server@8080.service: Failed at step EXEC spawning /x: No such file"),
]


@pytest.mark.parametrize(
    ("witness", "first", "found"),
    [
        (77, True, "llama_model_load: data is not within the file bounds"),
        (77, False, "srv exiting due to model loading error"),
        (78, False, "the server ended before it was ready"),
        (1, False, "Failed to set up credentials: Permission denied"),
        (79, False, "Failed at step EXEC spawning /x: No such file"),
        (80, True, ""),
        (None, True, ""),
    ],
)
def test_complaint(witness: int | None, first: bool, found: str) -> None:
    assert complaint(LINES, FailureReason("", witness=witness, first=first)) == found


@pytest.mark.parametrize(
    ("value", "known"), [(5, 5), (0, 0), (2**64 - 1, None), (None, None), (-1, None)]
)
def test_figure(value: object, known: int | None) -> None:
    assert figure(value) == known
