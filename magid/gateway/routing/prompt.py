"""What a request contains, whichever of the APIs it speaks: messages, text, images, tools. Pure.

A request that is malformed in these parts is llama-server's to refuse: here it only has less of
them.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from pydantic_core import to_json

from magid.gateway.routing.outline import CUT_BYTES, Outline, shortened

# English takes about 4 characters per token, other languages and code fewer; a little pessimism
# only costs a larger model where both would do.
CHARS_PER_TOKEN = 3.5
_TOKENS_PER_IMAGE = 1000  # a usual projector makes 256 to 1,500 of one

_LIMITS = ("max_completion_tokens", "max_tokens", "max_output_tokens", "n_predict")


@dataclass(frozen=True, slots=True)
class Prompt:
    """`chain` has a digest per message, of all messages so far: equal prefix, equal digest."""

    text_chars: int  # of everything, tools too
    newest: str  # the last text of a person
    turns: int  # messages of a person
    images: int
    audio: int
    has_tools: bool
    is_remote: bool  # a part of it is named by an address, and not sent along
    answer_tokens: int  # as many as the answer may have, if the request says so; else 0
    chain: tuple[bytes, ...]
    chars: tuple[int, ...]  # of all messages so far, for each digest

    @property
    def tokens(self) -> int:
        """An estimate of the prompt's size."""
        return int(self.text_chars / CHARS_PER_TOKEN) + self.images * _TOKENS_PER_IMAGE


NEWEST_CHARS = 3000  # of each long string in the newest text, from either end


def read(fields: Mapping[str, Any], outline: Outline | None = None) -> Prompt:
    """`outline` is what `fields` are of, where the body was large."""
    messages = _messages(fields)
    tools = fields.get("tools")
    length = len if outline is None else outline.chars
    extra = length(to_json(tools).decode()) if tools else 0
    chain, chars = _chain(messages, extra, length)
    people = [m for m in messages if m.get("role") == "user"]
    newest = next((t for m in reversed(people) if (t := "\n".join(_texts(m.get("content"))))), "")
    if outline is not None:
        newest = outline.excerpt(newest, NEWEST_CHARS)
    parts = [p for m in messages for p in _parts(m.get("content"))]
    return Prompt(
        text_chars=chars[-1] if chars else extra,
        newest=newest,
        turns=len(people),
        images=sum("image" in str(p.get("type", "")) for p in parts),
        audio=sum("audio" in str(p.get("type", "")) for p in parts),
        has_tools=bool(tools) or bool(fields.get("functions")),
        is_remote=any(map(_is_remote, messages)),
        answer_tokens=_answer_tokens(fields),
        chain=chain,
        chars=chars,
    )


def _answer_tokens(fields: Mapping[str, Any]) -> int:
    given = (fields.get(name) for name in _LIMITS)
    return next((n for n in given if isinstance(n, int) and n > 0), 0)


def _messages(fields: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Of all APIs, as a list of role and content; a prompt or an input is one message."""
    found: list[Any] = []
    system = fields.get("system") or fields.get("instructions")
    if system:
        found.append({"role": "system", "content": system})
    for name in ("messages", "input", "prompt", "content"):
        value = fields.get(name)
        if isinstance(value, str):
            found.append({"role": "user", "content": value})
        elif isinstance(value, list):
            is_one = name in ("prompt", "content") or (name == "input" and is_text(value))
            found += [{"role": "user", "content": value}] if is_one else value
    return [m if isinstance(m, dict) else {"role": "user", "content": m} for m in found]


def is_text(items: list[Any]) -> bool:
    """Whether these are texts or tokens, as for an embedding, and no messages."""
    return not items or not isinstance(items[0], dict)


def _parts(content: object) -> Iterator[Mapping[str, Any]]:
    if isinstance(content, list):
        yield from (part for part in content if isinstance(part, dict))


_MEDIA = ("image", "audio", "video", "file")
# OpenAI's image_url, with its address below `url` or at once, and Anthropic's source.url.
_ADDRESSES = ("url", "image_url", "audio_url", "video_url", "file_url")
_INSIDE = ("content", "output")  # where parts are, those of what a tool gave back too


def _is_remote(part: object) -> bool:
    """Whether it is a part that is to be fetched, or has one. A tool's arguments are none."""
    if isinstance(part, list):
        return any(map(_is_remote, part))
    if not isinstance(part, dict):
        return False
    kind = str(part.get("type", ""))
    if any(word in kind for word in _MEDIA) and _names_address(part):
        return True
    return any(_is_remote(part.get(name)) for name in _INSIDE)


def _names_address(value: object) -> bool:
    """As deep as the JSON parser lets it be."""
    if not isinstance(value, dict):
        return False
    named = (value.get(name) for name in _ADDRESSES)
    if any(isinstance(text, str) and text[:5].lower() != "data:" for text in named):
        return True
    return any(map(_names_address, value.values()))


def _texts(content: object) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for part in content:
            text = part.get("text") if isinstance(part, dict) else part
            if isinstance(text, str):
                yield text


def _chain(
    messages: list[Mapping[str, Any]], extra: int, length: Callable[[str], int]
) -> tuple[tuple[bytes, ...], tuple[int, ...]]:
    digest = blake2b(digest_size=12)
    total = extra
    chain, chars = [], []
    for message in messages:
        digest.update(_identity(message))
        total += sum(map(length, _texts(message.get("content"))))
        chain.append(digest.copy().digest())
        chars.append(total)
    return tuple(chain), tuple(chars)


def _identity(message: Mapping[str, Any]) -> bytes:
    """Equal for what the model sees alike: SDKs add keys that say nothing to their own answers.

    Long strings are as in an outline: a conversation grows from small bodies to large ones.
    """
    content = message.get("content")
    calls = message.get("tool_calls")
    identity = to_json([message.get("role"), _said(content), calls or None])
    if len(identity) < CUT_BYTES:
        return identity
    return to_json([message.get("role"), _said(shortened(content)), shortened(calls) or None])


def _said(content: object) -> str:
    return content if isinstance(content, str) else to_json(content).decode()
