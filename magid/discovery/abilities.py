"""A model's abilities, from its header and its projector's, before it ever runs. Pure.

Templates come from untrusted files: they are searched as text, in linear time, and never rendered.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Final

from msgspec import Struct

from magid.discovery.kinds import ModelKind
from magid.discovery.naming import number

_SEARCHED: Final = 128 << 10
"""Characters of a template that are searched; the longest in use have about 30,000."""

_ENDINGS: Final = {"%": "%}", "{": "}}", "#": "#}"}
_QUOTED: Final = re.compile(r"""'(?:[^'\\]|\\.)*(?:'|\\?\Z)|"(?:[^"\\]|\\.)*(?:"|\\?\Z)""", re.S)
_TOOLS: Final = re.compile(r"(?<![\w.])tools\b(?!\s*=(?!=))")
_CONDITION: Final = re.compile(r"-?\s*(?:el)?if\b")
_INFILL: Final = (
    ("tokenizer.ggml.fim_pre_token_id", "tokenizer.ggml.prefix_token_id"),
    ("tokenizer.ggml.fim_suf_token_id", "tokenizer.ggml.suffix_token_id"),
    ("tokenizer.ggml.fim_mid_token_id", "tokenizer.ggml.middle_token_id"),
)
"""The keys that /infill needs; the second names are the older ones."""

HEADER_KEYS: Final = tuple(key for keys in _INFILL for key in keys)
HEADER_FLAGS: Final = ("clip.has_vision_encoder", "clip.has_audio_encoder")


class ModelAbilities(Struct, frozen=True):
    """What a model can do; None where the files do not say."""

    tools: bool | None = None  # its chat template uses them
    images: bool | None = None  # it has a projector for them
    audio: bool | None = None  # likewise
    infill: bool | None = None  # True: its header has the tokens that /infill needs
    embedding_length: int | None = None  # numbers in one vector


def has_place_for_tools(template: str) -> bool:
    """Whether a chat template uses the variable `tools` in an expression or a statement.

    Not counted: comments, strings, other names (`message.tools`, `builtin_tools`), assignments,
    and conditions whose body begins with an exception. llama-server renders the template with
    tools and checks that they were used; the result is the same for the templates in use.
    """
    for block, following in pairwise((*_blocks(template[:_SEARCHED]), "")):
        if "tools" in block and _TOOLS.search(_QUOTED.sub("''", block)):
            refuses = _CONDITION.match(block) and "raise_exception" in following
            if not refuses:
                return True
    return False


def _blocks(template: str) -> Iterator[str]:
    """Yields the content of each {% %} and {{ }}."""
    at = template.find("{")
    while at >= 0:
        ending = _ENDINGS.get(template[at + 1 : at + 2])
        if ending is None:
            at = template.find("{", at + 1)
            continue
        end = template.find(ending, at + 2)
        if end < 0:
            return
        if ending != "#}":
            yield template[at + 2 : end]
        at = template.find("{", end + 2)


def abilities_of(
    kind: ModelKind,
    metadata: Mapping[str, object],
    architecture: str,
    *,
    tools: bool | None,
    projector: Mapping[str, object] | None,
) -> ModelAbilities:
    """Returns a model's abilities. `tools`: whether its chat template uses tools, None without one.

    A chat model without a template gets llama-server's own, which does not use tools. `projector`
    is the header of the projector.
    """
    is_chat = kind is ModelKind.CHAT
    flags = [_flag(projector, key) if is_chat else False for key in HEADER_FLAGS]
    has_infill = all(any(number(metadata, key) is not None for key in keys) for keys in _INFILL)
    length = number(metadata, f"{architecture}.embedding_length_out") or number(
        metadata, f"{architecture}.embedding_length"
    )
    return ModelAbilities(
        tools=is_chat and bool(tools),
        images=flags[0],
        audio=flags[1],
        infill=(True if has_infill else None) if is_chat else False,
        embedding_length=length or None,
    )


def _flag(projector: Mapping[str, object] | None, key: str) -> bool | None:
    if projector is None:
        return False
    if all(number(projector, one) is None for one in HEADER_FLAGS):
        return None
    return bool(number(projector, key))
