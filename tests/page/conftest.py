"""A daemon that serves the built page, with models that run, and a browser."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.support import page, rest
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
    running = parts.daemon(tmp_path_factory.mktemp("page"))
    page.give_to(running)
    rest.write_models(running.models)
    with running, running.client:
        running.wait_ready()
        yield running


@pytest.fixture
def tab(chromium: Browser, magid: Running) -> Iterator[Tab]:
    with page.tab(chromium, magid) as opened:
        yield opened
        assert opened.said == []
