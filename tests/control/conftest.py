"""The daemon under test."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.daemons import House


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Three models and a profile of all; no daemon yet, and at the end no task."""
    house = House(tmp_path)
    yield house
    await house.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}
