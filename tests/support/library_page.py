"""The page's library: a daemon that downloads from a hub on loopback, and what the view shows."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator

from tests.support import ggufs, page, token_daemons
from tests.support.hub import HubFault, HubRepository, ModelHub, running_hub
from tests.support.page import Tab
from tests.support.rest import Parts
from tests.support.running import Running

DOWNLOADS = "/api/library/downloads"
TINY = "org/Tiny-GGUF"
WEIGHTS = bytes(range(256)) * 16_000  # 3.9 MiB
HUGE_BYTES = 1 << 50  # no disk has room for it
QUARTER = len(WEIGHTS) // 4
_RETRIES = 100  # more than a test takes: a download tries again after 30 s without a byte


@contextmanager
def tiny_hub(folder: Path) -> Iterator[ModelHub]:
    """One repository with a model that runs, one of random weights, and a huge one; one of text."""
    model = ggufs.write_chat_model(folder / "tiny-Q8_0.gguf", name="Tiny").read_bytes()
    files: dict[str, bytes | Path] = {
        "tiny-Q8_0.gguf": model,
        "tiny-F16.gguf": WEIGHTS,
        "tiny-F32.gguf": b"",
    }
    tiny = HubRepository(
        files, oids={"tiny-F32.gguf": "0" * 64}, sizes={"tiny-F32.gguf": HUGE_BYTES}
    )
    repositories = {TINY: tiny, "org/Text": HubRepository({"README.md": b"x"})}
    with running_hub(repositories) as hub:
        yield hub


def daemon(parts: Parts, hub: ModelHub, folder: Path, *, with_tokens: bool = False) -> Running:
    """Not started; it serves the page, and no model is enabled."""
    settings = f"downloads: {{endpoint: '{hub.url}', reserve: 0}}\n"
    made = token_daemons.with_tokens if with_tokens else Parts.daemon
    running = made(parts, folder, settings)
    running.environment["MAGI_LIBRARY_PATH"] = str(running.models)
    page.give_to(running)
    (running.profiles / "test.yaml").write_text("name: Test\nenabled_models: []\n")
    return running


def empty(magid: Running, hub: ModelHub) -> None:
    """No download, no file, no fault."""
    hub.faults.clear()
    hub.speed = lambda count: None
    for one in magid.get(DOWNLOADS)["downloads"]:
        magid.ask("DELETE", f"{DOWNLOADS}/{one['id']}")
    for path in magid.models.rglob("*"):
        if path.is_file():
            path.unlink()
    magid.ask("POST", "/api/models/rescan")


def hold(hub: ModelHub, after: int = QUARTER) -> None:
    """From here on the hub sends so many bytes, and then nothing."""
    hub.faults.clear()
    hub.faults += [HubFault("stall", after), *[HubFault("stall", 0)] * _RETRIES]


def held(magid: Running, hub: ModelHub, after: int = QUARTER) -> str:
    """The id of a download that stands still after so many bytes."""
    hold(hub, after)
    job_id = pull(magid, f"{TINY}:F16")
    magid.wait_for("bytes", lambda: download(magid, job_id)["doneBytes"] >= after)
    return job_id


def pull(magid: Running, source: str) -> str:
    return str(magid.ask("POST", DOWNLOADS, {"source": source}, status=202)["id"])


def pulled(magid: Running, source: str) -> None:
    """Returns when it is done."""
    job_id = pull(magid, source)
    magid.wait_for("the end", lambda: download(magid, job_id)["state"] == "done")


def download(magid: Running, job_id: str) -> Any:
    return magid.get(f"{DOWNLOADS}/{job_id}")


def write_eyes(magid: Running) -> dict[str, str]:
    """Two models that share a projector: quantization -> id."""
    folder = magid.models / "org/Eye"
    for quantization in ("Q4_0", "Q8_0"):
        ggufs.write_chat_model(folder / f"Eye-{quantization}.gguf", quantization=quantization)
    ggufs.write_mmproj(folder / "mmproj-Eye.gguf")
    magid.ask("POST", "/api/models/rescan")
    rows = magid.get("/api/models/registry")["models"]
    return {row["quantization"]: i for i, row in rows.items()}


# -- the view ------------------------------------------------------------------------------------


def cards(tab: Tab) -> Locator:
    """Downloads that are not done."""
    return tab.page.locator(".downloads li")


def finished(tab: Tab) -> Locator:
    table = tab.page.get_by_role("table", name="Finished downloads", exact=True)
    return table.locator("tbody tr")


def on_disk(tab: Tab) -> Locator:
    return tab.page.get_by_role("table", name="Models on the disk").locator("tbody tr")


def variants(tab: Tab, source: str = TINY) -> Locator:
    """Asks for them; returns their rows."""
    tab.page.get_by_role("textbox", name="Repository").fill(source)
    tab.page.get_by_role("button", name="Show variants").click()
    return tab.page.get_by_role("table", name="Variants").locator("tbody tr")


def press(tab: Tab, name: str, within: Locator | None = None) -> None:
    (within or tab.page.get_by_role("main")).get_by_role("button", name=name).click()
