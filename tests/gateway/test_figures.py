"""The server's figures, read from an answer's last bytes as from its JSON."""

import json
import operator
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from magid.gateway.accounting.request_log import (
    START_BYTES,
    TAIL_BYTES,
    Usage,
    figures_in,
    usage_in,
)

COUNTS = st.integers(0, 10**9 - 1)
MS = st.integers(0, 10**6) | st.floats(0, 10**8, exclude_max=True)
DRAFTED = ("draft_n", "draft_n_accepted")  # only where a draft was used
RATES = st.floats(0, 10**12) | st.none()  # nothing was read: not a number


def timings(*, knows_cache: bool = True) -> st.SearchStrategy[dict[str, Any]]:
    """llama-server's, in its order, which st.fixed_dictionaries would shuffle."""
    fields: dict[str, st.SearchStrategy[Any]] = {
        **({"cache_n": COUNTS} if knows_cache else {}),
        "prompt_n": COUNTS, "prompt_ms": MS, "prompt_per_token_ms": RATES,
        "prompt_per_second": RATES, "predicted_n": COUNTS, "predicted_ms": MS,
        "predicted_per_token_ms": RATES, "predicted_per_second": RATES,
    }  # fmt: skip
    own = st.tuples(*fields.values()).map(lambda given: dict(zip(fields, given, strict=True)))
    drafts = st.tuples(COUNTS, COUNTS).map(lambda n: dict(zip(DRAFTED, n, strict=True)))
    return st.builds(operator.or_, own, st.just({}) | drafts)


CACHED = st.fixed_dictionaries({"cached_tokens": COUNTS})
OPENAI = st.fixed_dictionaries(
    {"completion_tokens": COUNTS, "prompt_tokens": COUNTS, "total_tokens": COUNTS},
    optional={"prompt_tokens_details": CACHED},
)
ANTHROPIC = st.fixed_dictionaries(
    {"cache_read_input_tokens": COUNTS, "input_tokens": COUNTS, "output_tokens": COUNTS}
)
ENDINGS = st.one_of(
    st.fixed_dictionaries({"usage": OPENAI, "id": st.just("x"), "timings": timings()}),
    st.fixed_dictionaries({"timings": timings(), "usage": OPENAI}),
    st.fixed_dictionaries({"usage": OPENAI, "timings": timings(knows_cache=False)}),
    st.fixed_dictionaries({"timings": timings() | timings(knows_cache=False)}),
    st.fixed_dictionaries({"usage": OPENAI | ANTHROPIC}),
    st.just({}),
)
TEXTS = st.text() | st.sampled_from(
    ['"timings":{"cache_n":1,"prompt_n":2', '"usage":{"prompt_tokens":9', "word " * TAIL_BYTES]
)


def as_json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def read_as_json(answer: Mapping[str, Any]) -> Usage | None:
    """What the answer says, by its meaning."""
    usage, timings = answer.get("usage", {}), answer.get("timings", {})
    if not usage and not timings:
        return None
    cached = timings.get("cache_n", usage.get("prompt_tokens_details", {}).get("cached_tokens"))
    cached = usage.get("cache_read_input_tokens", cached)
    prompt = usage.get("prompt_tokens")
    if "input_tokens" in usage:
        prompt = usage["input_tokens"] + usage["cache_read_input_tokens"]
    if timings:
        prompt = timings["prompt_n"] + timings.get("cache_n", 0)
    answered = usage.get("completion_tokens", usage.get("output_tokens"))
    return Usage(
        prompt, cached, timings.get("predicted_n", answered),
        timings.get("prompt_ms"), timings.get("predicted_ms"),
        timings.get("draft_n"), timings.get("draft_n_accepted"),
    )  # fmt: skip


def figures(start: bytes, tail: bytes) -> Usage | None:
    return usage_in(figures_in(start, tail))


@given(TEXTS, ENDINGS)
@example("", {"timings": {"prompt_n": 1, "prompt_ms": 1e-05, "predicted_n": 1, "predicted_ms": 1}})
def test_an_answers_figures_are_those_of_its_json(text: str, ending: dict[str, Any]) -> None:
    answer = {"choices": [{"message": {"content": text}}], **ending}
    raw = as_json(answer)
    assert figures(raw[:START_BYTES], raw[-TAIL_BYTES:]) == read_as_json(json.loads(raw))


@given(TEXTS, ENDINGS, timings())
def test_of_a_stream_the_last_figures_count(
    text: str, ending: dict[str, Any], earlier: dict[str, Any]
) -> None:
    """With timings_per_token each event has its own; the text of one is never taken for them."""
    events = [
        {"delta": text, "timings": earlier},
        {"delta": text, **(ending or {"timings": earlier})},
    ]
    raw = b"".join(b"data: %b\n\n" % as_json(event) for event in events) + b"data: [DONE]\n\n"
    kept = figures_in(raw[:START_BYTES], raw[-TAIL_BYTES:])
    if "timings" in events[-1] and len(as_json(events[-1])) < TAIL_BYTES:
        assert usage_in(kept) == read_as_json(events[-1])


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_whatever_a_server_sends_is_read_without_a_fault(start: bytes, end: bytes) -> None:
    figures(start, end)
    found = figures(start, b'"timings":{"cache_n":' + end + b',"prompt_n":7,"predicted_n":8}')
    assert found is not None
    assert found.answer_tokens == 8


@pytest.mark.parametrize(
    "given", ["1" * 10, "1" * 4000, "-1", "1e5", "1E99", "1.5.5", "null", '"1']
)
def test_what_is_out_of_bounds_is_no_figure(given: str) -> None:
    tail = f'"timings":{{"cache_n":{given},"prompt_n":5,"predicted_n":6}}'.encode()
    assert figures(b"", tail) == Usage(5, None, 6)


def test_the_figures_of_an_answer() -> None:
    tail = b'"timings":{"cache_n":4,"prompt_n":6,"prompt_ms":2.5,"predicted_n":3,"predicted_ms":1.5'
    assert figures(b"", tail) == Usage(10, 4, 3, 2.5, 1.5)
    openai = b'"usage":{"completion_tokens":2,"prompt_tokens":21,"total_tokens":23}'
    assert figures(b"", openai) == Usage(21, None, 2)
    assert figures_in(openai, openai) == openai  # a short answer is both start and end
    start = b'"usage":{"cache_read_input_tokens":20,"input_tokens":1,"output_tokens":0}'
    assert figures(start, b'"usage":{"output_tokens":2}') == Usage(21, 20, 2)
    said = json.dumps({"content": '"prompt_tokens":99'}).encode()
    assert figures(said, said) is None
