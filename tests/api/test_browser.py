"""Pages in a real browser: one of another site may not read, change or use anything.

Chromium opens a page that tries what pages can try and posts to its own server how each try ended:
under another site's name; under a name that DNS rebinding has led to the daemon; and under one that
allowed_origins has.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import browser, fleets, hostile
from tests.support.attacks import (
    BLIND,
    EVIL,
    LOADED,
    OWN,
    PAGE,
    READ,
    Rebinding,
    attack,
    check,
    state,
)
from tests.support.browser import Site
from tests.support.deadlines import DEADLINE_S
from tests.support.fleets import SMALL
from tests.support.hostile_llama import SCRIPT
from tests.support.rest import Parts
from tests.support.running import Running

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    site = Site(PAGE)
    yield site
    site.close()


@pytest.fixture(scope="module")
def magid(parts: Parts, site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    configuration = f"allowed_origins: ['http://{OWN}:{site.port}']\n"
    folder = tmp_path_factory.mktemp("browser")
    with fleets.fleet(
        parts, folder, fleets.write_small, configuration=configuration, ports=2
    ) as magid:
        (magid.profiles / "other.yaml").write_text("name: Other\nenabled_models: []\n")
        yield magid


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_a_page_of_another_site(magid: Running, site: Site, tmp_path: Path, name: str) -> None:
    before = state(magid)
    found = attack(site, f"http://{EVIL}:{site.port}", f"http://{name}:{magid.port}", tmp_path)
    check(found, {"failed": READ | LOADED, "opaque": BLIND})
    assert state(magid) == before


def test_a_rebound_name(magid: Running, site: Site, tmp_path: Path) -> None:
    """To the browser it is the page's own site: all that it may read is the refusal."""
    before = state(magid)
    rebinding = Rebinding(magid.port, site.port)
    try:
        origin = f"http://rebound.{EVIL}:{magid.port}"
        found = attack(site, origin, origin, tmp_path)
    finally:
        rebinding.close()
    check(found, {"421": READ | BLIND, "failed": LOADED})
    assert state(magid) == before


def test_a_page_that_is_allowed(magid: Running, site: Site, tmp_path: Path) -> None:
    """The same page can do all of it, so that it was not the browser that refused."""
    found = attack(site, f"http://{OWN}:{site.port}", f"http://127.0.0.1:{magid.port}", tmp_path)
    check(found, {"200": READ, "opaque": BLIND, "open": {"events"}, "failed": LOADED - {"events"}})
    magid.wait_for("stop", lambda: magid.servers().get(SMALL, {}).get("pid") is None)
    assert magid.get("/api/models/profiles") == ["test"]
    assert magid.get(f"/api/models/{SMALL}")["tierOverride"] == "powerful"
    assert len(magid.get("/api/requests")["requests"]) == 1


# -- what a server answers -----------------------------------------------------------------------


def shown(url: str, folder: Path) -> str:
    """The page at this address, as the browser has it once all of it has run."""
    done = subprocess.run(
        [*browser.command(folder), "--dump-dom", url],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DEADLINE_S, check=True,
    )  # fmt: skip
    return done.stdout


def test_a_page_of_a_model_server_does_not_run(parts: Parts, tmp_path: Path) -> None:
    """One that was taken over, opened under magid's own address, whatever type it says."""
    page = tmp_path / "page.html"
    page.write_bytes(SCRIPT)
    assert "<title>taken</title>" in shown(page.as_uri(), tmp_path)  # where nobody hinders it
    with hostile.taken_over(parts, tmp_path) as taken:
        for kind in (
            "type text/html", "type text/html; charset=utf-7", "type application/xhtml+xml",
            "type image/svg+xml", "type application/json, text/html", "two types", "no type",
            "a page as application/json", "a page as text/plain",
        ):  # fmt: skip
            passed = kind.startswith(("no", "a page"))
            for path, meant in (("/slots", "document.title"), ("/props", "{}")):
                hostile.wait_sound(taken.magid, hostile.model(0))
                taken.order(path, kind)
                dom = shown(f"{taken.magid.url}{path}?model={hostile.model(0)}", tmp_path)
                taken.forget()
                assert "taken</title>" not in dom, kind
                assert (meant if passed else "cannot finish") in dom, (path, kind)
