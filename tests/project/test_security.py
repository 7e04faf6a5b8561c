"""SECURITY.md: each promise and each attack names tests, and there are such tests."""

import re
from pathlib import Path

import pytest

from tests.soak.bodies import BODIES

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "SECURITY.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in TEXT.splitlines()
    if line.startswith("| ") and not line.startswith(("| Promise", "| Attack", "| ---"))
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_a_promise_names_what_holds_it(row: list[str]) -> None:
    promise, held_by, *figures = row
    assert promise
    assert all(figures)
    named = re.findall(r"`(tests/[^`]+)`", held_by)
    assert named, f"no test holds: {promise}"
    for name in named:
        path, _, function = name.partition("::")
        assert (ROOT / path).exists(), path
        assert not function or f"def {function}(" in (ROOT / path).read_text(), name


def test_every_kind_of_body_has_been_measured() -> None:
    """A new one is to be measured (`python -m tests.bench.bench_bodies`) before it is counted."""
    assert re.findall(r"([0-9]+) kinds of bodies", TEXT) == [str(len(BODIES))]
