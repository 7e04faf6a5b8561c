"""What is read from the output of `predict_memory.py`, which a hostile program may write."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magid.gpus.memory_report import Report, problem_in, report_in

TABLES = Path(__file__).parent / "tables"


def report(why: str, status: int, *lines: str) -> Report:
    found = report_in(json.dumps({"why": why, "status": status, "lines": lines}))
    assert found is not None
    return found


def test_the_last_line_counts() -> None:
    text = json.dumps({"why": "done", "status": -9, "lines": ["a"]})
    assert report_in(f"warning of a loader\n{text}\n") == Report("done", -9, ("a",))


@pytest.mark.parametrize(
    "output", ["", "text", "{}", '{"why": "done", "status": 0, "lines": [1]}', "[" * 10_000,
               '{"why": "other", "status": 0, "lines": []}'],
)  # fmt: skip
def test_no_report(output: str) -> None:
    assert report_in(output) is None


@given(st.text())
def test_any_text(text: str) -> None:
    report_in(text)
    assert problem_in(text).startswith("cannot predict the memory: ")


def test_why_there_is_no_estimate() -> None:
    damaged = report("done", -9, *(TABLES / "damaged.txt").read_text().splitlines())
    assert damaged.estimate is None
    assert damaged.problem == (
        "cannot predict the memory: llama_model_load: error loading model: tensor 'output.weight' "
        "data is not within the file bounds, model is corrupted or incomplete"
    )
    assert report("ended", 134).problem.endswith("llama-server ended with status 134")
    assert report("late", -9).problem.endswith("did not get to it in time; try again")
    assert report("ended", 1, "error: unknown argument: -x").problem.endswith(
        ": error: unknown argument: -x"
    )


def test_a_table_counts_however_it_ended() -> None:
    for why in ("done", "ended", "late", "long"):
        assert report(why, 1, *(TABLES / "large.txt").read_text().splitlines()).estimate
