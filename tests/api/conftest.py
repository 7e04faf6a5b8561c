"""One daemon for each file of tests."""

from collections.abc import Iterator

import pytest

from tests.support import rest
from tests.support.running import Running


@pytest.fixture(scope="module")
def shared(parts: rest.Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with rest.serving(parts, tmp_path_factory.mktemp("daemon")) as running:
        yield running


@pytest.fixture
def magid(shared: Running) -> Iterator[Running]:
    """The daemon of the file; leaves no override behind."""
    yield shared
    rest.forget_overrides(shared)
