"""Further names of a profile: aliases, and variants, which bring parameters of their own. Pure.

A variant makes several models of one running server: `qwen3:think` and `qwen3:fast` differ in what
their requests ask of it. `gateway/routing/variants` puts it into a request.
"""

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from msgspec import Meta, field

from magid.files.schema import Rule, Schema, about, plain

MAX_SYSTEM = 16_000  # characters
MAX_PARAMETERS = 100
MAX_VALUES = 1000  # in all parameters of one kind, nested ones included
_MAX_DEPTH = 8
_PARAMETER = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")

_CONTENT = "the client's question"
_STREAM = "the client's choice, which decides how it reads the answer"
_SYSTEM = "given as `system`, beside `model`"
_REASONING = "given as `reasoning`, beside `model`"
# Parameters that no variant has: what magid or the client decides, or another key of it says.
_RESERVED: Mapping[str, str] = {
    "model": "given as `model`, beside `set`",
    "stream": _STREAM,
    "stream_options": _STREAM,
    **dict.fromkeys(
        ("messages", "prompt", "input", "input_prefix", "input_suffix", "input_extra", "content"),
        _CONTENT,
    ),
    **dict.fromkeys(("system", "instructions"), _SYSTEM),
    **dict.fromkeys(
        ("thinking", "reasoning", "reasoning_budget", "reasoning_budget_tokens",
         "thinking_budget_tokens"),
        _REASONING,
    ),
}  # fmt: skip


def one_line(text: str) -> str:
    """The text, if it is one line. Raises ValueError."""
    if not text.strip() or not text.isprintable():
        raise ValueError("should be text on one line")
    return text


def _prompt(text: str) -> str:
    if len(text) > MAX_SYSTEM:
        raise ValueError(f"should have at most {MAX_SYSTEM} characters")
    if not text.translate(_LINES_AND_TABS).isprintable():
        raise ValueError("should be text without control characters")
    return text


_LINES_AND_TABS = {ord("\n"): None, ord("\t"): None}


def _parameter(name: str) -> str:
    if name in _RESERVED:
        raise ValueError(f"cannot be changed here: it is {_RESERVED[name]}")
    if not _PARAMETER.fullmatch(name):
        raise ValueError("should be the name of a parameter, as temperature or top_p")
    return name


def _values(values: dict[str, Any]) -> dict[str, Any]:
    """What JSON can have, bounded: it goes into every request."""
    left = MAX_VALUES
    waiting = [(value, 1) for value in values.values()]
    while waiting:
        value, depth = waiting.pop()
        left -= 1
        if left < 0 or depth > _MAX_DEPTH:
            raise ValueError(f"should have at most {MAX_VALUES} values, {_MAX_DEPTH} deep")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError("should have finite numbers")
        if isinstance(value, (list, dict)):
            items = value.values() if isinstance(value, dict) else value
            waiting += [(item, depth + 1) for item in items]
    return values


def _not_null(values: dict[str, Any]) -> dict[str, Any]:
    """Null would be refused by llama-server for many of them, and say nothing for the others."""
    empty = next((name for name, value in values.items() if value is None), None)
    if empty is not None:
        raise ValueError(f"should have no null ({empty}); `strip` removes a parameter")
    return values


def _once(names: tuple[str, ...], beside: dict[str, Any]) -> tuple[str, ...]:
    for name in names:
        if name in beside:
            raise ValueError(f"has {name}, which `set` has too and always wins; remove one")
    return names


def _not_set(values: dict[str, Any], beside: dict[str, Any]) -> dict[str, Any]:
    _once(tuple(values), beside)
    return values


Alias = Annotated[str, Meta(max_length=200), Rule(one_line)]
Parameter = Annotated[str, Rule(_parameter)]
Values = Annotated[
    dict[Parameter, Any], Meta(max_length=MAX_PARAMETERS), Rule(_not_null), Rule(_values)
]


class Variant(Schema, frozen=True):
    """A name for a model, a tier or auto, with parameters of its own."""

    has_api_names: ClassVar[bool] = True
    omits_defaults: ClassVar[bool] = True

    model: Annotated[Alias, about("Id of a model, another name of one, a tier, or auto")]
    set: Annotated[Values, about("Parameters of every request, whatever its client says")] = field(
        default_factory=dict
    )
    defaults: Annotated[
        Values, Rule(_not_set, beside="set"), about("Parameters where the client gives none")
    ] = field(default_factory=dict)
    strip: Annotated[
        tuple[Parameter, ...],
        Meta(max_length=MAX_PARAMETERS),
        Rule(_once, beside="set"),
        about("Parameters of clients that are left out"),
    ] = ()
    system: Annotated[
        str,
        Rule(_prompt),
        about("A system prompt, before the client's own"),
    ] = ""
    reasoning: Annotated[
        Annotated[int, Meta(ge=-1, le=1_000_000)] | None,
        about("Tokens that the model may think for; 0: it does not think; -1: no limit"),
    ] = None

    @property
    def public(self) -> dict[str, Any]:
        """Its parameters as a list of models has them: whether it has a system prompt, not which.

        Clients of one token see what is in force, and an operator's prompt may be no business of
        theirs.
        """
        shown: dict[str, Any] = plain(self)
        del shown["model"]
        return shown | ({"system": True} if self.system else {})


Target = Alias | Variant


def lead_to_models(aliases: dict[str, str | Variant]) -> dict[str, str | Variant]:
    """The aliases, if no variant is one of another variant. Raises ValueError."""
    # `files.explanation` has another class for a variant.
    variants = {name: to for name, to in aliases.items() if not isinstance(to, str)}
    for name, variant in variants.items():
        through = aliases.get(variant.model)
        if through is not None and (not isinstance(through, str) or through in variants):
            raise ValueError(
                f"should have no variants of variants: the `model` of {name!r} is {variant.model!r}"
            )
    return aliases
