"""A daemon that serves the built page, with models that run, and a browser."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.support import library_page, page, rest
from tests.support.hub import ModelHub
from tests.support.page import Tab
from tests.support.rest import Parts
from tests.support.running import Running


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with page.chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def magid(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Five models, of which two run; its files are in tests.support.rest."""
    folder = tmp_path_factory.mktemp("page")
    running = parts.daemon(folder, f"engines_dir: {folder}/engines\n")
    running.environment["MAGI_LIBRARY_PATH"] = str(running.models)
    page.give_to(running)
    rest.write_models(running.models)
    with running, running.client:
        running.wait_ready()
        yield running


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelHub]:
    with library_page.tiny_hub(tmp_path_factory.mktemp("hub")) as hub:
        yield hub


@pytest.fixture(scope="module")
def library(
    parts: Parts, hub: ModelHub, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """It downloads from the hub, and has no model yet."""
    running = library_page.daemon(parts, hub, tmp_path_factory.mktemp("library"))
    with running, running.client:
        running.wait_ready()
        yield running


@pytest.fixture
def tab(chromium: Browser, magid: Running) -> Iterator[Tab]:
    with page.tab(chromium, magid) as opened:
        yield opened
        assert opened.said == []
