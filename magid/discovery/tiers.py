"""Assigns tiers to models, and detects thinking. Pure.

A chat template comes from an untrusted file: it is searched as text and never rendered.
"""

import math
import re
from enum import StrEnum
from typing import Final

from msgspec import Struct


class Tier(StrEnum):
    """What a model is for: quick replies, most requests, or hard questions."""

    FAST = "fast"
    BALANCED = "balanced"
    POWERFUL = "powerful"


class ThinkingMode(StrEnum):
    """Whether the model writes a thinking part before its answer."""

    NONE = "none"
    TOGGLEABLE = "toggleable"  # the request decides
    ALWAYS = "always"


class Thresholds(Struct, frozen=True):
    """In billions of parameters: from `powerful_min` up powerful, below `fast_max` maybe fast."""

    powerful_min: float = 14.0
    fast_max: float = 7.0


_FAST_BITS: Final = 4.0
"""Maximum nominal bits per weight (Q4_K_M: 4) of a small model that counts as fast."""


def assign_tier(
    *, billions: float, bits: float, thinking: ThinkingMode, thresholds: Thresholds
) -> Tier:
    """Returns the tier by effective size (billions of parameters), bits per weight and thinking."""
    if thinking is ThinkingMode.ALWAYS or billions >= thresholds.powerful_min:
        return Tier.POWERFUL
    if billions < thresholds.fast_max and bits <= _FAST_BITS:
        return Tier.FAST
    return Tier.BALANCED


def effective_billions(total: int, active: int) -> float:
    """Returns the size of the dense model that equals a mixture of experts, in billions.

    sqrt(total x active) is a rule of thumb of the field. Memory always depends on the total.
    """
    return math.sqrt(total * active) / 1e9


_SEARCHED: Final = 128 << 10
"""Characters of a template that are searched; the longest in use have about 30,000."""

_PROMPT: Final = 400
"""Characters after the last `add_generation_prompt` in which a template begins the answer."""

_SWITCH_TEXTS: Final = (
    "enable_thinking",  # Qwen3, GLM-4.5, SmolLM3, EXAONE 4, Gemma 4
    "thinking_budget",  # Seed-OSS: 0 is off
    "skip_thinking",  # Command R7B
    "/no_think",  # SmolLM3, Hunyuan, Nemotron Nano 2
    "/nothink",  # GLM-4.5
    "detailed thinking",  # Llama-Nemotron: "on" or "off" in the system prompt
)
_SWITCH_PATTERNS: Final = (
    # Granite, DeepSeek-V3.1, Kimi-K2.5, Command A: a variable of the template itself
    re.compile(r"\{%-?\s*(?:el)?if\s+(?:not\s+)?(thinking|reasoning)\b"),
    # levels of effort, including "none"
    re.compile(r"(reasoning_effort)\s*(?:==|!=|in|not in)\s[^%}]{0,60}['\"]none['\"]"),
)
_THOUGHT_PAIRS: Final = (
    ("<think>", "</think>"),  # Qwen3-Thinking, QwQ, MiniMax-M2, Phi-4-reasoning
    ("<thought>", "</thought>"),  # EXAONE Deep
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),  # Magistral
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel|>analysis", "<|channel|>final"),  # gpt-oss: its effort cannot be none
    ("<|channel>thought", "<channel|>"),  # Gemma 4 without its switch
)
_OPENED: Final = re.compile(r"<think>|<thought>|\[THINK\]")
_STRIPPED: Final = re.compile(r"split\(\s*['\"]</think>['\"]\s*\)")

_THINKING_WORDS: Final = frozenset(
    [
        "thinking",
        "think",
        "thinker",
        "reasoning",
        "reasoner",
        "r1",
        "qwq",
        "qvq",
        "magistral",
        "openthinker",
    ]
)
_THINKING_PAIRS: Final = frozenset({("gpt", "oss"), ("exaone", "deep"), ("marco", "o1")})
_NEGATIONS: Final = frozenset({"no", "non", "not", "without"})
_WORD: Final = re.compile(r"[a-z0-9]+")


def detect_thinking(template: str | None, name: str) -> tuple[ThinkingMode, str]:
    """Returns how the model thinks, and the evidence: from the template, else from the name."""
    return thinking_of_template(template) or thinking_of_name(name)


def thinking_of_template(template: str | None) -> tuple[ThinkingMode, str] | None:
    """Returns how the model thinks by its chat template, and the evidence; None if unknown.

    A switch anywhere means that the caller decides. Without one, thinking marks mean that the model
    always thinks: both marks, the opening mark in the prompt for the answer, or the closing mark
    where the template strips old answers up to it (the first DeepSeek-R1; Ollama has this rule).
    """
    if not template:
        return None
    text = template[:_SEARCHED]
    if switch := _switch(text):
        return ThinkingMode.TOGGLEABLE, f"the chat template has {switch}"
    for opening, closing in _THOUGHT_PAIRS:
        if opening in text and closing in text:
            return ThinkingMode.ALWAYS, f"the chat template has {opening} and {closing}"
    _, prompt, beginning = text.rpartition("add_generation_prompt")
    if prompt and (match := _OPENED.search(beginning[:_PROMPT])):
        return ThinkingMode.ALWAYS, f"the chat template begins the answer with {match[0]}"
    if "reasoning_content" not in text and _STRIPPED.search(text):
        return ThinkingMode.ALWAYS, "the chat template cuts off the text before </think>"
    return None


def _switch(text: str) -> str | None:
    for known in _SWITCH_TEXTS:
        if known in text:
            return known
    for pattern in _SWITCH_PATTERNS:
        if match := pattern.search(text):
            return match[1]
    return None


def thinking_of_name(name: str) -> tuple[ThinkingMode, str]:
    """Returns `always` for a name with a known word, unless "no" or "non" precedes it."""
    words = _WORD.findall(name.lower())
    for before, word in zip(["", *words], words, strict=False):
        if word in _THINKING_WORDS and before not in _NEGATIONS:
            return ThinkingMode.ALWAYS, f"the name has {word!r}"
        if (before, word) in _THINKING_PAIRS:
            return ThinkingMode.ALWAYS, f"the name has '{before}-{word}'"
    return ThinkingMode.NONE, "neither the chat template nor the name indicates thinking"
