"""Files of the original program."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magid.catalog import profile
from magid.catalog.original import (
    OriginalModel,
    OriginalRegistry,
    is_registry,
    parse_profile,
    parse_registry,
)
from magid.catalog.profile import DEFAULT_TIERS, Strategy
from magid.discovery.tiers import Tier
from magid.errors import InvalidInput, InvalidProfile
from tests.support.original import DEVELOPMENT, as_registry, entry

PATH = "/models/models--Qwen--Qwen3-4B-GGUF/snapshots/22c9/Qwen3-4B-Q4_K_M.gguf"


def registry(*entries: dict[str, Any], **more: Any) -> OriginalRegistry:
    return parse_registry(as_registry(*entries, **more), "model_registry.json")


def test_a_registry() -> None:
    found = registry(
        entry("qwen3_4p0b_q4km_fast", PATH),
        entry("b", "/models/b.gguf", tier_override="balanced", thinking_override=False,
              enabled=True, port=8084, n_gpu_layers=99, ctx_size=8192, n_threads=8,
              batch_size=512),
    )  # fmt: skip
    assert found.models == (
        OriginalModel("qwen3_4p0b_q4km_fast", PATH, port=8080),
        OriginalModel(
            "b", "/models/b.gguf", Tier.BALANCED, False, True, 8084,
            {"nGpuLayers": 99, "ctxSize": 8192, "nThreads": 8, "batchSize": 512},
        ),
    )  # fmt: skip
    assert found.faults == ()
    assert (found.port_range, found.tier_thresholds) == (
        [8080, 8099],
        {"powerful_min": 14.0, "fast_max": 7.0},
    )


def test_as_its_api_answers() -> None:
    """In camelCase, with what later versions added."""
    model = {
        "filePath": "/models/model.gguf", "filename": "model.gguf", "family": "deepseek",
        "version": "r1", "sizeParams": 8.0, "quantization": "q4_k_m", "isThinkingModel": True,
        "assignedTier": "powerful", "modelId": "deepseek_r1_8b_q4km_powerful", "enabled": True,
        "thinkingOverride": True, "tierOverride": None, "color": "#ff9500",
    }  # fmt: skip
    document = {
        "models": {"deepseek_r1_8b_q4km_powerful": model}, "scanPath": "/models",
        "lastScan": "2025-01-02T10:30:00Z", "portRange": [8080, 8099],
        "tierThresholds": {"powerful_min": 14.0, "fast_max": 7.0},
    }  # fmt: skip
    found = parse_registry(b"\xef\xbb\xbf" + json.dumps(document).encode(), "registry.json")
    assert found.models == (
        OriginalModel(
            "deepseek_r1_8b_q4km_powerful", "/models/model.gguf", thinking=True, enabled=True
        ),
    )
    assert found.faults == ("deepseek_r1_8b_q4km_powerful: color is not known to magid",)
    assert found.port_range == [8080, 8099]


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"tier_override": "huge"}, "tier_override 'huge' should be one of fast, balanced, power"),
        ({"tier_override": []}, "tier_override [] should be one of"),
        ({"thinking_override": "yes"}, "thinking_override 'yes' should be true or false"),
        ({"enabled": 1}, "enabled 1 should be true or false"),
        ({"port": "8080"}, "port '8080' should be a port"),
        ({"port": True}, "port True should be a port"),
        ({"port": 65_536}, "port 65536 should be a port"),
        ({"ctx_size": 1e9}, "ctx_size 1000000000.0 should be a whole number"),
        ({"batch_size": 0}, "batch_size 0 should be a whole number from 1"),
    ],
)
def test_one_wrong_value_costs_no_other(wrong: dict[str, Any], reason: str) -> None:
    given = {"tier_override": "fast", "thinking_override": True, "n_threads": 4, **wrong}
    found = registry(entry("a", "/models/a.gguf", **given))
    (model,) = found.models
    assert found.faults[0].startswith(f"a: {reason}")
    assert len(found.faults) == 1
    kept = (model.tier, model.thinking, model.settings.get("nThreads"))
    assert sum(value is not None for value in kept) >= 2


def test_an_entry_that_is_none() -> None:
    content = json.dumps({"models": {"a": None, "b": [1], "c": {}}}).encode()
    found = parse_registry(content, "r.json")
    assert found.models == (OriginalModel("c"),)
    assert found.faults == ("a: it is not a mapping", "b: it is not a mapping")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"models": {', "it is not JSON"),
        (b"\xff\xfe", "it is not JSON"),
        (b'{"models": ' + b"[" * 100_000, "it is not JSON"),
        (b"[]", "it is not a registry"),
        (b'{"models": []}', "it has no mapping `models`"),
        (b"{}", "it has no mapping `models`"),
        (b'{"format": 1, "registry": {"models": {}}}', "it is a registry of magid itself"),
    ],
)
def test_no_registry(content: bytes, reason: str) -> None:
    with pytest.raises(InvalidInput, match=f"^cannot import r.json: {reason}"):
        parse_registry(content, "r.json")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
FIELDS = st.sampled_from([
    "file_path", "tier_override", "thinking_override", "enabled", "port", "ctx_size", "portRange",
])  # fmt: skip


@given(st.dictionaries(st.text(max_size=5), JSON | st.dictionaries(FIELDS, JSON)))
def test_whatever_it_has(models: dict[str, Any]) -> None:
    found = parse_registry(json.dumps({"models": models}).encode(), "r.json")
    named = {model.model_id for model in found.models}
    named |= {name for name in models for fault in found.faults if fault.startswith(f"{name}: ")}
    assert named == set(models)


# -- profiles ------------------------------------------------------------------------------------


def test_a_profile() -> None:
    ids = {"deepseek_r10528qwen3_8p0b_q4km_powerful": "deepseek_r1_8p0b_q4km_powerful"}
    found = parse_profile(DEVELOPMENT.encode(), "development.yaml", ids)
    assert found.faults == ()
    read = found.profile
    assert (read.name, read.description) == ("Development", "Fast iteration with small models")
    assert read.enabled_models == ("qwen3_4p0b_q4km_fast", "deepseek_r1_8p0b_q4km_powerful")
    assert [(t.name, t.max_score, t.expected_time_seconds) for t in read.tier_config] == [
        ("fast", 5.0, 2),
        ("powerful", 10.0, 10),
    ]
    assert (read.two_stage.enabled, read.two_stage.stage1_tier) == (True, "fast")
    assert not read.load_balancing.enabled


def test_as_a_flat_file_and_as_its_api_answers() -> None:
    flat = "name: Production\nenabled_models:\n- qwen3_4p0b_q4km_fast\ntwo_stage: null\n"
    answer = '{"name": "Production", "enabledModels": ["qwen3_4p0b_q4km_fast"], "twoStage": {}}'
    read = [parse_profile(text.encode(), "p", {}).profile for text in (flat, answer)]
    assert read[0] == read[1]
    assert read[0].tier_config == DEFAULT_TIERS


def test_a_profile_of_magid_is_unchanged() -> None:
    text = b"name: A\nenabled_models: ['tier:fast', 'qwen3*']\nload_balancing: {weights: {'a*': 2}}"
    assert parse_profile(text, "a.yaml", {}).profile == profile.parse(text, "a.yaml")


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("load_balancing: {strategy: random}", ["load_balancing.strategy 'random' is not known"]),
        ("load_balancing: {sticky: true}", ["load_balancing.sticky is not known to magid"]),
        ("color: blue", ["color is not known to magid"]),
        ("enabled_models: ['Qwen 3']", ["enabled_models: 'Qwen 3' cannot be an id"]),
        ("tier_config: [{name: turbo, max_score: 1.0}]", ["tier_config: 'turbo' is not a tier"]),
    ],
)
def test_what_has_no_place_is_named(text: str, faults: list[str]) -> None:
    found = parse_profile(f"profile: {{name: A}}\n{text}\n".encode(), "a.yaml", {})
    assert [fault[: len(start)] for fault, start in zip(found.faults, faults, strict=True)] == (
        faults
    )
    assert found.profile.load_balancing.strategy is Strategy.ROUND_ROBIN


def test_the_least_loaded_server() -> None:
    found = parse_profile(b"name: A\nload_balancing: {strategy: least_loaded}", "a.yaml", {})
    assert found.profile.load_balancing.strategy is Strategy.LEAST_OUTSTANDING
    assert found.faults == ()


@pytest.mark.parametrize("spelling", [".inf", ".Inf", "+.INF"])
def test_no_limit(spelling: str) -> None:
    text = f"name: A\ntier_config: [{{name: fast, max_score: {spelling}}}]"
    assert parse_profile(text.encode(), "a", {}).profile.tier_config[0].max_score == 10.0
    tiers = f"[{{name: fast, max_score: 50}}, {{name: powerful, max_score: {spelling}}}]"
    text = f"name: A\ntier_config: {tiers}"
    assert parse_profile(text.encode(), "a", {}).profile.tier_config[1].max_score == 1000.0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("profile: {description: x}", "cannot import a.yaml: name "),
        ("profile: [A]", "cannot import a.yaml: name "),
        ("name: A\nenabled_models: {}", "cannot import a.yaml: enabled_models "),
        ("name: A\ntier_config: [1]", r"cannot import a.yaml: tier_config\[0\] "),
        ("name: A\ntwo_stage: {stage1_tier: x}", "cannot import a.yaml: two_stage.stage1_tier "),
        ("name: A\nname: B", "cannot read a.yaml: line 2"),
        ("name: [", "cannot read a.yaml: "),
    ],
)
def test_no_profile(text: str, reason: str) -> None:
    with pytest.raises(InvalidProfile, match=f"^{reason}"):
        parse_profile(text.encode(), "a.yaml", {})


def test_which_file_is_which() -> None:
    assert is_registry(as_registry(entry("a", PATH)))
    assert not is_registry(DEVELOPMENT.encode())
    assert not is_registry(b'{"name": "A"}')
