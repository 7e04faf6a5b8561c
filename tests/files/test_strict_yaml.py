"""The strict YAML reader: what it takes, what it refuses, and how it says so."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from magid.files.strict_yaml import Document, Scalar, YamlError, dumps, load, loads, scalar


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("~", None),
        ("null", None),
        ("Null", "Null"),
        ("true", True),
        ("false", False),
        ("True", "True"),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("0", 0),
        ("-7", -7),
        ("+7", 7),
        ("012", "012"),
        ("0o14", "0o14"),
        ("0x1f", "0x1f"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2025-01-02", "2025-01-02"),
        ("1.5", 1.5),
        (".5", 0.5),
        ("5.", 5.0),
        ("1e3", 1000.0),
        ("1.5E-3", 0.0015),
        ("0.0001888049853896117", 0.0001888049853896117),
        ("1e999", "1e999"),
        (".inf", ".inf"),
        (".nan", ".nan"),
        ("9" * 18, int("9" * 18)),
        ("9" * 19, "9" * 19),
        ("9" * 5000, "9" * 5000),
        ("=", "="),
        ("1.2.3", "1.2.3"),
    ],
)
def test_plain_scalars(text: str, value: Scalar) -> None:
    assert scalar(text) == value
    assert type(scalar(text)) is type(value)
    assert loads(f"key: {text}\n", "x").data == {"key": value}
    assert loads(f"key: '{text}'\n", "x").data == {"key": text}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: key 'a' is given twice; remove one"),
        ("a:\n  tier: 1\n  tier: 2", "line 3: key 'tier' is given twice; remove one"),
        ("a: {b: 1, 'b': 2}", "line 1: key 'b' is given twice; remove one"),
        ("a: &x 1", "line 1: anchor '&x' is not allowed; remove it"),
        ("&x a: 1", "line 1: anchor '&x' is not allowed; remove it"),
        ("a: [1, &x [2]]", "line 1: anchor '&x' is not allowed; remove it"),
        ("a: *x", "line 1: alias '*x' is not allowed; spell it out"),
        ("*x : 1", "line 1: alias '*x' is not allowed; spell it out"),
        ("a: !!str 1", "line 1: tag 'tag:yaml.org,2002:str' is not allowed; remove it"),
        ("a: ! 1", "line 1: tag '!' is not allowed; remove it"),
        (
            "a: !!python/object/apply:os.system [id]",
            "line 1: tag 'tag:yaml.org,2002:python/object/apply:os.system' is not allowed",
        ),
        ("a: 1\n<<: {b: 2}", "line 2: merge key '<<' is not allowed; spell the keys out"),
        ("8080: x", "line 1: key 8080 is not text; put it in quotes"),
        ("true: x", "line 1: key true is not text; put it in quotes"),
        ("~: x", "line 1: key null is not text; put it in quotes"),
        ("? [a]\n: b", "line 1: a key is a list or a mapping; keys have to be text"),
        ("a: 1\n---\nb: 2", "line 2: a second document starts here; keep one per file"),
        ("- a", "line 1: the file has to be a mapping of keys to values"),
        ("just text", "line 1: the file has to be a mapping of keys to values"),
        ("a: 1\nb: c: d", "line 2, column 5: mapping values are not allowed here"),
        ("a: [1, 2", "line 1, column 9: "),
        ("a:\n\t- b", "line 2, column 1: "),
        ("%YAML 2.0\n---\na: 1", "line 1, column 1: found incompatible YAML document"),
        ("a: 1\nb: \x01", "line 2: the character U+0001 is not allowed; remove it"),
        ('a: 1\nb: "\\Uffffffff"', "line 2: an escape is not a valid character"),
        ('a: "\\ud800"', "line 1: the text has a character that is not allowed; remove it"),
        ('a: "\\0"', "line 1: the text has a character that is not allowed; remove it"),
        ("a: " + "[" * 16 + "]" * 16, "line 1: nested more than 16 deep"),
        ("a: " + "[" * 60_000, "line 1: nested more than 16 deep"),
        ("a: " + "x" * 65_536, "it is larger than 65536 bytes"),
    ],
)
def test_refusals_name_the_line(text: str, message: str) -> None:
    with pytest.raises(YamlError) as caught:
        loads(text, "/etc/magi/x.yaml")
    assert str(caught.value).startswith(f"cannot read /etc/magi/x.yaml: {message}")
    assert "\n" not in str(caught.value)


def test_refusal_of_other_encodings() -> None:
    with pytest.raises(YamlError, match="line 2: it is not UTF-8; save it as UTF-8"):
        loads(b"a: 1\nb: \xe9\n", "x")
    with pytest.raises(YamlError, match="not UTF-8"):
        loads("a: 1".encode("utf-16"), "x")


def test_limits_are_inclusive() -> None:
    assert loads("a: " + "x" * (65_536 - 3), "x").data["a"][0] == "x"
    loads("a: " + "[" * 15 + "]" * 15, "x")


@pytest.mark.parametrize("text", ["# \x07\n", "#a\n\x00#b\n", "#a\n# \ufffe\n"])
def test_comments_are_checked_for_characters_too(text: str) -> None:
    with pytest.raises(YamlError, match="is not allowed; remove it"):
        loads(text, "x")


@pytest.mark.parametrize("text", ["  # a\n\n#b: 1", "#a\n \n  #b\n", "# é\n"])
def test_comments_alone_are_an_empty_mapping(text: str) -> None:
    assert loads(text, "x") == Document({}, {}, "x")


@pytest.mark.parametrize("text", ["", "\n", "# only a comment\n", "---\n", "\ufeff", "{}", "a:"])
def test_nearly_nothing(text: str) -> None:
    assert loads(text, "x").data in ({}, {"a": None})


def test_lines_of_keys_and_items() -> None:
    document = loads("a: 1\n\nb:\n  - c: 2\n    d: 3\n  - {c: 4}\n", "x")
    assert document.lines == {
        ("a",): 1,
        ("b",): 3,
        ("b", 0): 4,
        ("b", 0, "c"): 4,
        ("b", 0, "d"): 5,
        ("b", 1): 6,
        ("b", 1, "c"): 6,
    }
    assert document.line(("b", 1, "missing")) == 6
    assert document.line(("missing",)) is None
    assert document.line(()) is None


def test_load_reads_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("a: grün\n", encoding="utf-8")
    assert load(path) == Document({"a": "grün"}, {("a",): 1}, str(path))


def test_load_lets_only_absence_through(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "absent.yaml")
    for path in (tmp_path, Path("/dev/zero"), _fifo(tmp_path / "fifo")):
        with pytest.raises(YamlError, match="it is not a regular file"):
            load(path)
    with pytest.raises(YamlError, match="Not a directory"):
        load(_fifo(tmp_path / "file") / "x.yaml")


def _fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def test_load_does_not_read_a_large_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    path.touch()
    os.truncate(path, 2**40)  # a hole
    with pytest.raises(YamlError, match="larger than 65536 bytes"):
        load(path)


_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20)
_DATA = st.dictionaries(
    _TEXT,
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(10**17), 10**17)
        | st.floats(allow_nan=False, allow_infinity=False)
        | _TEXT
        | st.sampled_from(["no", "012", "1e5", "1:30", "2025-01-02", "<<", "=", "~", "null", "5."]),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
        max_leaves=8,
    ),
    max_size=5,
)


@given(_DATA)
@settings(deadline=None)
def test_what_is_written_comes_back(data: dict[str, Any]) -> None:
    loaded = loads(dumps(data), "x").data
    assert repr(loaded) == repr(data)  # repr: 1, 1.0 and True are equal, but not the same


@given(_DATA)
@settings(deadline=None)
def test_other_readers_understand_what_is_written(data: dict[str, Any]) -> None:
    assert yaml.safe_load(dumps(data)) == data


def test_written_text_is_for_people() -> None:
    shared = ["x"]
    assert dumps({"b": 1, "a": shared, "c": shared, "d": "no", "e": {"f": "ü"}}) == (
        "b: 1\na:\n- x\nc:\n- x\nd: 'no'\ne:\n  f: ü\n"
    )


@pytest.mark.parametrize(
    "data",
    [
        {"a": object()},
        {"a": float("nan")},
        {"a": float("inf")},
        {"a": "\ud800"},
        {"a": "\0"},
        {1: "a"},
        {"a": (1, 2)},
        {"a": "x" * 70_000},
        {"a": [[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]},
    ],
)
def test_what_cannot_come_back_is_not_written(data: Any) -> None:
    with pytest.raises(YamlError, match=r"^cannot read the data to write"):
        dumps(data)


def _refusal(content: str | bytes) -> str:
    try:
        loads(content, "x")
    except YamlError as error:
        return str(error)
    return ""


@given(st.text("ab:-[]{}&*!|>'\"%@`#,?~ \n\t\\0u<", max_size=40) | st.text(max_size=40))
@settings(deadline=None, max_examples=400)
def test_nothing_but_its_own_error_leaves(text: str) -> None:
    assert _refusal(text)[:15] in ("", "cannot read x: ")


@given(st.binary(max_size=60))
@settings(deadline=None, max_examples=200)
def test_nothing_but_its_own_error_leaves_on_bytes(content: bytes) -> None:
    assert _refusal(content)[:15] in ("", "cannot read x: ")
