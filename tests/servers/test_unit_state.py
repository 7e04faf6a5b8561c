"""From a unit's properties to a server's state and reason: tables, as 252 to 262 fill them."""

from typing import Any

import pytest

from magid.servers.backend import WITH_TARGET, ServerState
from magid.servers.systemd.unit_state import (
    is_ours,
    observed_from,
    state_of,
)
from magid.systemd.unit_names import port_in, unit_path
from tests.support.unit_properties import KILLED, SPEC, ended, unit
from tests.support.values import PLACEMENT

# -- names -----------------------------------------------------------------------------------


def stopped(
    left: int, ended: int, target: int = -10_000_000, code: int = 1, status: int = 0
) -> dict[str, int]:
    """When it left its active state, and its process ended; when the target was stopped."""
    return {
        "ActiveExitTimestampMonotonic": left, "ExecMainExitTimestampMonotonic": ended,
        "TargetStopped": target, "ExecMainCode": code, "ExecMainStatus": status,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "port"),
    [
        ("llama-server@8080.service", 8080),
        ("llama-server@65535.service", 65_535),
        ("llama-server@65536.service", None),
        ("llama-server@99999.service", None),
        ("llama-server@0.service", None),
        ("llama-server@08080.service", None),
        ("llama-server@x.service", None),
        ("llama-server@8080.socket", None),
        ("llama-server@8080.service.d", None),
        ("other.service", None),
        ("", None),
    ],
)
def test_port_in(name: str, port: int | None) -> None:
    assert port_in(name) == port


@pytest.mark.parametrize(
    ("properties", "uid"),
    [({"UID": 61_184}, 61_184), ({"UID": 0}, 0), ({"UID": 2**32 - 1}, None), ({}, None)],
)
def test_the_user_of_the_moment(properties: dict[str, Any], uid: int | None) -> None:
    assert observed_from(unit(**properties)).uid == uid


ARGV = ["python3", "-I", "exec_model.py", "/models/demo.gguf", "--", "/usr/bin/llama-server"]
ARGV += ["--model", "/models/demo.gguf", "--host", "127.0.0.1", "--parallel", "2", "--temp", "1"]
COMMAND = [("python3", ARGV, False, 0, 0, 0, 0, 0, 0, 0)]
LIMITS = {"MemoryMax": 2**32, "CPUQuotaPerSecUSec": 2**64 - 1}


def test_what_it_was_started_with() -> None:
    shown = dict(observed_from(unit(ExecStart=COMMAND, **LIMITS)).values)
    assert (shown["parallel"], shown["ctx_size"], shown["extra_args"]) == ("2", None, "--temp 1")
    assert (shown["memory_max"], shown["cpu_quota"]) == (str(2**32), None)
    by_hand = dict(observed_from(unit(ExecStart=COMMAND, **LIMITS, DropInPaths=["/x"])).values)
    assert "memory_max" not in by_hand
    assert observed_from(unit()).values == ()  # not what the launcher writes
    other = [("/bin/sh", ["/bin/sh", "--", "x"], False, 0, 0, 0, 0, 0, 0, 0)]
    assert observed_from(unit(ExecStart=other, **LIMITS)).values == ()


def test_unit_path() -> None:
    assert unit_path(8080) == "/org/freedesktop/systemd1/unit/llama_2dserver_408080_2eservice"


@pytest.mark.parametrize(
    ("properties", "ours"),
    [
        (unit(), True),
        (unit(Transient=False), False),
        (unit(LogExtraFields=[]), False),
        (unit(LogExtraFields=[b"MAGI_SPEC="]), False),
        (unit(LogExtraFields=[b"\xff=\xff", b"MAGI_SPEC=1"]), True),
        ({}, False),
    ],
)
def test_is_ours(properties: dict[str, Any], ours: bool) -> None:
    assert is_ours(properties) is ours


# -- the state -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("active", "step", "more", "state"),
    [
        ("active", "running", {}, "ready"),
        ("active", "running", {"JobType": "restart"}, "stopping"),
        ("active", "running", {"JobType": "stop"}, "stopping"),
        ("active", "running", {"JobType": "reload"}, "ready"),
        ("reloading", "reload", {}, "ready"),
        ("refreshing", "refresh", {}, "ready"),
        ("activating", "start", {}, "starting"),
        ("activating", "start", {"StatusText": "starting (1 s)"}, "starting"),
        ("activating", "start", {"StatusText": "loading (3 s)"}, "loading"),
        ("activating", "auto-restart", {}, "backoff"),
        ("activating", "auto-restart-queued", {"JobType": "start"}, "backoff"),
        ("failed", "failed-before-auto-restart", {}, "backoff"),
        ("inactive", "dead-before-auto-restart", {}, "backoff"),
        ("deactivating", "stop-sigterm", {}, "stopping"),
        ("deactivating", "final-sigkill", {}, "stopping"),
        ("inactive", "dead", {}, "stopped"),
        ("inactive", "dead-resources-pinned", {}, "stopped"),
        ("inactive", "dead", {"JobType": "start"}, "starting"),
        ("inactive", "dead", {"JobType": "restart"}, "starting"),
        ("inactive", "dead", {"JobType": "stop"}, "stopped"),
        ("inactive", "dead", {"LoadState": "bad-setting"}, "failed"),
        ("failed", "failed", {}, "failed"),
        ("failed", "failed", {"JobType": "start"}, "starting"),
        ("failed", "failed", {"JobType": "stop"}, "failed"),
        ("maintenance", "", {}, "failed"),
        ("", "", {}, "failed"),
    ],
)
def test_state(active: str, step: str, more: dict[str, Any], state: str) -> None:
    assert state_of(unit(ActiveState=active, SubState=step, **more)) == ServerState(state)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({}, ""),  # it has never run
        ({"ActiveExitTimestampMonotonic": 500}, ""),
        (stopped(left=500, ended=600), "by systemctl"),
        (stopped(left=500, ended=600, target=400), "with magi-models.target"),
        (stopped(left=9_000_000, ended=9_000_100, target=400), "by systemctl"),
        # Before systemd knew that it was ready: it was active in an earlier run, if ever.
        (stopped(left=50, ended=600), "by systemctl"),
        (stopped(left=0, ended=600, target=400), "with magi-models.target"),
        (stopped(left=500, ended=500, code=1), "its process ended by itself (status 0)"),
        (stopped(left=500, ended=400, code=2, status=15), "its process ended by itself (SIGTERM)"),
        (
            stopped(left=500, ended=400, code=2, status=99),
            "its process ended by itself (signal 99)",
        ),
    ],
)
def test_why_a_server_is_stopped(more: dict[str, Any], reason: str) -> None:
    assert observed_from(unit(ActiveState="inactive", SubState="dead", **more)).reason == reason
    assert observed_from(unit(**more)).reason == ""  # it runs again


@pytest.mark.parametrize(
    ("changes", "state", "reason"),
    [
        ({"Result": "timeout"}, ServerState.STOPPED, "by systemctl"),
        ({"Result": "core-dump", "ExecMainCode": 3}, ServerState.STOPPED, "by systemctl"),
        ({"Result": "exit-code", "ExecMainStatus": 1}, ServerState.STOPPED, "by systemctl"),
        ({"Result": "timeout", "TargetStopped": 150}, ServerState.STOPPED, WITH_TARGET),
        # systemd restarts a unit that is not stopped on purpose, until it gives up.
        ({"ActiveExitTimestampMonotonic": 300}, ServerState.FAILED, "crashed (SIGKILL)"),
        ({"Result": "watchdog"}, ServerState.FAILED, None),
        ({"Result": "oom-kill"}, ServerState.FAILED, None),
        # It left an earlier run's active state.
        ({"Result": "timeout", "ActiveExitTimestampMonotonic": 50}, ServerState.FAILED, None),
    ],
)
def test_killed_because_it_did_not_end_when_it_was_stopped(
    changes: dict[str, Any], state: ServerState, reason: str | None
) -> None:
    shown = stopped(left=200, ended=300) | {"ExecMainStartTimestampMonotonic": 100}
    how = {"Result": "signal", "ExecMainCode": KILLED, "ExecMainStatus": 9}
    server = observed_from(ended(**(shown | how | changes)))
    assert server.state is state
    assert reason in (None, server.reason)


def test_a_ready_server() -> None:
    server = observed_from(unit(NRestarts=3))
    assert (server.port, server.model_id, server.instance) == (8080, "demo_tiny", 2)
    assert (server.spec_hash, server.state, server.reason) == (SPEC.hash, ServerState.READY, "")
    assert (server.pid, server.host, server.restarts) == (4242, "127.0.0.1", 3)
    assert (server.started_at, server.ready_at) == (1_700_000_000.0, 1_700_000_001.5)
    assert server.invocation_id == "01" * 16


def test_times_are_those_of_the_present_process() -> None:
    loading = observed_from(unit(ActiveState="activating", SubState="start"))
    assert (loading.started_at, loading.ready_at) == (1_700_000_000.0, None)
    stopped = observed_from(unit(ActiveState="inactive", SubState="dead", MainPID=0))
    assert (stopped.pid, stopped.started_at, stopped.ready_at) == (None, None, None)


def test_where_it_runs() -> None:
    fields = [*unit()["LogExtraFields"], f"MAGI_PLACEMENT={PLACEMENT.text}".encode()]
    assert observed_from(unit(LogExtraFields=fields)).placement == PLACEMENT
    assert observed_from(unit()).placement is None
    later = [*unit()["LogExtraFields"], b'MAGI_PLACEMENT={"version": 9}']
    assert observed_from(unit(LogExtraFields=later)).placement is None


def test_what_can_be_missing() -> None:
    server = observed_from({"Id": SPEC.unit, "LogExtraFields": [b"MAGI_INSTANCE=x"]})
    assert (server.port, server.instance, server.pid) == (8080, 0, None)
    assert server.invocation_id is None
