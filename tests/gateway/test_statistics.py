"""Counts of ended requests: which label each gets, what is measured, and that both are bounded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from magid.discovery.tiers import Tier
from magid.errors import ServerFailed
from magid.gateway.accounting import request_log, statistics
from magid.gateway.accounting.request_log import Outcome, Record
from magid.gateway.accounting.statistics import (
    BATCH,
    MAX_MODELS,
    Histogram,
    RequestStatistics,
)
from magid.gateway.accounting.token_usage import OTHER, UsageStore
from magid.gateway.routing.resolver import ModelRoute, Reason

PATH = "/v1/chat/completions"
FIGURES = (
    b'"usage":{"completion_tokens":20,"prompt_tokens":100},"timings":{"cache_n":60,"prompt_n":40,'
    b'"prompt_ms":10.0,"predicted_n":20,"predicted_ms":500.0}'
)


def record(**changes: Any) -> Record:
    """A stream that went well."""
    known: dict[str, Any] = {
        "id": "1", "at": 0.0, "path": PATH, "requested_model": "auto",
        "is_stream": True, "model_id": "m", "port": 8080, "status": 200, "outcome": Outcome.OK,
        "sent_s": 0.002, "first_byte_s": 0.1, "first_token_s": 0.2, "duration_s": 0.7,
        "figures": FIGURES,
    }  # fmt: skip
    return Record(**(known | changes))


def route(reason: Reason = Reason.SCORE, wanted: Tier | None = Tier.FAST) -> ModelRoute:
    return ModelRoute("balanced", (), "why", Tier.BALANCED, reason=reason, wanted=wanted)


@pytest.fixture
def counts(tmp_path: Path) -> RequestStatistics:
    return RequestStatistics(lambda name: name.startswith("m"), UsageStore(tmp_path))


def test_a_request_is_counted_by_all_that_is_known_of_it(counts: RequestStatistics) -> None:
    counts.add(record(), route())
    assert counts.requests == {("m", "balanced", PATH, "score", "ok", 200): 1}
    assert counts.decisions == {("score", "fast", "balanced"): 1}


def test_an_answer_whose_end_fails_is_counted_as_failed(counts: RequestStatistics) -> None:
    """It is told of before its end is sent, whatever number of requests ended before it."""
    for _ in range(BATCH - 1):
        counts.add(record(), route())
    last = record()
    counts.add(last, route())
    request_log.fail(last, ServerFailed("cannot translate the answer"))
    outcomes = {key[4]: count for key, count in counts.requests.items()}
    assert outcomes == {"ok": BATCH - 1, "failed": 1}


def test_what_is_measured(counts: RequestStatistics) -> None:
    counts.add(record(), route())
    ((key, of_model),) = counts.models.items()
    assert key == ("m", "balanced")
    assert (of_model.prompt_tokens, of_model.cached_tokens, of_model.answer_tokens) == (100, 60, 20)
    assert of_model.speed.total == 40.0  # tokens a second, by the server's clock
    assert of_model.first_token_s.total == 0.2
    assert [*counts.durations_s] == [("m", "balanced", PATH)]
    assert counts.durations_s["m", "balanced", PATH].total == 0.7
    assert of_model.waited_s.total == 0.002


def test_what_a_draft_has_guessed(counts: RequestStatistics) -> None:
    told = b'"timings":{"prompt_n":1,"predicted_n":9,"draft_n":12,"draft_n_accepted":7}'
    for _ in range(2):
        counts.add(record(figures=told), route())
    counts.add(record(), route())
    ((_, of_model),) = counts.models.items()
    assert (of_model.draft_tokens, of_model.accepted_tokens) == (24, 14)


@pytest.mark.parametrize(
    "changes",
    [{"outcome": Outcome.FAILED}, {"outcome": Outcome.CANCELLED}, {"first_token_s": None}],
    ids=str,
)
def test_only_streams_that_went_well_have_a_time_to_the_first_token(
    counts: RequestStatistics, changes: dict[str, Any]
) -> None:
    counts.add(record(**changes), route())
    ((_, of_model),) = counts.models.items()
    assert sum(of_model.first_token_s.counts) == 0
    assert len(counts.durations_s) == (changes == {"first_token_s": None})
    assert sum(of_model.waited_s.counts) == 1


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"status": 200, "outcome": Outcome.FAILED, "problem": "ServerLost"}, 200),
        ({"status": None, "outcome": Outcome.CANCELLED}, 499),
        ({"status": None, "outcome": Outcome.KILLED, "problem": "ServerLost"}, "ServerLost"),
        ({"status": None, "outcome": Outcome.REFUSED, "problem": "QueueFull"}, "QueueFull"),
    ],
)
def test_the_code_is_what_the_client_got(
    counts: RequestStatistics, changes: dict[str, Any], code: int | str
) -> None:
    counts.add(record(**changes), route())
    assert [key[5] for key in counts.requests] == [code]


def test_a_name_that_a_client_made_up_is_no_label(counts: RequestStatistics) -> None:
    for number in range(10):
        failed = record(model_id=None, requested_model=f"x{number}", sent_s=None, status=None)
        counts.add(failed, None)
    counts.add(record(model_id=None, requested_model="m2", sent_s=None), None)
    assert {key[0]: n for key, n in counts.requests.items()} == {OTHER: 10, "m2": 1}
    assert not counts.decisions
    assert not counts.models


def test_models_are_told_apart_up_to_a_limit(counts: RequestStatistics) -> None:
    for number in range(MAX_MODELS + 20):
        counts.add(record(model_id=f"m{number}"), route())
    assert len({key[0] for key in counts.requests}) == MAX_MODELS + 1
    assert sum(n for key, n in counts.requests.items() if key[0] == OTHER) == 20


@pytest.mark.parametrize("look", [lambda c: c.requests, lambda c: c.decisions], ids=["all", "some"])
def test_nothing_is_lost_between_batches(
    counts: RequestStatistics, look: Callable[[RequestStatistics], dict[object, int]]
) -> None:
    for number in range(1, 2 * BATCH + 3):
        counts.add(record(), route())
        if number % 50 == 0:
            assert sum(look(counts).values()) == number
    assert sum(look(counts).values()) == 2 * BATCH + 2


def test_a_bound_holds_what_is_equal_to_it() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.0, 1.0, 1.1, 2.0, 2.1, 1e9):
        histogram.observe(value)
    assert histogram.counts == [2, 2, 2]
    assert histogram.total == pytest.approx(1e9 + 6.2)


def test_bounds_rise() -> None:
    for bounds in (
        statistics.DURATION_BOUNDS,
        statistics.FIRST_TOKEN_BOUNDS,
        statistics.WAIT_BOUNDS,
        statistics.SPEED_BOUNDS,
    ):
        assert list(bounds) == sorted(set(bounds))
