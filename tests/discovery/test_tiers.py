"""Tiers and thinking, by tables."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magid.discovery.tiers import (
    ThinkingMode,
    Thresholds,
    Tier,
    assign_tier,
    detect_thinking,
    effective_billions,
    thinking_of_template,
)

_NONE, _TOGGLE, _ALWAYS = ThinkingMode.NONE, ThinkingMode.TOGGLEABLE, ThinkingMode.ALWAYS


@pytest.mark.parametrize(
    ("billions", "bits", "thinking", "tier"),
    [
        (0.5, 4, _NONE, Tier.FAST),
        (6.9, 4, _TOGGLE, Tier.FAST),
        (6.9, 5, _NONE, Tier.BALANCED),
        (7.0, 4, _NONE, Tier.BALANCED),
        (13.9, 2, _NONE, Tier.BALANCED),
        (14.0, 2, _NONE, Tier.POWERFUL),
        (0.5, 4, _ALWAYS, Tier.POWERFUL),
        (0.0, 0, _NONE, Tier.FAST),
    ],
)
def test_tier(billions: float, bits: float, thinking: ThinkingMode, tier: Tier) -> None:
    assigned = assign_tier(billions=billions, bits=bits, thinking=thinking, thresholds=Thresholds())
    assert assigned is tier


@pytest.mark.parametrize(
    ("thresholds", "tier"),
    [
        (Thresholds(powerful_min=3.0), Tier.POWERFUL),
        (Thresholds(fast_max=5.0), Tier.FAST),
        (Thresholds(fast_max=4.0), Tier.BALANCED),
    ],
)
def test_thresholds(thresholds: Thresholds, tier: Tier) -> None:
    assigned = assign_tier(billions=4.0, bits=4, thinking=_NONE, thresholds=thresholds)
    assert assigned is tier


@pytest.mark.parametrize(
    ("total", "active", "billions"),
    [(30e9, 3e9, 9.49), (235e9, 22e9, 71.9), (8e9, 8e9, 8.0), (0, 0, 0.0)],
)
def test_a_mixture_of_experts_counts_as_the_geometric_mean(
    total: float, active: float, billions: float
) -> None:
    assert effective_billions(round(total), round(active)) == pytest.approx(billions, rel=1e-3)


@pytest.mark.parametrize(
    ("template", "mode", "evidence"),
    [
        # Qwen3
        (
            "{%- if enable_thinking is defined and enable_thinking is false %}"
            "{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}",
            _TOGGLE,
            "enable_thinking",
        ),
        # Qwen3-Thinking-2507, QwQ
        (
            "{%- set content = content.split('</think>')[-1] %}{%- if add_generation_prompt %}"
            "{{- '<|im_start|>assistant\\n<think>\\n' }}{%- endif %}",
            _ALWAYS,
            "<think> and </think>",
        ),
        # Olmo-3-Think
        (
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>' }}{% endif %}",
            _ALWAYS,
            "begins the answer with <think>",
        ),
        # the first DeepSeek-R1
        (
            "{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}",
            _ALWAYS,
            "cuts off",
        ),
        # Qwen3-Instruct in some conversions: only old answers are handled
        ("{% if message.reasoning_content %}{{ x.split('</think>')[0] }}", None, ""),
        # DeepSeek-V3.1
        ("{% if not thinking is defined %}{% set thinking = false %}</think>", _TOGGLE, "thinking"),
        # Granite 3.3
        ("{%- if thinking %}Respond to every user query <think></think>", _TOGGLE, "thinking"),
        # Mistral 4: one of the efforts is none
        ("{% if reasoning_effort == 'none' %}[THINK][/THINK]", _TOGGLE, "reasoning_effort"),
        # gpt-oss: effort can be less, never none
        (
            "{%- if reasoning_effort is not defined %}{%- set reasoning_effort = 'medium' %}"
            "<|channel|>analysis<|message|> <|channel|>final",
            _ALWAYS,
            "<|channel|>analysis",
        ),
        # Magistral
        ("{{ '[SYSTEM_PROMPT][THINK]your thoughts[/THINK]' }}", _ALWAYS, "[THINK]"),
        # Llama-Nemotron
        ("{% if 'detailed thinking on' in system %}", _TOGGLE, "detailed thinking"),
        # SmolLM3
        ("{%- if '/no_think' in system_message -%}<think></think>", _TOGGLE, "/no_think"),
        # nothing of the kind
        ("{% for message in messages %}{{ message['content'] }}{% endfor %}", None, ""),
        ("I think, therefore {% if rethinking %}", None, ""),
        ("", None, ""),
        (None, None, ""),
    ],
)
def test_templates(template: str | None, mode: ThinkingMode | None, evidence: str) -> None:
    said = thinking_of_template(template)
    assert (said[0] if said else None) is mode
    assert evidence in (said[1] if said else "")


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("DeepSeek-R1-8B-Q4_K_M.gguf", _ALWAYS),
        ("QwQ-32B.gguf", _ALWAYS),
        ("gpt-oss-20b.gguf", _ALWAYS),
        ("EXAONE-Deep-7.8B.gguf", _ALWAYS),
        ("Phi-4-mini-reasoning.gguf", _ALWAYS),
        ("Qwen3-30B-A3B-Non-Thinking.gguf", _NONE),
        ("Qwen3-4B-NoThink.gguf", _NONE),
        ("Qwen3-4B.gguf", _NONE),
        ("R10-7B.gguf", _NONE),
        ("Rethinking-7B.gguf", _NONE),
        ("", _NONE),
    ],
)
def test_names(name: str, mode: ThinkingMode) -> None:
    assert detect_thinking(None, name)[0] is mode


def test_the_template_goes_before_the_name() -> None:
    mode, evidence = detect_thinking("{% if enable_thinking %}", "DeepSeek-R1-8B.gguf")
    assert (mode, evidence) == (_TOGGLE, "the chat template has enable_thinking")


@given(st.text(), st.text())
def test_evidence_is_short_and_says_something(template: str, name: str) -> None:
    _, evidence = detect_thinking(template, name)
    assert 0 < len(evidence) < 100
