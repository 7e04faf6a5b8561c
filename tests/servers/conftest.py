"""The world of tests with systemd."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from tests.support.private_bus import private_bus
from tests.support.systemd_world import World, a_world


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    with private_bus(tmp_path) as address:
        yield address


@pytest.fixture
async def world(tmp_path: Path, address: str, free_port: Callable[[], int]) -> AsyncIterator[World]:
    async with a_world(tmp_path, address, free_port) as world:
        yield world
