"""Which lines of a log belong to which run of a server."""

import pytest

from magid.api.handlers.logs import of_run
from magid.errors import InvalidInput
from magid.log.buffer import LogLine

LINES = [
    LogLine(str(number), 0.0, text, run=run)
    for number, (text, run) in enumerate(
        [("tail", ""), ("one", "a"), ("stopped", ""), ("two", "b"), ("more", "b"), ("end", "")]
    )
]


@pytest.mark.parametrize(
    ("which", "texts"),
    [
        ("all", ["tail", "one", "stopped", "two", "more", "end"]),
        ("current", ["two", "more", "end"]),
        ("previous", ["one", "stopped"]),
    ],
)
def test_lines_of_a_run(which: str, texts: list[str]) -> None:
    assert [line.text for line in of_run(LINES, which)] == texts


def test_one_run_or_none() -> None:
    assert [line.text for line in of_run(LINES[3:], "previous")] == []
    assert [line.text for line in of_run(LINES[:1], "current")] == ["tail"]
    assert list(of_run([], "current")) == []


def test_another_word_is_refused() -> None:
    with pytest.raises(InvalidInput, match="give current, previous or all"):
        of_run(LINES, "last")
