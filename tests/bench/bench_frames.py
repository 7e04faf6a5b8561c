"""Frames of the page while a daemon with 1,000 models is made to tell of 50 events a second.

Where fewer come than that, a view is marked TOO FEW and the bench fails.

`python -m` this module. Each view is shown beside an empty page of the same browser that works 5 ms
ten times a second: what that one waits for is the machine. A frame over 50 ms is the page's own
where its main thread had the processor for as long. The events are real: decisions about models,
requests, restarts of servers, and scans that find new files; they are counted as a client gets
them.
"""

import json
import platform
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page

from tests.bench.bench_gguf import cpu
from tests.bench.frames import CATEGORIES, LONG_MS, Frame, frames, percentiles
from tests.soak import parts
from tests.support import fleets, ggufs, page
from tests.support.event_load import EventLoad, Pace
from tests.support.fleets import SMALL
from tests.support.page import Tab
from tests.support.running import Running

MODELS = 1000
RESTARTED = 4  # models whose servers are restarted again and again
SECONDS = 15.0
SETTLE_S = 3.0
WANTED = 50.0  # events a second
MARK = "measured-page"
WORKS_MS = 5.0  # so long the page beside works, ten times a second: who works can be interrupted
RECORD = """([mark, works]) => {
  const found = (window.measured = { gaps: [], long: [] });
  let last = performance.now();
  const next = (now) => {
    found.gaps.push(now - last);
    last = now;
    requestAnimationFrame(next);
  };
  requestAnimationFrame(next);
  new PerformanceObserver((list) => {
    for (const { duration } of list.getEntries()) found.long.push(duration);
  }).observe({ type: "longtask" });
  performance.mark(mark);
  if (works) setInterval(() => {
    const end = performance.now() + works;
    while (performance.now() < end);
  }, 100);
}"""
FIGURES = "() => { const found = window.measured; found.gaps.shift(); return found; }"


def restarted_ids() -> list[str]:
    return [f"restarted{number}_0p0b_f16_balanced" for number in range(RESTARTED)]


def write_models(models: Path) -> None:
    """One that stays, some that are restarted, and many that are known by their headers."""
    fleets.write_small(models)
    for number in range(RESTARTED):
        ggufs.write_chat_model(
            models / f"Restarted{number}-F16.gguf", name=f"Restarted{number}", quantization="F16"
        )
    for number in range(MODELS - RESTARTED - len(list(models.iterdir()))):
        ggufs.write_sparse_model(
            models / f"More-{number:04}-4B-Q4_K_M.gguf", parameters_billions=4.0
        )


# -- what is shown -------------------------------------------------------------------------------


def still(tab: Tab) -> None:
    tab.page.wait_for_timeout(SECONDS * 1000)


def scrolled(tab: Tab) -> None:
    """Down and up again, a screen in a second."""
    end = time.monotonic() + SECONDS
    step = 40
    tab.page.mouse.move(700, 500)
    while time.monotonic() < end:
        for _ in range(40):
            tab.page.mouse.wheel(0, step)
            tab.page.wait_for_timeout(25)
        step = -step if tab.page.evaluate("scrollY > 8000 || scrollY < 10") else step


def switched(tab: Tab) -> None:
    """From one view to the next, as quickly as a person clicks."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        for name in ("Overview", "Models", "Activity", "Logs", "System", "Profiles"):
            tab.page.get_by_role("navigation").get_by_role("link", name=name).click()
            tab.page.wait_for_timeout(700)


def log_of_model(tab: Tab) -> None:
    tab.page.get_by_label("Log of", exact=True).select_option(SMALL)
    tab.page.wait_for_selector(".lines div")


SCENES: dict[str, tuple[str, Callable[[Tab], None], Callable[[Tab], None]]] = {
    # name -> view, what is done before, what is done meanwhile
    "overview": ("overview", lambda _: None, still),
    "models": ("models", lambda _: None, still),
    "models, scrolled": ("models", lambda _: None, scrolled),
    "a model": (f"models/{SMALL}", lambda _: None, still),
    "activity": ("activity", lambda _: None, still),
    "logs": ("logs", lambda _: None, still),
    "log of a model": ("logs", log_of_model, still),
    "views switched": ("overview", lambda _: None, switched),
}


# -- measuring -----------------------------------------------------------------------------------


@contextmanager
def traced(browser: Browser, tab: Page, path: Path) -> Iterator[list[dict[str, Any]]]:
    """The events of the trace, there behind the block."""
    events: list[dict[str, Any]] = []
    browser.start_tracing(page=tab, path=path, categories=list(CATEGORIES))
    try:
        yield events
    finally:
        browser.stop_tracing()
    events += json.loads(path.read_bytes())["traceEvents"]


def measure(browser: Browser, magid: Running, load: EventLoad, scene: str, folder: Path) -> bool:
    """Prints the figures of a scene; whether enough events came and no frame was too long."""
    view, before, meanwhile = SCENES[scene]
    with page.tab(browser, magid) as tab, page.tab(browser, magid) as empty:
        empty.page.goto("about:blank")
        tab.open(view)
        tab.sees("Live", "header")
        before(tab)
        tab.page.wait_for_timeout(SETTLE_S * 1000)  # its first frames are of "views switched"
        counted, began = Counter(load.counts), time.monotonic()
        with traced(browser, tab.page, folder / "trace.json") as events:
            empty.page.evaluate(RECORD, ["empty-page", WORKS_MS])
            tab.page.evaluate(RECORD, [MARK, 0])
            meanwhile(tab)
            beside = empty.page.evaluate(FIGURES)
            own = tab.page.evaluate(FIGURES)
        seconds = time.monotonic() - began
        assert tab.said == [], tab.said
    rate = sum((load.counts - counted).values()) / seconds
    is_met = report(scene, rate, frames(events, MARK), own, beside)
    return is_met and rate >= WANTED


def report(
    scene: str, rate: float, found: list[Frame], own: dict[str, Any], beside: dict[str, Any]
) -> bool:
    """Whether no frame was too long because of the page."""
    late = [frame for frame in found if frame.took > LONG_MS]
    due = [frame for frame in found if frame.worked > LONG_MS]
    total = sum(frame.worked for frame in found)
    worst = max(found, key=lambda frame: frame.worked)
    waited = sum(gap > LONG_MS for gap in beside["gaps"])
    print(
        f"{scene:17} {rate:3.0f} events/s {'' if rate >= WANTED else '(TOO FEW)'}\n"
        f"  frames    {percentiles(own['gaps'])} ms (median, p99, worst of {len(own['gaps'])}), "
        f"over {LONG_MS:g} ms {len(late)}; long tasks {len(own['long'])}\n"
        f"  beside    {percentiles(beside['gaps'])} ms, over {LONG_MS:g} ms {waited}\n"
        f"  own work  {percentiles(frame.worked for frame in found)} ms a frame, "
        f"{total / max(1, sum(f.took for f in found)):.0%} of a processor: {shares(found)}; "
        f"the worst one: {shares([worst])}\n"
        f"  over {LONG_MS:g} ms because of the page: {len(due)} "
        f"({'met' if not due else 'MISSED'})",
        flush=True,
    )
    return not due


def with_page(models: Path) -> None:
    """The models, and the built page where the daemon of this folder looks for it."""
    (models.parent / "page").symlink_to(page.build())
    write_models(models)


def shares(of: list[Frame]) -> str:
    """For what the main thread had the processor."""
    sums = Counter[str]()
    for frame in of:
        sums.update(frame.parts)
    total = max(1e-9, sum(sums.values()))
    return ", ".join(f"{name} {ms / total:.0%}" for name, ms in sums.most_common())


def main() -> int:
    """The number of scenes that missed; one more where a request had an answer of another kind."""
    scenes = sys.argv[1:] or list(SCENES)
    print(f"machine: {cpu()}, Python {platform.python_version()}")
    profile = "name: Bench\nenabled_models: ['small*', 'restarted*']\n"
    with (
        tempfile.TemporaryDirectory(prefix="magid-bench-") as name,
        page.chromium() as browser,
        fleets.fleet(parts.parts(), Path(name) / "magid", with_page, profile=profile,
                     defaults="{n_threads: 1, parallel: 2, ctx_size: 512}") as magid,
    ):  # fmt: skip
        ids = sorted(magid.get("/api/models/registry")["models"])
        decided = ids[:60] + ids[60::20]  # half of them on the first screen of the list
        with EventLoad(
            magid, decided=decided, restarted=restarted_ids(), asked=SMALL, pace=Pace()
        ) as load:
            missed = sum(not measure(browser, magid, load, one, Path(name)) for one in scenes)
        print(dict(load.counts), *load.failures[:5], sep="\n")
    return missed + bool(load.failures)


if __name__ == "__main__":
    sys.exit(main())
