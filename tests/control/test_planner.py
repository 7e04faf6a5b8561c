"""The core as tables: what is wanted and what runs -> what to stop, start, keep."""

from dataclasses import fields, replace

import pytest

from magid.control import planner
from magid.control.planner import Blocked, BootRecord, Due, Wanted
from magid.llama.runtime_settings import SERVER_SETTINGS
from magid.llama.spec import ServerSpec
from magid.servers.backend import ObservedServer, ServerState
from tests.support.values import observed, spec

S = ServerState
A, B = spec("a", 8080), spec("b", 8081)
CHANGED = replace(A, ctx_size=512)
REPLACED_FILE = replace(A, stamp="s2")


def seen(*servers: ObservedServer) -> dict[int, ObservedServer]:
    return {server.port: server for server in servers}


@pytest.mark.parametrize(
    ("wanted", "running", "stop", "start", "keep"),
    [
        ([], [], [], [], []),
        ([A], [], [], [8080], []),
        ([A], [observed(A, S.READY)], [], [], [8080]),
        ([A], [observed(A, S.STARTING)], [], [], [8080]),
        ([A], [observed(A, S.LOADING)], [], [], [8080]),
        ([A], [observed(A, S.BACKOFF)], [], [], [8080]),
        ([A], [observed(A, S.FAILED)], [], [8080], []),
        ([A], [observed(A, S.STOPPED)], [], [8080], []),
        ([A], [observed(A, S.STOPPING)], [], [8080], []),
        ([], [observed(A, S.READY)], [8080], [], []),
        ([], [observed(A, S.BACKOFF)], [8080], [], []),
        ([], [observed(A, S.FAILED)], [], [], []),
        ([], [observed(A, S.STOPPED)], [], [], []),
        ([CHANGED], [observed(A, S.READY)], [8080], [8080], []),
        ([CHANGED], [observed(A, S.FAILED)], [], [8080], []),
        ([REPLACED_FILE], [observed(A, S.LOADING)], [8080], [8080], []),
        ([A, B], [observed(A, S.READY)], [], [8081], [8080]),
        ([A], [observed(A, S.READY), observed(B, S.READY)], [8081], [], [8080]),
        ([replace(A, port=8081)], [observed(A, S.READY)], [8080], [8081], []),
        ([replace(B, port=8080)], [observed(A, S.READY)], [8080], [8080], []),
    ],
)
def test_plan(
    wanted: list[ServerSpec],
    running: list[ObservedServer],
    stop: list[int],
    start: list[int],
    keep: list[int],
) -> None:
    plan = planner.plan(Wanted(tuple(wanted), ()), seen(*running))
    assert [line.port for line in plan.stop] == stop
    assert [line.spec.port for line in plan.start] == start
    assert [line.port for line in plan.keep] == keep
    reasons = [line.reason for line in plan.stop] + [line.reason for line in plan.start]
    assert all(reasons)
    assert plan.is_empty == (not stop and not start)


def test_what_is_blocked_is_said_and_keeps_nothing_else_back() -> None:
    blocked = Blocked("c", "no port is free")
    plan = planner.plan(Wanted((A,), (blocked,)), {})
    assert plan.blocked == (blocked,)
    assert plan.model_ids == {"a"}


def test_a_server_whose_models_folder_cannot_be_seen_is_left_alone() -> None:
    wanted = Wanted((B,), (), unseen=frozenset({"a"}))
    running = seen(observed(A, S.READY), observed(B, S.READY))
    assert planner.plan(wanted, running).is_empty
    assert planner.only("a", wanted, running).is_empty


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (Wanted((), (), unwanted={"a": "is disabled"}), "is disabled"),
        (Wanted((), ()), "has no file"),
        (Wanted((), (Blocked("a", "no port is free"),)), "has no port"),
        (Wanted((replace(A, port=8099),), ()), "has another port, or fewer servers"),
    ],
)
def test_a_stop_says_what_has_become_of_the_model(wanted: Wanted, reason: str) -> None:
    (stop,) = planner.plan(wanted, seen(observed(A, S.READY))).stop
    assert stop.reason == f"not wanted: its model {reason}"


def test_two_models_that_swap_their_ports_are_both_restarted() -> None:
    swapped = (replace(A, port=8081), replace(B, port=8080))
    plan = planner.plan(Wanted(swapped, ()), seen(observed(A, S.READY), observed(B, S.READY)))
    assert [line.port for line in plan.stop] == [8080, 8081]
    assert [line.spec.port for line in plan.start] == [8081, 8080]


# -- the start of magid ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "due"),
    [
        (None, None),
        (BootRecord("another", Due()), None),
        (BootRecord("another", Due(frozenset({"a"}))), None),
        (BootRecord("this", Due()), Due()),
        (BootRecord("this", Due(frozenset({"a"}))), Due(frozenset({"a"}))),
    ],
)
def test_what_an_earlier_magid_has_left_of_the_boot(
    record: BootRecord | None, due: Due | None
) -> None:
    assert planner.still_due(record, "this") == due


def test_a_boot_starts_what_is_wanted_and_what_is_missing_when_it_comes_back() -> None:
    wanted = Wanted((A, B), (), on_demand=frozenset({B.port}))
    due = planner.due_at_boot(wanted, ["gone"], ["/net"])
    assert due == Due(frozenset({"a", "gone"}), frozenset({"/net"}))


@pytest.mark.parametrize(
    ("wanted", "running", "due", "start"),
    [
        ([A, B], [], {"a", "b"}, [8080, 8081]),
        ([A, B], [], {"b", "gone"}, [8081]),
        ([A, B], [], set(), []),  # a restart: nothing is due, whatever is pending
        ([CHANGED], [observed(A, S.READY)], {"a"}, []),  # nothing that runs is changed
        ([], [observed(A, S.READY)], {"a"}, []),
        ([A], [observed(B, S.READY)], {"a"}, [8080]),
        ([replace(B, port=8080)], [observed(A, S.READY)], {"b"}, []),  # pending: a has the port
        ([replace(B, port=8080)], [observed(A, S.STOPPED)], {"b"}, [8080]),
    ],
)
def test_at_boot(
    wanted: list[ServerSpec], running: list[ObservedServer], due: set[str], start: list[int]
) -> None:
    plan = planner.at_boot(Wanted(tuple(wanted), ()), seen(*running), due)
    assert [line.spec.port for line in plan.start] == start
    assert not plan.stop


@pytest.mark.parametrize("state", list(S))
def test_at_boot_a_server_that_exists_stays_as_it_is(state: S) -> None:
    wanted = Wanted((CHANGED, B), ())
    plan = planner.at_boot(wanted, seen(observed(A, state)), {"a", "b"})
    assert [line.spec for line in plan.start] == [B]


def test_at_boot_what_starts_on_demand_waits() -> None:
    wanted = Wanted((A, B), (), on_demand=frozenset({A.port}))
    assert [line.spec for line in planner.at_boot(wanted, {}, {"a", "b"}).start] == [B]


# -- what a user asks for --------------------------------------------------------------------


def test_only_touches_one_model() -> None:
    wanted = Wanted((A, B), ())
    assert planner.only("a", wanted, seen(observed(B, S.READY))).model_ids == {"a"}
    assert planner.only("a", wanted, seen(observed(A, S.READY))).is_empty


def test_only_of_a_disabled_model_is_its_stop() -> None:
    plan = planner.only("a", Wanted((B,), ()), seen(observed(A, S.READY)))
    assert [line.port for line in plan.stop] == [8080]
    assert not plan.start


def test_restart_stops_what_runs_and_starts_what_is_wanted() -> None:
    wanted = Wanted((CHANGED, B), ())
    plan = planner.restart(wanted, "a", seen(observed(A, S.READY), observed(B, S.READY)))
    assert [line.port for line in plan.stop] == [8080]
    assert [line.spec for line in plan.start] == [CHANGED]
    assert not planner.restart(wanted, "a", seen(observed(A, S.STOPPED))).stop


def test_stop_all_leaves_out_what_does_not_run() -> None:
    servers = [observed(replace(A, port=8080 + i), state) for i, state in enumerate(S)]
    stopped = {line.port for line in planner.stop_all(servers, "asked").stop}
    assert {s.state for s in servers if s.port not in stopped} == {S.STOPPED, S.FAILED}


def test_the_hash_covers_every_field_that_decides_how_a_server_runs() -> None:
    changes: dict[str, object] = {
        "model_id": "z", "instance": 1, "port": 1, "host": "::1", "model_path": "/z",
        "mmproj_path": "/p", "kind": "embedding", "stamp": "z",
        **{each.name: each.values.parse(each.example) for each in SERVER_SETTINGS},
    }  # fmt: skip
    beside = {"draft_type": "mtp", "draft_path": "/d", "draft_stamp": "z"} | {
        "lora_paths": ("/l",), "lora_stamp": "z", "lora_bytes": 1
    }  # fmt: skip
    assert changes.keys() | beside.keys() == {each.name for each in fields(ServerSpec)}
    assert replace(A, **beside).hash == A.hash  # type: ignore[arg-type]  # one type for each
    hashes = {replace(A, **{name: value}).hash for name, value in changes.items()}  # type: ignore[arg-type]  # one field each
    assert len(hashes | {A.hash}) == len(changes) + 1
