"""Ten pages open in one Chromium while the daemon works: nothing may grow.

All tabs share one stream of events, and change their views in turn. What counts is the JavaScript
heap of pages and worker after a collection of garbage, what the documents hold, and the daemon's
memory, all of it after the warm-up: a run of less than twice that judges no growth, and says so.
`python -m tests.soak.pages SECONDS SEED FOLDER`.
"""

import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import Browser, CDPSession, Page

from tests.soak.crowds import pid_of
from tests.soak.figures import Figures, growth
from tests.soak.parts import parts
from tests.support import fleets, ggufs, page
from tests.support.deadlines import DEADLINE_S
from tests.support.event_load import EventLoad, Pace
from tests.support.fleets import MEDIUM, SMALL
from tests.support.page import Tab
from tests.support.rest import Parts
from tests.support.running import Running

MODELS = 300
VIEWS = (
    "overview", "models", f"models/{SMALL}", "profiles", "chat", "activity", "system", "logs",
    "overview", "models",
)  # fmt: skip
SAMPLES = 90  # in a run, evenly; the shortest step is MOST_OFTEN_S
MOST_OFTEN_S = 1.0
LEAST = 9  # samples, however slow the machine: from fewer nothing follows
# In it all becomes as large as it may: the counts of ten minutes that each page keeps, the last
# 1,200 requests and 2,000 lines of a log, in pages and daemon, and the bytecode of all views.
WARM_UP_S = 600.0
QUARTERS = 4  # of a run, for the figures
# V8 goes on compiling what runs again and again, and the heap has its machine code: 5 MiB more in
# ten pages after half an hour. Without its compilers there is what the pages keep.
NO_COMPILERS = "--js-flags=--no-opt --no-maglev --no-sparkplug"
PACE = Pace(decisions=4.0, requests=4.0, restarts=0.2, scans=0.02)
PROFILE = "name: Soak\nenabled_models: ['small*', 'medium*']\n"
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Most:
    """By how much each figure may have grown over what is judged: what noise a flat one has."""

    heap: float = 2.0  # MiB of JavaScript, of all pages and the worker
    nodes: float = 1_000.0  # of all documents
    listeners: float = 200.0
    daemon: float = 6.0  # MiB
    descriptors: float = 3.0  # of the daemon


Samples = list[tuple[float, dict[str, float]]]  # moments in seconds, and their figures
FIGURES = tuple(Most.__dataclass_fields__)


def write_models(models: Path) -> None:
    (models.parent / "page").symlink_to(page.build())
    fleets.write_small(models)
    ggufs.write_chat_model(models / "Medium-F16.gguf", name="Medium", quantization="F16")
    for number in range(MODELS - 2):
        ggufs.write_sparse_model(
            models / f"More-{number:04}-4B-Q4_K_M.gguf", parameters_billions=4.0
        )


class Probe:
    """Reads the figures of pages and daemon."""

    def __init__(self, tabs: list[Tab], magid: Running) -> None:
        self._daemon = psutil.Process(pid_of(magid))
        self._sessions = [tab.page.context.new_cdp_session(tab.page) for tab in tabs]
        self._worker = WorkerProbe(tabs[0].page)

    def read(self) -> dict[str, float]:
        """Collects garbage first, twice: what a finalizer frees goes with the second one."""
        found = dict.fromkeys(FIGURES, 0.0)
        for session in self._sessions:
            for _ in range(2):
                session.send("HeapProfiler.collectGarbage")
            counters = session.send("Memory.getDOMCounters")
            found["heap"] += session.send("Runtime.getHeapUsage")["usedSize"] / MIB
            found["nodes"] += counters["nodes"]
            found["listeners"] += counters["jsEventListeners"]
        found["heap"] += self._worker.heap_bytes() / MIB
        found["daemon"] = self._daemon.memory_info().rss / MIB
        found["descriptors"] = self._daemon.num_fds()
        return found


class WorkerProbe:
    """The shared worker's heap. Playwright knows no shared workers, so its messages are wrapped."""

    def __init__(self, of: Page) -> None:
        assert of.context.browser is not None
        self._session: CDPSession = of.context.browser.new_browser_cdp_session()
        targets = self._session.send("Target.getTargets")["targetInfos"]
        (worker,) = [one["targetId"] for one in targets if one["type"] == "shared_worker"]
        attached = self._session.send("Target.attachToTarget", {"targetId": worker})
        self._id: str = attached["sessionId"]
        self._page = of
        self._last = 0  # the number of the last message
        self._answers: dict[int, Any] = {}
        self._session.on("Target.receivedMessageFromTarget", self._take)

    def heap_bytes(self) -> float:
        self._send("HeapProfiler.collectGarbage")
        return float(self._send("Runtime.getHeapUsage")["usedSize"])

    def _send(self, method: str) -> Any:
        """Its result."""
        self._last += 1
        message = json.dumps({"id": self._last, "method": method})
        self._session.send(
            "Target.sendMessageToTarget", {"sessionId": self._id, "message": message}
        )
        deadline = time.monotonic() + DEADLINE_S
        while self._last not in self._answers:
            assert time.monotonic() < deadline, f"the worker does not answer {method}"
            self._page.wait_for_timeout(page.POLL_MS)
        return self._answers.pop(self._last)

    def _take(self, event: dict[str, Any]) -> None:
        message = json.loads(event["message"])
        if "id" in message:
            self._answers[message["id"]] = message["result"]


@contextmanager
def tabs(browser: Browser, magid: Running) -> Iterator[list[Tab]]:
    """One for each of VIEWS, in one context: they share what a browser's tabs share."""
    context = browser.new_context()
    try:
        yield [Tab(context.new_page(), magid.url).open(view) for view in VIEWS]
    finally:
        context.close()


def turn(opened: list[Tab], number: int) -> None:
    """Each tab shows another view. All views are shown at any time, so that samples compare."""
    for index, tab in enumerate(opened):
        tab.open(VIEWS[(index + number) % len(VIEWS)])


def watch(opened: list[Tab], probe: Probe, seconds: float, leak_kib: int) -> Samples:
    """Samples of all figures, with their moments in seconds."""
    began = time.monotonic()
    step = max(MOST_OFTEN_S, seconds / SAMPLES)
    samples: Samples = []
    while (past := time.monotonic() - began) < seconds or len(samples) < LEAST:
        turn(opened, len(samples))
        opened[0].page.evaluate(LEAK, leak_kib)
        samples.append((past, probe.read()))
        print(json.dumps([round(past), samples[-1][1]]), file=sys.stderr, flush=True)
        next_at = began + step * len(samples)
        opened[0].page.wait_for_timeout(max(0.0, next_at - time.monotonic()) * 1000)
    return samples


LEAK = "(kib) => kib && (window.kept ??= []).push(new Array(kib * 128).fill(Math.random()))"


def judge(samples: Samples, most: Most, figures: Figures) -> None:
    """What has grown after the warm-up is a failure; all figures are told."""
    settled = [sample for sample in samples if sample[0] >= WARM_UP_S]
    is_judged = samples[-1][0] >= 2 * WARM_UP_S
    for name in FIGURES:
        told = " ".join(f"{mean:.1f}" for mean in quarters(samples, name))
        if is_judged:
            found = growth([(at, values[name]) for at, values in settled])
            limit = getattr(most, name)
            figures.check(not found.exceeds(limit), f"{name} grew by {found}, allowed: {limit:g}")
            told += f" ({found})"
        figures.more[name] = told
    if not is_judged:
        figures.more["growth"] = f"not judged: {WARM_UP_S:g} s are warm-up"


def quarters(samples: Samples, name: str) -> list[float]:
    """The mean of one figure in each quarter of the time that has a sample."""
    length = samples[-1][0] / QUARTERS
    parts: dict[int, list[float]] = {}
    for at, values in samples:
        part = min(QUARTERS - 1, int(at / length)) if length else 0
        parts.setdefault(part, []).append(values[name])
    return [sum(part) / len(part) for part in parts.values()]


def listeners(magid: Running) -> int:
    """Clients of /api/events."""
    found = re.search(r"^magi_events_listeners (\d+)", magid.client.get("/metrics").text, re.M)
    assert found
    return int(found[1])


def check_alive(opened: list[Tab], magid: Running, figures: Figures) -> None:
    """The pages still follow, and none has said anything wrong."""
    for tab in opened:
        figures.check(tab.said == [], f"a page says {tab.said[:3]}")
        tab.open("overview")
    magid.ask("POST", f"/api/models/servers/{MEDIUM}/stop")
    for tab in opened:
        tab.sees("1 server ready")


def run(
    seconds: float,
    seed: int,
    folder: Path,
    given: Parts | None = None,
    *,
    most: Most | None = None,
    leak_kib: int = 0,
) -> Figures:
    """`leak_kib`: what one page is made to keep with each sample, to see the judge find it."""
    figures = Figures(f"{len(VIEWS)} pages", seed)
    with (
        fleets.fleet(given or parts(), folder / "magid", write_models, profile=PROFILE) as magid,
        page.chromium(NO_COMPILERS) as browser,
        tabs(browser, magid) as opened,
    ):
        probe = Probe(opened, magid)
        with EventLoad(
            magid, decided=sorted(magid.get("/api/models/registry")["models"]),
            restarted=[MEDIUM], asked=SMALL, pace=PACE, seed=seed,
        ) as load:  # fmt: skip
            listeners(magid)  # loads what a scrape needs, before memory is watched
            samples = watch(opened, probe, seconds, leak_kib)
            figures.rounds = len(samples)
            figures.more["events"] = dict(load.counts)
            judge(samples, most or Most(), figures)
            held = listeners(magid)
            figures.check(held == 2, f"{held} streams, not one of all tabs and one of the load's")
        check_alive(opened, magid, figures)
        figures.failures += load.failures
    return figures


if __name__ == "__main__":
    done = run(float(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
    print(done.line())
    sys.exit(bool(done.failures))
