"""The folder of the tests."""

from pathlib import Path

import pytest

from tests.support.launcher_house import House


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)
