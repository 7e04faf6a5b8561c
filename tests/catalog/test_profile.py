"""Profiles: what their files may say, and which models they select."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magid.catalog.aliases import Variant
from magid.catalog.profile import Profile, check_slug, matches, parse, slug
from magid.catalog.profile_store import ProfileDir
from magid.discovery.tiers import Tier
from magid.errors import (
    InvalidInput,
    InvalidProfile,
    ProfileNotFound,
)
from magid.files import schema
from tests.support.values import EXAMPLE_PROFILE

# -- what a profile says -------------------------------------------------------------------------


def test_the_api_has_the_documented_shape() -> None:
    profile = schema.read(EXAMPLE_PROFILE, Profile)
    assert schema.plain(profile, api_names=True) == EXAMPLE_PROFILE


def test_what_is_left_out_is_as_documented() -> None:
    profile = schema.plain(Profile(name="Production"), api_names=True)
    assert profile["twoStage"] == EXAMPLE_PROFILE["twoStage"]
    assert profile["loadBalancing"] == EXAMPLE_PROFILE["loadBalancing"]
    assert profile["tierConfig"][0] == EXAMPLE_PROFILE["tierConfig"][0]
    assert [tier["name"] for tier in profile["tierConfig"]] == list(Tier)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\nname: y", "cannot read p.yaml: line 2: key 'name' is given twice; remove one"),
        ("namee: x", "cannot use p.yaml: line 1: namee is not known; did you mean 'name'?"),
        ("", "cannot use p.yaml: name is missing; add it"),
        ("name: 5", "cannot use p.yaml: line 1: name should be a valid string, not 5"),
        ("name: ''", "cannot use p.yaml: line 1: name should be text on one line, not ''"),
        (
            'name: "a\\nb"',
            "cannot use p.yaml: line 1: name should be text on one line, not 'a\\nb'",
        ),
        ('name: x\ndescription: "\\e[2J"', "cannot use p.yaml: line 2: description should be tex"),
        (
            "name: x\ntier_config:\n- name: fast",
            "cannot use p.yaml: line 3: tier_config[0].max_score is missing; add it",
        ),
        (
            "name: x\ntier_config:\n- {name: fast, max_score: 3}\n- {name: fast, max_score: 4}",
            "cannot use p.yaml: line 2: tier_config should have each tier at most once",
        ),
        (
            "name: x\ntier_config:\n- {name: fast, max_score: 3}\n- {name: powerful, max_score: 3}",
            "cannot use p.yaml: line 2: tier_config should have tiers in ascending order of max",
        ),
        (
            "name: x\ntwo_stage: {enabled: yes}",
            "cannot use p.yaml: line 2: two_stage.enabled should be a valid boolean, not 'yes'",
        ),
        (
            "name: x\ntwo_stage:\n  enabled: true\n  stage1_tier: 3",
            "cannot use p.yaml: line 4: two_stage.stage1_tier should be 'fast', 'balanced' or",
        ),
        (
            "name: x\nload_balancing: {strategy: random}",
            "cannot use p.yaml: line 2: load_balancing.strategy should be 'round_robin', 'least_o",
        ),
        (
            "name: x\nload_balancing: {health_check_interval: 1.5}",
            "cannot use p.yaml: line 2: load_balancing.health_check_interval should be a valid int",
        ),
        (
            "name: x\nenabled_models: [a]\nenabledModels: [b]",
            "cannot use p.yaml: line 2: enabled_models is given in two spellings; remove one",
        ),
        (
            "name: x\nenabled_models:\n- a\n- ../etc",
            "cannot use p.yaml: line 4: enabled_models[1] should be a model id, a pattern of ids",
        ),
        (
            "name: x\nenabled_models: ['tier:huge']",
            "cannot use p.yaml: line 2: enabled_models[0] should be one of tier:fast, tier:balanc",
        ),
        (
            "name: x\nload_balancing:\n  weights:\n    Qwen3: 1",
            "cannot use p.yaml: line 4: load_balancing.weights.Qwen3 should be a model id, a patte",
        ),
        (
            "name: x\nload_balancing:\n  weights:\n    '[key]': 0",
            "cannot use p.yaml: line 4: load_balancing.weights.[key] should be greater than or equ",
        ),
        (
            "name: x\naliases:\n  ' ': a",
            "cannot use p.yaml: line 3: aliases.  should be text on one line, not ' '",
        ),
        (
            "name: x\ntierConfig:\n- name: fast",
            "cannot use p.yaml: line 3: tierConfig[0].max_score is missing; add it",
        ),
        (
            "name: x\naliases:\n  q:think: 5",
            "cannot use p.yaml: line 3: aliases.q:think should be text or a mapping, not 5",
        ),
        (
            "name: x\naliases:\n  q: ''",
            "cannot use p.yaml: line 3: aliases.q should be text on one line, not ''",
        ),
    ],
)
def test_wrong_files(text: str, message: str) -> None:
    with pytest.raises(InvalidProfile) as caught:
        parse(text.encode(), "p.yaml")
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize("selector", ["", "A", "a/b", "a.b", "tier:", "tier:Fast", "a b", "é"])
def test_wrong_selectors(selector: str) -> None:
    with pytest.raises(ValueError, match="should be "):
        Profile(name="x", enabled_models=(selector,))


@pytest.mark.parametrize(
    ("selector", "model_id", "tier", "selected"),
    [
        ("qwen3_4p0b_q4km_fast", "qwen3_4p0b_q4km_fast", "fast", True),
        ("qwen3_4b_q4km_fast", "qwen3_4p0b_q4km_fast", "fast", True),
        ("qwen3_4p0b_q4km_fast", "qwen3_4b_q4km_fast", "fast", True),
        ("qwen3_4p0b_q4km_fast", "qwen3_4p0b_q4km_fast_2", "fast", False),
        ("qwen3_14p0b_q4km_fast", "qwen3_4p0b_q4km_fast", "fast", False),
        ("qwen3_4p5b_q4km_fast", "qwen3_4p0b_q4km_fast", "fast", False),
        ("qwen3_0p5b_*", "qwen3_5b_q4km_fast", "fast", False),
        ("qwen3*", "qwen3_4p0b_q4km_fast", "fast", True),
        ("*_4b_*", "qwen3_4p0b_q4km_fast", "fast", True),
        ("*_4p0b_*", "qwen3_4p0b_q4km_fast", "fast", True),
        ("*_8b_*", "qwen3_4p0b_q4km_fast", "fast", False),
        ("qwen[23]_*", "qwen3_4p0b_q4km_fast", "fast", True),
        ("qwen[!3]_*", "qwen3_4p0b_q4km_fast", "fast", False),
        ("qwen?_*", "qwen3_4p0b_q4km_fast", "fast", True),
        ("qwen", "qwen3_4p0b_q4km_fast", "fast", False),
        ("qwen[", "qwen3_4p0b_q4km_fast", "fast", False),
        ("tier:fast", "qwen3_4p0b_q4km_fast", "fast", True),
        ("tier:fast", "qwen3_4p0b_q4km_fast", "powerful", False),  # the tier in force counts
        ("tier:powerful", "qwen3_4p0b_q4km_fast", "powerful", True),
        ("*", "anything", "balanced", True),
    ],
)
def test_selection(selector: str, model_id: str, tier: str, *, selected: bool) -> None:
    profile = Profile(name="x", enabled_models=("nothing_else", selector))
    assert matches(profile, model_id, Tier(tier)) is selected


def test_a_profile_without_models_selects_none() -> None:
    assert not matches(Profile(name="x"), "a", Tier.FAST)


# -- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Fast Only", "fast-only"),
        ("Production", "production"),
        ("  --Crème  brûlée!-- ", "creme-brulee"),
        ("a/../b", "a-b"),
        ("../../etc/passwd", "etc-passwd"),
        ("a\0b", "a-b"),
        ("x" * 100, "x" * 63),
        ("x" * 62 + " y", "x" * 62),
        ("GPU 2.5", "gpu-2-5"),
    ],
)
def test_slugs(name: str, expected: str) -> None:
    assert slug(name) == expected


@pytest.mark.parametrize("name", ["", "---", "../..", "模型", "\0"])
def test_names_that_give_no_file_name(name: str) -> None:
    with pytest.raises(InvalidInput, match="cannot derive a file name from"):
        slug(name)


@given(st.text())
def test_no_name_leads_out_of_the_folder(name: str) -> None:
    try:
        made = slug(name)
    except InvalidInput:
        return
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", check_slug(made))
    assert slug(made) == made


@pytest.mark.parametrize(
    "text",
    ["", "-a", "A", "a.yaml", "a/b", "..", "a\n", "a\0", "é", "x" * 64, "%2e%2e", "a b", "٣"],
)
def test_path_parameters_that_are_no_names(text: str, tmp_path: Path) -> None:
    folder = ProfileDir(tmp_path)
    for call in (check_slug, folder.get, folder.delete):
        with pytest.raises(ProfileNotFound):
            call(text)
    assert folder.revision(text) == ""


# -- variants ------------------------------------------------------------------------------------

VARIANTS = """\
name: x
aliases:
  gpt-4o: powerful
  qwen3:think:
    model: qwen3_8p0b
    set:
      temperature: 0.6
      logit_bias: [[5, -1.5], {a: {b: true}}]
    defaults: {max_tokens: 4096}
    strip: [min_p]
    system: |
      Think.

      \tTwice.
    reasoning: 2048
  qwen3:fast: {model: qwen3_8p0b, reasoning: 0}
"""


def test_an_alias_may_have_parameters() -> None:
    profile = parse(VARIANTS.encode(), "p.yaml")
    think = profile.aliases["qwen3:think"]
    assert isinstance(think, Variant)
    assert think.set == {"temperature": 0.6, "logit_bias": [[5, -1.5], {"a": {"b": True}}]}
    assert (think.defaults, think.strip, think.reasoning) == (
        {"max_tokens": 4096},
        ("min_p",),
        2048,
    )
    assert think.system == "Think.\n\n\tTwice.\n"
    assert profile.aliases["qwen3:fast"] == Variant(model="qwen3_8p0b", reasoning=0)
    assert profile.aliases["gpt-4o"] == "powerful"


def test_a_file_has_of_a_variant_what_was_written(tmp_path: Path) -> None:
    profile = parse(VARIANTS.encode(), "p.yaml")
    shown = schema.plain(profile, api_names=True)["aliases"]
    assert shown["qwen3:fast"] == {"model": "qwen3_8p0b", "reasoning": 0}
    assert shown["qwen3:think"].keys() == {
        "model", "set", "defaults", "strip", "system", "reasoning"
    }  # fmt: skip
    assert schema.read({"name": "x", "aliases": shown}, Profile) == profile
    folder = ProfileDir(tmp_path)
    name, _ = folder.create(profile)
    assert ProfileDir(tmp_path).get(name) == profile


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{modes: a}", "modes is not known; did you mean 'model'?"),
        ("{set: {}}", "model is missing; add it"),
        ("{model: ''}", "model should be text on one line, not ''"),
        ("{model: a, set: {model: b}}", "set.model cannot be changed here: it is given as `model`"),
        (
            "{model: a, defaults: {stream: true}}",
            "defaults.stream cannot be changed here: it is th",
        ),
        (
            "{model: a, strip: [messages]}",
            "strip[0] cannot be changed here: it is the client's que",
        ),
        (
            "{model: a, set: {system: b}}",
            "set.system cannot be changed here: it is given as `system",
        ),
        (
            "{model: a, set: {thinking_budget_tokens: 5}}",
            "set.thinking_budget_tokens cannot be changed here: it is given as `reasoning`",
        ),
        ("{model: a, set: [b]}", "set should be a mapping of keys to values"),
        ("{model: a, set: {b c: 1}}", "set.b c should be the name of a parameter, as temperature"),
        ("{model: a, set: {b: null}}", "set should have no null (b); `strip` removes a parameter"),
        (
            "{model: a, set: {b: [[[[[[[[[1]]]]]]]]]}}",
            "set should have at most 1000 values, 8 deep",
        ),
        ("{model: a, set: {b: 1}, defaults: {b: 2}}", "defaults has b, which `set` has too and"),
        ("{model: a, set: {b: 1}, strip: [c, b]}", "strip has b, which `set` has too and always"),
        ("{model: a, reasoning: -2}", "reasoning should be greater than or equal to -1, not -2"),
        ("{model: a, reasoning: lots}", "reasoning should be a valid integer, not 'lots'"),
        ('{model: a, system: "\\e[2J"}', "system should be text without control characters, not"),
    ],
)
def test_wrong_variants_are_named_by_their_keys(text: str, message: str) -> None:
    with pytest.raises(InvalidProfile) as caught:
        parse(f"name: x\naliases:\n  q:fast: {text}".encode(), "p.yaml")
    start = "cannot use p.yaml: line 3: aliases.q:fast."
    assert caught.value.message.startswith(start + message)


@pytest.mark.parametrize("second", ["q:fast", "q"])
def test_a_variant_is_of_a_model_and_not_of_a_variant(second: str) -> None:
    text = f"name: x\naliases:\n  q:fast: {{model: m}}\n  q: q:fast\n  r: {{model: '{second}'}}"
    with pytest.raises(InvalidProfile, match="no variants of variants: the `model` of 'r' is 'q"):
        parse(text.encode(), "p.yaml")


def test_the_examples_of_documents_are_valid() -> None:
    root = Path(__file__).parents[2]
    shipped = (root / "etc/profiles/production.yaml").read_text()
    example = shipped.partition("# aliases:")[2].replace("\n# ", "\n")
    document = (root / "docs/gateway.md").read_text().partition("\n```\naliases:")[2]
    of_document = parse(f"name: x\naliases:{document.partition('```')[0]}".encode(), "gateway.md")
    of_profile = parse(f"name: x\naliases:{example}".encode(), "production.yaml")
    assert of_document.aliases == of_profile.aliases
    assert of_profile.aliases.keys() == {"gpt-4o", "qwen3:think", "qwen3:fast"}
