"""Clients in JavaScript, unmodified, through the gateway to real llama-servers.

The Vercel AI SDK runs in Node; the SDKs of OpenAI and Anthropic in Chromium, in a page of another
origin, which allowed_origins has. Behind each program of docs/clients.md comes one of javascript/.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import browser, fleets, ggufs, npm, programs
from tests.support.browser import Site
from tests.support.deadlines import DEADLINE_S
from tests.support.fleets import CALLER, SMALL, THINKER, VECTORS
from tests.support.rest import Parts
from tests.support.running import Running

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent / "javascript"
PAGE = b"<!doctype html><meta charset=utf-8><script type=module src=/page.js></script>"
OWN = "chat.example"
FEW = "I am a tiny"


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    site = Site(PAGE)
    yield site
    site.close()


@pytest.fixture(scope="module")
def modules() -> Path:
    return npm.installed(HERE)


@pytest.fixture(scope="module")
def magid(parts: Parts, site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder, write = tmp_path_factory.mktemp("javascript"), fleets.write_with_caller
    allowed = f"allowed_origins: ['http://{OWN}:{site.port}']\n"
    with fleets.fleet(parts, folder, write, configuration=allowed) as running:
        running.ask("PUT", f"/api/models/{CALLER}/tier", {"tier": "powerful"})  # not for `auto`
        yield running


def written(folder: Path, modules: Path, text: str) -> Path:
    """The program, where it finds its packages."""
    (folder / "node_modules").symlink_to(modules)
    path = folder / "program.mjs"
    path.write_text(text)
    return path


# -- Node ----------------------------------------------------------------------------------------


def test_the_vercel_ai_sdk(magid: Running, modules: Path, tmp_path: Path) -> None:
    program = written(tmp_path, modules, (HERE / "vercel.mjs").read_text())
    models = {"SMALL": SMALL, "CALLER": CALLER, "THINKER": THINKER, "VECTORS": VECTORS}
    answers = json.loads(programs.output(["node", program], tmp_path, {"URL": magid.url, **models}))
    thought = ggufs.THINKING_ANSWER.rpartition("\n")[2]
    for name in ("compatible", "anthropic"):
        status, message = answers[name].pop("error")
        assert (status, message[:26]) == (404, "cannot find model 'gone'; ")
        assert answers[name] == {
            "streamed": [FEW, 4, "length"],
            "calls": ["b"] * 4,
            "turns": [ggufs.ANSWER] * 2,
            "thoughts": [thought] * 2,
        }, name
    assert answers["vectors"] == [64, 64]


def test_its_program_in_the_document(magid: Running, modules: Path, tmp_path: Path) -> None:
    program = programs.snippet("js", "@ai-sdk/anthropic", magid.url)
    said = programs.output(["node", written(tmp_path, modules, program)], tmp_path)
    assert said == f"{ggufs.ANSWER}{ggufs.ANSWER}\n"


# -- a browser -----------------------------------------------------------------------------------


def bundled(magid: Running, modules: Path, folder: Path) -> bytes:
    documented = programs.snippet("js", "dangerouslyAllowBrowser", magid.url)
    text = f"{documented}\n{(HERE / 'page.mjs').read_text()}"
    command: list[str | Path] = [
        modules / ".bin/esbuild",
        written(folder, modules, text),
        "--bundle",
    ]
    bundle = programs.output([*command, "--format=esm", "--log-level=error"], folder)
    return bundle.encode()


def found_by_a_page(site: Site, folder: Path) -> Any:
    url = f"http://{OWN}:{site.port}/?small={SMALL}&caller={CALLER}"
    with browser.browser(url, folder, {OWN: "127.0.0.1"}):
        return site.found.get(timeout=DEADLINE_S)


def test_the_sdks_in_a_page(magid: Running, site: Site, modules: Path, tmp_path: Path) -> None:
    site.script = bundled(magid, modules, tmp_path)
    assert found_by_a_page(site, tmp_path) == {
        "chat": FEW,
        "calls": ['{"a": "b"}'],
        "responses": ggufs.ANSWER,
        "messages": FEW,
        "uses": [{"a": "b"}],
        "errors": [[True, 404, True]] * 2,
        "listed": True,
    }


def test_the_lock_names_exact_versions_and_no_host() -> None:
    npm.check_lock(HERE)
