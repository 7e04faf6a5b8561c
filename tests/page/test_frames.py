"""How frames are read from a trace: what is the page's own work, and what the machine let wait."""

from typing import Any

import pytest

from tests.bench.frames import frames, percentiles

MAIN = {"pid": 7, "tid": 8}


def span(name: str, at_ms: float, took_ms: float, worked_ms: float, **of: int) -> dict[str, Any]:
    times = {"ts": int(at_ms * 1000), "dur": int(took_ms * 1000), "tdur": int(worked_ms * 1000)}
    return {"name": name, "ph": "X", **MAIN, **times, **of}


def called(at_ms: float) -> dict[str, Any]:
    return {"name": "FireAnimationFrame", "ph": "X", **MAIN, "ts": int(at_ms * 1000), "dur": 10}


TRACE: list[dict[str, Any]] = [
    {"name": "thread_name", "ph": "M", **MAIN, "args": {"name": "CrRendererMain"}},
    {"name": "thread_name", "ph": "M", "pid": 9, "tid": 9, "args": {"name": "CrRendererMain"}},
    {"name": "mine", "ph": "I", **MAIN, "ts": 0},
    *(called(at) for at in (0, 1, 16, 100, 117)),  # 1: a second callback of the first frame
    span("RunTask", 20, 70, 60),
    span("Layout", 30, 20, 20),
    span("RunTask", 95, 10, 10),  # half of it in the next frame
    span("RunTask", 20, 70, 70, pid=9, tid=9),  # of another page
]


def test_work_belongs_to_its_frame_and_its_page() -> None:
    found = frames(TRACE, "mine")
    assert [frame.took for frame in found] == [16, 84, 17]
    assert [frame.worked for frame in found] == pytest.approx([0, 65, 5])
    assert found[1].parts == pytest.approx({"layout": 20, "script": 45})


def test_percentiles() -> None:
    found = percentiles(float(number) for number in range(1, 201))
    assert (found.median, found.p99, found.worst) == (101, 199, 200)
    assert percentiles([]).worst == 0
