"""How soon the page shows something, on loopback, in Chromium: `python -m` this module.

Each round has a browser without a cache, which has everything to load; with 5 models, two of
which run, and with 1,000. First paint is the browser's own figure, from the navigation on; `shown`
is when the first view has what magid sends. The bytes are those that went over the connection.
"""

import platform
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from playwright.sync_api import Browser

from tests.bench.bench_gguf import cpu
from tests.soak import parts
from tests.support import ggufs, page, rest
from tests.support.running import Running

ROUNDS = 15
TARGET_MS = 1000
MANY = 1000
FIGURES = """() => {
  const [paint] = performance.getEntriesByName("first-contentful-paint");
  const loaded = [...performance.getEntriesByType("navigation"),
    ...performance.getEntriesByType("resource")];
  return {
    paint: paint?.startTime, shown: performance.now(),
    bytes: loaded.reduce((sum, one) => sum + one.encodedBodySize, 0),
  };
}"""


def measure(browser: Browser, magid: Running) -> dict[str, float]:
    """One visit."""
    with page.tab(browser, magid) as tab:
        tab.open("overview")
        tab.waits_until("performance.getEntriesByName('first-contentful-paint').length > 0")
        found: dict[str, Any] = tab.page.evaluate(FIGURES)
        return found


def report(browser: Browser, magid: Running, what: str) -> None:
    rounds = [measure(browser, magid) for _ in range(ROUNDS)]
    paint, shown, size = (median(one[key] for one in rounds) for key in ("paint", "shown", "bytes"))
    worst = max(one["paint"] for one in rounds)
    met = "met" if paint <= TARGET_MS else "MISSED"
    print(
        f"{what:12} first paint {paint:5.0f} ms (worst {worst:.0f}), shown {shown:5.0f} ms, "
        f"{size / 1024:.0f} KiB loaded (target {TARGET_MS} ms: {met})"
    )


def main() -> None:
    print(f"machine: {cpu()}, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory(prefix="magid-bench-") as folder, page.chromium() as browser:
        for what, many in (("5 models", 0), (f"{MANY} models", MANY)):
            magid = parts.parts().daemon(Path(folder) / what.replace(" ", "-"))
            page.give_to(magid)
            rest.write_models(magid.models)
            for number in range(many - 5):
                ggufs.write_sparse_model(
                    magid.models / f"More-{number:04}-4B-Q4_K_M.gguf", parameters_billions=4.0
                )
            with magid, magid.client:
                magid.wait_ready()
                report(browser, magid, what)


if __name__ == "__main__":
    main()
