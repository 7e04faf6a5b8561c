"""`auto`: the score, its evaluation, the session's rule, and tiers that are empty."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magid.catalog.profile import DEFAULT_TIERS
from magid.discovery.tiers import Tier
from magid.gateway.routing import auto_tier, complexity, request
from magid.gateway.routing.auto_tier import DEFAULT_TIER
from magid.gateway.routing.resolver import STRENGTH
from tests.evaluation import report


def score(text: str, **more: object) -> complexity.Score:
    return complexity.score(request.read({"messages": [{"role": "user", "content": text}], **more}))


def choose(text: str, before: Tier | None = None) -> auto_tier.TierChoice:
    read = request.read({"messages": [{"role": "user", "content": text}]})
    return auto_tier.choose(read, DEFAULT_TIERS, before)


@pytest.mark.parametrize(
    ("text", "tier"),
    [
        ("Hi!", Tier.FAST),
        ("Nenne die Hauptstadt von Kanada.", Tier.FAST),
        ("Prove that there are infinitely many primes", Tier.POWERFUL),
        ("设计一个分布式系统并优化它的架构", Tier.POWERFUL),
        ("Докажи теорему и сравни два алгоритма", Tier.POWERFUL),
    ],
)
def test_what_words_ask_for(text: str, tier: Tier) -> None:
    assert choose(text).tier is tier


@pytest.mark.parametrize(
    "text", ["", "Write a mail to my landlord.", "word " * 3000, "Habari yako"]
)
def test_no_evidence_is_said_and_goes_to_the_default(text: str) -> None:
    assert score(text).value is None
    chosen = choose(text)
    assert (chosen.tier, chosen.why) == (DEFAULT_TIER, "auto: no evidence")


def test_short_stems_are_whole_words() -> None:
    assert score("Hi").value is not None
    assert score("The history of highways").value is None


def test_quoted_code_does_not_speak_for_its_words() -> None:
    fenced = score("What is this?\n```\nprove design optimise\n```")
    assert "reasoning" not in fenced.parts
    assert fenced.parts["code"] > 0


@given(st.text(max_size=6000))
def test_any_text_gets_a_score_within_bounds(text: str) -> None:
    value = score(text).value
    assert value is None or 0 <= value <= complexity.HIGHEST


@pytest.mark.parametrize(
    "piece", ["a", " ", "\n", "-", "1. ", "```", "x(y) ", "};\n", "\\frac", "prove ", "?", "\t\n"]
)
def test_the_cost_does_not_grow_with_the_text(piece: str) -> None:
    """A quadratic step over 400,000 characters would take minutes."""
    read = request.read({"messages": [{"role": "user", "content": piece * 400_000}]})
    began = time.process_time()
    complexity.score(read)
    assert time.process_time() - began < 5


def test_a_conversation_never_drops_a_tier() -> None:
    kept = choose("Thanks!", before=Tier.POWERFUL)
    assert kept.tier is Tier.POWERFUL
    assert "kept on powerful" in kept.why
    assert choose("Prove it", before=Tier.FAST).tier is Tier.POWERFUL


def test_a_score_at_a_bound_belongs_below_it() -> None:
    tiers = [auto_tier.tier_for(value, DEFAULT_TIERS) for value in (0, 3, 3.01, 7, 7.01, 10, 99)]
    fast, balanced, powerful = STRENGTH
    assert tiers == [fast, fast, balanced, balanced, powerful, powerful, powerful]
    assert auto_tier.tier_for(5, ()) is DEFAULT_TIER


# -- the evaluation ------------------------------------------------------------------------------


def test_the_data_is_what_it_says() -> None:
    everything = report.prompts()
    assert len(everything) > 300
    assert {p.least for p in everything} == {1, 2, 3}
    known = {*report.LANGUAGES, *report.UNKNOWN_LANGUAGES}
    assert {p.language for p in everything} == known
    assert len({p.text for p in everything}) == len(everything)


@pytest.mark.parametrize("language", report.LANGUAGES)
def test_it_beats_random_routing_at_the_same_mix(language: str) -> None:
    found = report.evaluate([p for p in report.prompts() if p.language == language])
    assert found.decided >= found.prompts / 3
    assert found.right > 1.25 * found.right_at_random
    assert found.enough > found.enough_at_random


def test_it_beats_random_routing_on_what_it_was_not_looked_over_with() -> None:
    found = report.evaluate(report.held_out(report.prompts()))
    assert found.right > 1.5 * found.right_at_random
    assert found.enough > 1.1 * found.enough_at_random


def test_a_language_it_does_not_know_is_no_evidence() -> None:
    foreign = [p for p in report.prompts() if p.language in report.UNKNOWN_LANGUAGES]
    assert not [p for p in foreign if report.decided_tier(p.text)]
