"""Schemas: both ways to check data agree, and each says where it is wrong."""

import subprocess
import sys
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Meta, structs

from magid.catalog.profile import Profile
from magid.config import loading
from magid.config.settings import Config
from magid.files import explanation, schema
from magid.files.schema import Mismatch, Schema
from magid.llama.runtime_settings import SETTINGS, RuntimeSettings

SHIPPED = Path(__file__).parents[2] / "etc/profiles"
NOT_UTF8 = "a\udcff"  # as Python reads such an environment variable
WORDS = (
    "", "a", "fast", "tier:fast", "tier:x", "qwen*", "auto", "/", "/a/b", "/a//b/", "a/b", "Host",
    "127.0.0.1", "127.0.0.1:8000", "[::1]:8090", "unix:/x", "https://a.b", "x" * 101, "a\nb", "5",
    "-5", "1e3", "nan", "2026-01-01", "\u202e", "é", "\x00", "always", "none", "CUDA0,CUDA1",
    NOT_UTF8,
)  # fmt: skip
NUMBERS = (0, -1, 1, 7, 8080, 8099, 2**31, 2**64, 0.0, -0.0, 1.0, 1.5, 1e300)
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.sampled_from((*WORDS, *NUMBERS, float("inf"), float("nan")))
    | st.integers()
    | st.floats()
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner),
    max_leaves=4,
)


def near(annotation: Any, meta: Meta | None = None) -> st.SearchStrategy[Any]:
    """Decoded data that fits an annotation, or nearly does."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation is RuntimeSettings:
        return st.fixed_dictionaries({}, optional={s.name: near(s.annotation) for s in SETTINGS})
    if origin is Annotated:
        return near(inner[0], next((m for m in inner[1:] if isinstance(m, Meta)), None))
    if origin is Literal:
        return st.sampled_from((*inner, NOT_UTF8))
    if origin is tuple:
        items = st.one_of([near(each) for each in inner if each is not ...])
        return st.lists(items, max_size=4)
    if origin is dict:
        return st.dictionaries(near(inner[0]), near(inner[1]), max_size=3)
    if inner:
        return st.one_of([near(each) for each in inner])
    if isinstance(annotation, type) and issubclass(annotation, Schema):
        return like(annotation)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return st.sampled_from((*(each.value for each in annotation), NOT_UTF8))
    if annotation in (int, float):
        bounds = (meta.ge, meta.gt, meta.le) if meta else ()
        edges = [bound + step for bound in bounds if bound is not None for step in (-1, 0, 1)]
        return st.sampled_from((*edges, *NUMBERS, NOT_UTF8)) | st.booleans()
    return st.sampled_from(WORDS) if annotation in (str, Path) else ANYTHING


@st.composite
def like(draw: st.DrawFn, kind: type[Schema]) -> dict[str, Any]:
    """A mapping with a few of the schema's keys, and now and then a wrong key or value."""
    hints = schema.hints(kind)
    needed = {each.name for each in structs.fields(kind) if each.required}
    names = needed | draw(st.sets(st.sampled_from(sorted(hints)), max_size=2))
    data = {name: draw(near(hints[name])) for name in sorted(names)}
    name, slip = draw(st.sampled_from(sorted(hints))), draw(st.integers(0, 9))
    if slip == 0:
        data[name] = draw(ANYTHING)
    elif slip == 1:
        data[schema.api_name(name)] = draw(near(hints[name]))
    elif slip == 2:
        data["other"] = 1
    return data


def outcome(reader: Callable[..., object], *given: object) -> object:
    try:
        return reader(*given)
    except Mismatch:
        return None


@settings(deadline=None, max_examples=500)
@given(like(Config))
def test_both_ways_agree_on_configurations(data: dict[str, Any]) -> None:
    explained = outcome(explanation.read, loading.prepared(data), Config)
    assert outcome(loading.checked, data) == explained


@settings(deadline=None, max_examples=500)
@given(like(Profile) | ANYTHING)
def test_both_ways_agree_on_profiles(data: object) -> None:
    assert outcome(schema.read, data, Profile) == outcome(explanation.read, data, Profile)


def test_valid_files_are_read_without_pydantic(tmp_path: Path) -> None:
    """A start with them would take half as long again."""
    file = tmp_path / "magid.yaml"
    file.write_text(
        "model_paths: [/m]\nbind: ['[::1]:9000']\nrestart: {limit: 2, window: 60}\ngateway:\n"
        "server_defaults: {ctx_size: 8K, memory_max: 24G, extra_args: [--jinja]}\n"
    )
    code = f"""
import pathlib, sys
from magid.catalog.profile import parse
from magid.config.loading import load
load({{"config": {str(file)!r}}}, {{"MAX_STARTUP_TIME": "5"}})
for path in pathlib.Path({str(SHIPPED)!r}).glob("*.yaml"):
    print(parse(path.read_bytes(), str(path)).name)
assert "pydantic" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.stderr, len(done.stdout.splitlines())) == ("", 3)


def test_of_many_faults_the_first_are_named() -> None:
    """Each costs a search for a key that may have been meant."""
    with pytest.raises(Mismatch) as caught:
        schema.read({f"k{number}": None for number in range(5000)}, Config)
    assert len(caught.value.faults) == explanation.MOST_ERRORS


def test_all_faults_are_named_and_unknown_keys_come_first() -> None:
    wrong = {"stop_timeout": 0, "bind": ["x"], "restart": {"limit": True}, "bidn": 1}
    with pytest.raises(Mismatch) as caught:
        schema.read(wrong, Config)
    assert [fault.key for fault in caught.value.faults] == [
        "bidn", "stop_timeout", "bind[0]", "bind", "restart.limit",
    ]  # fmt: skip
