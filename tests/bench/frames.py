"""Frames of a page, from a trace of Chromium's. Pure.

A frame is late because the page works too long in it, or because the machine lets the page wait.
The trace tells the two apart: each task of the page's main thread has its duration, and the
processor time that the thread had in it.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

LONG_MS = 50.0  # from where on a user feels that something hangs (W3C Long Tasks)
CATEGORIES = (
    "devtools.timeline", "disabled-by-default-devtools.timeline", "blink.user_timing", "toplevel",
)  # fmt: skip
# What the parts of a task are called in the trace; what is in none of them is "script".
PARTS = {
    "UpdateLayoutTree": "style",
    "Layout": "layout",
    "PrePaint": "paint",
    "Paint": "paint",
    "Layerize": "paint",
    "Commit": "paint",
    "MinorGC": "collection",
    "MajorGC": "collection",
}
SAME_FRAME_US = 4_000  # callbacks closer than this are of one frame

Event = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Frame:
    """From one frame to the next. Milliseconds."""

    at: float
    took: float  # by the clock
    worked: float  # the processor time that the page's main thread had
    parts: Mapping[str, float]  # of that


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Milliseconds."""

    median: float
    p99: float
    worst: float

    def __str__(self) -> str:
        return f"{self.median:5.1f} {self.p99:6.1f} {self.worst:6.1f}"


def percentiles(values: Iterable[float]) -> Percentiles:
    found = sorted(values)
    if not found:
        return Percentiles(0.0, 0.0, 0.0)
    return Percentiles(
        found[len(found) // 2], found[min(len(found) - 1, len(found) * 99 // 100)], found[-1]
    )


def frames(events: Iterable[Event], mark: str) -> list[Frame]:
    """The frames of the page that has made this mark, in order."""
    own = _of_main_thread(list(events), mark)
    begun = _beginnings(own)
    tasks = sorted(
        (one["ts"], one["dur"], one.get("tdur", one["dur"]))
        for one in own
        if one["name"] == "RunTask" and one.get("ph") == "X"
    )
    parts = sorted(
        (one["ts"], one["dur"], one.get("tdur", one["dur"]), PARTS[one["name"]])
        for one in own
        if one["name"] in PARTS and one.get("ph") == "X"
    )
    spans = zip(pairwise(begun), _within(tasks, begun), _within(parts, begun), strict=True)
    return [_frame(start, end, tasks, parts) for (start, end), tasks, parts in spans]


def _frame(start: int, end: int, tasks: list[Any], parts: list[Any]) -> Frame:
    worked = sum(_share(task, start, end) * task[2] for task in tasks) / 1000
    sums: dict[str, float] = defaultdict(float)
    for part in parts:
        sums[part[3]] += _share(part, start, end) * part[2] / 1000
    sums["script"] = max(0.0, worked - sum(sums.values()))
    return Frame(at=start / 1000, took=(end - start) / 1000, worked=worked, parts=sums)


def _of_main_thread(events: list[Event], mark: str) -> list[Event]:
    pid = next(one["pid"] for one in events if one["name"] == mark)
    tid = next(
        one["tid"]
        for one in events
        if one["name"] == "thread_name"
        and one["pid"] == pid
        and one["args"]["name"] == "CrRendererMain"
    )
    return [one for one in events if (one["pid"], one["tid"]) == (pid, tid)]


def _beginnings(events: list[Event]) -> list[int]:
    """When frames began: at the first of the callbacks that a frame calls."""
    called = sorted(one["ts"] for one in events if one["name"] == "FireAnimationFrame")
    begun: list[int] = []
    for at in called:
        if not begun or at - begun[-1] > SAME_FRAME_US:
            begun.append(at)
    return begun


def _within(spans: list[Any], begun: list[int]) -> list[list[Any]]:
    """For each frame the spans that touch it. Both are sorted; a span is short beside a frame."""
    found: dict[int, list[Any]] = defaultdict(list)
    frame = 0
    for span in spans:
        while frame < len(begun) - 1 and begun[frame + 1] <= span[0]:
            frame += 1
        touched = frame
        while touched < len(begun) - 1 and begun[touched] < span[0] + span[1]:
            if begun[touched + 1] > span[0]:
                found[touched].append(span)
            touched += 1
    return [found[number] for number in range(max(0, len(begun) - 1))]


def _share(span: Sequence[Any], start: int, end: int) -> float:
    """How much of the span lies in the frame: 0 to 1."""
    at, took = int(span[0]), max(1, int(span[1]))
    return max(0, min(end, at + took) - max(start, at)) / took
