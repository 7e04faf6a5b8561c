"""Why magid's service does not run, from what systemd shows."""

import dataclasses
from typing import Any

import pytest

from magid.doctor.collect.service_failure import Service, failure_of, last_line

RUNS = Service("loaded", "active", "running", "success", 0, 0, "serving: 3 ready")
SAID = "cannot listen on 0.0.0.0:8000: there is no token; make one"
FAILED = {"active": "failed", "sub": "failed", "result": "exit-code"}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, ""),
        ({"restarts": 7}, ""),
        ({"active": "activating", "sub": "start", "said": ""}, ""),
        ({**FAILED, "status": 78, "said": SAID}, SAID),
        ({"active": "activating", "sub": "start", "said": SAID}, SAID),  # it pauses before a retry
        ({**FAILED, "status": 217, "said": ""}, "cannot run magid: there is no user magi; "),
        ({**FAILED, "status": 226, "said": ""}, "cannot run magid: systemd cannot make its sand"),
        (
            {"active": "activating", "sub": "auto-restart", "result": "exit-code", "status": 1},
            "cannot start magid: it ended with exit-code, status 1; journalctl",
        ),
        (
            {"active": "activating", "sub": "start", "restarts": 3, "result": "success"},
            "cannot start magid: it ends and is started again and again; journalctl",
        ),
        ({"active": "inactive", "sub": "dead"}, "cannot use magid: it is stopped; systemctl start"),
        ({"load": "masked", "active": "inactive"}, "cannot start magid: its unit is masked; "),
        (
            {**FAILED, "result": "start-limit-hit", "status": 1, "said": ""},
            "cannot start magid: it ended with start-limit-hit, status 1; ",
        ),
    ],
)
def test_the_cause(changes: dict[str, Any], why: str) -> None:
    found = failure_of(dataclasses.replace(RUNS, **changes))
    assert found.startswith(why)
    assert bool(found) == bool(why)


def test_the_last_line_of_the_log_is_none_of_the_usual_ones() -> None:
    log = """\
Starting magid.service - magid, the model manager...
magid.service: Failed at step USER spawning /usr/bin/magid: No such process
magid.service: Main process exited, code=exited, status=217/USER
magid.service: Failed with result 'exit-code'.
Failed to start magid.service - magid, the model manager.
"""
    assert last_line(log) == (
        "magid.service: Failed at step USER spawning /usr/bin/magid: No such process"
    )
    assert last_line("magid: cannot write /x: full\nStopped magid.service - x.\n") == (
        "cannot write /x: full"
    )
    assert last_line("") == ""
