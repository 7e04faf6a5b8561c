"""Makes the pictures of docs/page.md: `python -m tests.page.pictures` (`make page-pictures`).

A daemon with real llama-servers on two fake GPUs, in Chromium. Paths and ports are the same each
time; what differs (times of day, memory of the machine) makes no difference to what they show.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, expect

from tests import conftest
from tests.support import ggufs, gpus, page
from tests.support.hub import HubRepository, running_hub
from tests.support.library_page import DOWNLOADS
from tests.support.rest import Parts
from tests.support.running import ROOT, Running

IMAGES = ROOT / "docs/images"
MOST_BYTES = 200 * 1024
SIZES = ((24_576, 900), (8_192, 300))  # MiB: of each GPU, and what others use of it
ANSWER = "Systemd manages units: services, sockets, timers, mounts; each has one file."
REPOSITORY = "Qwen/Qwen3-8B-GGUF"
QUANTIZATIONS = {"Q2_K": 3130, "Q4_K_M": 4795, "Q6_K": 6415, "Q8_0": 8307, "F16": 15623}  # MiB
PACE = 40e6  # bytes a second, of the hub
FOLDER = Path(tempfile.gettempdir()) / "gpu1"  # as it is read in the pictures
PROFILES = {
    "daytime": "name: Daytime\ndescription: Small models\nenabled_models: ['*demo*']\n",
    "night": "name: Night\ndescription: One large model\nenabled_models: [tier:powerful]\n",
}
FILES = {  # name of the model -> its quantization
    "Gemma-3-Demo": "F16",
    "Mistral-Small-Demo": "Q8_0",
    "Qwen3-Coder-Demo": "Q4_0",
}


def write_models(models: Path) -> None:
    for name, quantization in FILES.items():
        path = models / f"{name}-{quantization}.gguf"
        ggufs.write_chat_model(
            path, name=name.replace("-", " "), quantization=quantization, answer=ANSWER
        )
    ggufs.write_sparse_model(models / "DeepSeek-R1-8B-Q4_K_M.gguf", parameters_billions=8)
    ggufs.write_sparse_model(models / "Llama-3.3-70B-Q4_K_M.gguf", parameters_billions=70)


def write_repository(folder: Path) -> HubRepository:
    """As large as such models are; the files are holes."""
    folder.mkdir()
    files: dict[str, bytes | Path] = {}
    for quantization, mib in QUANTIZATIONS.items():
        path = folder / f"Qwen3-8B-{quantization}.gguf"
        path.touch()
        os.truncate(path, mib << 20)
        files[path.name] = path
    return HubRepository(files, oids={name: f"{i:064x}" for i, name in enumerate(files)})


def library(tab: Page, magid: Running) -> None:
    """A download under way, and the variants of its repository."""
    started = magid.ask("POST", DOWNLOADS, {"source": f"{REPOSITORY}:Q4_K_M"})
    tab.goto(f"{magid.url}/#/library")
    tab.get_by_role("textbox", name="Repository").fill(REPOSITORY)
    tab.get_by_role("button", name="Show variants").click()
    tab.wait_for_selector("text=left")
    save(tab, "library")
    magid.ask("DELETE", f"{DOWNLOADS}/{started['id']}")


def take(tab: Page, view: str, there: str, url: str) -> None:
    tab.goto("about:blank")
    tab.goto(f"{url}/#/{view}")
    tab.wait_for_selector(there)
    save(tab, view.partition("/")[0] if view.count("/") == 0 else "model")


def save(tab: Page, name: str) -> None:
    path = IMAGES / f"{name}.png"
    tab.screenshot(path=path)
    assert path.stat().st_size < MOST_BYTES, path
    print(path.relative_to(ROOT), path.stat().st_size // 1024, "KiB")  # noqa: T201


def use(magid: Running) -> None:
    """Some requests, for the figures."""
    for text in ("Hello", "What is a unit?", "Prove that there are infinitely many primes"):
        body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
        magid.client.post("/v1/chat/completions", json=body).raise_for_status()


def all_of(tab: Page, magid: Running) -> None:
    first = next(iter(magid.servers()))
    tab.goto(f"{magid.url}/#/overview")
    tab.wait_for_selector("text=servers ready")
    tab.wait_for_selector(".line path[d*='L']", state="attached")
    use(magid)
    expect(tab.locator(".figure-card .value").nth(2)).to_have_text("3")
    tab.wait_for_timeout(1500)  # the lines are drawn once a second
    save(tab, "overview")
    take(tab, "models", "td.col-name", magid.url)
    take(tab, f"models/{first}", ".scroll td", magid.url)
    library(tab, magid)
    take(tab, "profiles", "td .state", magid.url)
    tab.goto(f"{magid.url}/#/chat")
    tab.get_by_label("Message").fill("What is a unit?")
    tab.get_by_role("button", name="Send").click()
    tab.wait_for_selector("text=a second")
    save(tab, "chat")
    take(tab, "activity", "td.col-model", magid.url)
    take(tab, "system", "#tokens", magid.url)


@contextmanager
def folder() -> Iterator[Path]:
    FOLDER.mkdir()
    try:
        yield FOLDER
    finally:
        shutil.rmtree(FOLDER)


def port(usual: int, count: int = 1) -> int:
    """The first of so many ports: the usual ones, or others where those are taken."""
    is_free = all(map(conftest._is_free, range(usual, usual + count)))
    return usual if is_free else conftest._free_range(count)


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    program = conftest._provisioned("--rpc")
    with (
        folder() as place,
        gpus.fake_gpus(program, place, SIZES) as fake,
        running_hub({REPOSITORY: write_repository(place / "hub")}) as hub,
    ):
        hub.speed = lambda count: time.sleep(count / PACE)
        parts = Parts(fake.llama_server, lambda: port(8000), lambda count: port(8080, count))
        settings = f"downloads: {{endpoint: '{hub.url}', reserve: 0}}\n"
        magid = parts.daemon(place / "magid", settings)
        magid.environment["MAGI_LIBRARY_PATH"] = str(magid.models)
        page.give_to(magid)
        write_models(magid.models)
        magid.environment["MAGI_PROFILE"] = "daytime"
        (magid.profiles / "test.yaml").unlink()
        for name, text in PROFILES.items():
            (magid.profiles / f"{name}.yaml").write_text(text)
        with magid, magid.client, page.chromium() as browser:
            magid.wait_ready()
            time.sleep(3)  # the list of GPUs after the last start
            tab = browser.new_page(viewport={"width": 1280, "height": 880})
            all_of(tab, magid)


if __name__ == "__main__":
    main()
