"""The daemon under test."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from magid.control.executor import PlanExecutor
from tests.support.daemons import House
from tests.support.plans import StillMachine
from tests.support.recording_backend import Nowhere, StillLauncher


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Three models and a profile of all; no daemon yet, and at the end no task."""
    house = House(tmp_path)
    yield house
    await house.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.fixture
def machine() -> StillMachine:
    return StillMachine()


@pytest.fixture
def launcher() -> StillLauncher:
    return StillLauncher()


@pytest.fixture
async def runner(launcher: StillLauncher, machine: StillMachine) -> AsyncIterator[PlanExecutor]:
    """A runner that leaves no task behind."""
    runner = PlanExecutor(launcher, machine, Nowhere())
    yield runner
    await runner.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert launcher.listeners == 0
