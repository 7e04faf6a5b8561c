"""What people write when they want a model, and what they mean by it."""

import re

import pytest

from magid.errors import InvalidInput
from magid.library.source import ModelSource, checked, is_job_id, parse


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("org/Repo", ModelSource("org/Repo")),
        ("org/Repo:Q4_K_M", ModelSource("org/Repo", tag="Q4_K_M")),
        ("org/Repo@v1.0", ModelSource("org/Repo", "v1.0")),
        ("org/Repo@v1.0:Q8_0", ModelSource("org/Repo", "v1.0", "Q8_0")),
        ("org/Repo@refs/pr/3", ModelSource("org/Repo", "refs/pr/3")),
        ("org/Repo/a-Q4_0.gguf", ModelSource("org/Repo", file="a-Q4_0.gguf")),
        ("org/Repo/UD/a.gguf@main", ModelSource("org/Repo", file="UD/a.gguf")),
        ("hf.co/org/Repo:Q4_K_M", ModelSource("org/Repo", tag="Q4_K_M")),
        ("https://huggingface.co/org/Repo", ModelSource("org/Repo")),
        ("https://huggingface.co/org/Repo/tree/main", ModelSource("org/Repo")),
        (
            "https://huggingface.co/org/Repo/resolve/abc/x/a.gguf?download=true",
            ModelSource("org/Repo", "abc", file="x/a.gguf"),
        ),
        (" org/Repo ", ModelSource("org/Repo")),
    ],
)
def test_spellings(text: str, source: ModelSource) -> None:
    assert parse(text) == source


@pytest.mark.parametrize(
    "text",
    [
        "", "org", "org/", "/repo", "org/re po", "org/repo:", "org/repo:a b", "org/..", "../x/y",
        "org/repo/../../x.gguf", "org/repo/.hidden.gguf", "org/repo/a\n.gguf", "org/repo@-x",
        "org/repo@a..b", "https://example.com/org/repo", "http:///org/repo", "org/repo/a.gguf:Q4",
        "-o/repo", "org/repo:--help", "org/" + "x" * 200, "https://[", "https://[::1/org/repo",
        "https://huggingface.co\u2100/org/repo",
    ],
)  # fmt: skip
def test_what_is_no_source(text: str) -> None:
    if text == "org/repo:":  # as a tag that was left out
        assert parse(text) == ModelSource("org/repo")
        return
    with pytest.raises(InvalidInput, match=r"^cannot use") as error:
        parse(text)
    assert error.value.details["field"] == "source"


def test_a_job_is_one_for_one_source() -> None:
    ids = {
        parse(text, draft=draft).job_id
        for text in ("org/Repo", "org/Repo:Q4_K_M", "org/Repo@v1", "org/Repo/x.gguf", "other/Repo")
        for draft in (False, True)
    }
    assert len(ids) == 10
    assert all(map(is_job_id, ids))
    assert parse("org/Repo:q4_k_m").job_id == parse("hf.co/org/Repo:Q4_K_M").job_id
    assert re.fullmatch("qwen3-8b-gguf-q4-k-m-[0-9a-f]{8}", parse("a/Qwen3-8B-GGUF:Q4_K_M").job_id)


@pytest.mark.parametrize("text", ["org/_", "org/Repo/(_).gguf", "org/Repo/+.gguf"])
def test_a_job_of_a_name_without_letters(text: str) -> None:
    """Its id is part of a unit's name, and of one that a status is read with."""
    assert is_job_id(parse(text).job_id)


def test_the_text_of_a_source_means_the_same() -> None:
    for text in ("org/Repo", "org/Repo@v1:Q4_0", "org/Repo/x/y.gguf@v1", "org/Repo:Q4_0"):
        assert parse(text).text == text
        assert checked(parse(text)) == parse(text)
