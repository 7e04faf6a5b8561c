"""One request as the gateway sees it: parsed once, passed on as the bytes it came as. Pure.

A large body is not parsed as a whole (`outline`): the long strings in its `fields` are marks then.
`Prompt` is what a request contains, in whichever dialect: messages, text, images, tools. Malformed
parts are llama-server's to refuse; here they only leave something out.
"""

from collections.abc import Callable, Generator, Iterator, Mapping
from hashlib import blake2b
from typing import Any
from urllib.parse import parse_qs

from msgspec import Struct
from msgspec.structs import replace

from magid.errors import InvalidInput
from magid.gateway.routing.endpoints import Endpoint
from magid.gateway.routing.fleet import AUTO
from magid.gateway.routing.outline import CUT_BYTES, Body, Buffer, Outline, outlined, shortened
from magid.http.json_text import from_json, to_json

# English takes about 4 characters per token, other languages and code fewer; a little pessimism
# only costs a larger model where both would do.
CHARS_PER_TOKEN = 3.5
_TOKENS_PER_IMAGE = 1000  # a usual projector makes 256 to 1,500 of one


_LIMITS = ("max_completion_tokens", "max_tokens", "max_output_tokens", "n_predict")


class Prompt(Struct, frozen=True):
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
    each = tools if isinstance(tools, list) else [tools]  # one by one: they may be the whole body
    extra = sum(length(to_json(tool).decode()) for tool in each) if tools else 0
    chain, chars = _chain(messages, extra, length)
    people = [m for m in messages if m.get("role") == "user"]
    newest = next((t for m in reversed(people) if (t := _newest(m, outline))), "")
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


def _newest(message: Mapping[str, Any], outline: Outline | None) -> str:
    """The text of a message; of a large body what can be seen of it, without a copy of the rest."""
    texts = [*_texts(message.get("content"))]
    if outline is None:
        return "\n".join(texts)
    if sum(map(len, texts)) + len(texts) - 1 > 2 * NEWEST_CHARS:
        texts = [_start(texts), _start(texts, is_end=True)]
    return outline.excerpt("\n".join(texts), NEWEST_CHARS)


def _start(texts: list[str], *, is_end: bool = False) -> str:
    """The first characters of these texts, one on each line, or the last ones."""
    found = ""
    for text in reversed(texts) if is_end else texts:
        if is_end:
            found = f"{text[-NEWEST_CHARS:]}\n{found}" if found else text[-NEWEST_CHARS:]
        else:
            found = f"{found}\n{text[:NEWEST_CHARS]}" if found else text[:NEWEST_CHARS]
        if len(found) >= NEWEST_CHARS:
            break
    return found[-NEWEST_CHARS:] if is_end else found[:NEWEST_CHARS]


def _answer_tokens(fields: Mapping[str, Any]) -> int:
    given = (fields.get(name) for name in _LIMITS)
    return next((n for n in given if isinstance(n, int) and n > 0), 0)


def _messages(fields: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Of all APIs, as a list of role and content; a prompt or an input is one message."""
    found: list[Any] = []
    system = fields.get("system") or fields.get("instructions")
    if system:
        found.append({"role": "system", "content": system})
    for name in ("messages", "input", "input_prefix", "input_suffix", "prompt", "content"):
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
        for part in _identity(message):
            digest.update(part)
        total += sum(map(length, _texts(message.get("content"))))
        chain.append(digest.copy().digest())
        chars.append(total)
    return tuple(chain), tuple(chars)


def _identity(message: Mapping[str, Any]) -> Iterator[bytes]:
    """Equal for what the model sees alike: SDKs add keys that say nothing to their own answers.

    Long strings are as in an outline: a conversation grows from small bodies to large ones. In
    parts, because one message may be nearly all of a body.
    """
    content = message.get("content")
    calls = message.get("tool_calls") or None
    if isinstance(content, list):
        yield _shown([message.get("role"), calls])
        for part in content:
            yield b",%b" % _shown(part)
    else:
        yield _shown([message.get("role"), calls, content])


def _shown(value: Any) -> bytes:
    shown = to_json(value)
    return shown if len(shown) < CUT_BYTES else to_json(shortened(value))


MAX_MESSAGES = 4096  # each is hashed, which takes 3 us


class ParsedRequest(Struct):
    """`fields` is the body's JSON; `passed` are the header lines that go on to llama-server."""

    endpoint: Endpoint
    body: Body
    fields: Mapping[str, Any]
    model: str
    request_id: str = ""
    client: str = ""  # who asks, for fairness between clients
    passed: bytes = b""
    token: str = ""  # the name of the caller's
    only: tuple[str, ...] | None = None  # the models that it may use, as `fleet.limited` takes them
    client_request_id: str = ""  # the client's own word for it: shown, and good for nothing else
    outline: Outline | None = None  # of a large body
    variant: str = ""  # whose parameters are in its fields; empty: none
    pieces: tuple[Buffer, ...] = ()  # what goes on in the place of `body`
    _prompt: Prompt | None = None

    @property
    def prompt(self) -> Prompt:
        """Looked at when it is first asked for: many requests need none of it."""
        if self._prompt is None:
            self._prompt = read(self.fields, self.outline)
        return self._prompt

    @property
    def size(self) -> int:
        """Bytes of the body that goes on."""
        return sum(map(len, self.pieces)) if self.pieces else len(self.body)

    @property
    def has_tools(self) -> bool:
        return bool(self.fields.get("tools")) or bool(self.fields.get("functions"))

    def changed(self, fields: Mapping[str, Any], **more: Any) -> "ParsedRequest":
        """The same request with other fields, made of its own: long strings are not copied."""
        body = to_json(fields)
        pieces = () if self.outline is None else tuple(self.outline.restored(body))
        return replace(self, body=body, pieces=pieces, fields=fields, _prompt=None, **more)

    @property
    def is_stream(self) -> bool:
        return self.fields.get("stream") is True


def parse_query(query: str) -> tuple[Mapping[str, Any], str]:
    """As `parse`, for a request without a body. Keys but `model` do not matter."""
    model = parse_qs(query, errors="replace").get("model", [AUTO])[0]
    return {"model": model}, model


def parse(endpoint: Endpoint, body: Body) -> tuple[dict[str, Any], str]:
    """The body's fields and its `model`; without one, or with null or "", auto.

    Raises InvalidInput.

    llama-server takes the last of two equal keys, and so does this parser. It holds the event loop
    from the first byte to the last: a body of over `outline.WHOLE_BYTES` is for `parse_large`.
    """
    try:
        fields = from_json(body, cache_strings="keys")
    except ValueError as error:
        raise InvalidInput(f"cannot read the request body: it is not JSON: {error}") from None
    return checked(fields)


Parsed = tuple[dict[str, Any], str, Outline]


def parse_large(endpoint: Endpoint, body: Body) -> Generator[None, None, Parsed]:
    """As `parse`, in steps that are short however large the body is."""
    outline = yield from outlined(body)
    return *checked(outline.fields, outline), outline


def checked(fields: Any, outline: Outline | None = None) -> tuple[dict[str, Any], str]:
    """The fields, if a request can have them, and the model. Raises InvalidInput."""
    if not isinstance(fields, dict):
        raise InvalidInput("cannot read the request body: it is not a JSON object")
    model = fields.get("model")
    if model is None or model == "":
        model = AUTO
    if not isinstance(model, str) or (outline is not None and outline.chars(model) > len(model)):
        raise InvalidInput(
            "cannot choose a model: `model` is not a name; GET /v1/models lists the names",
            field="model",
        )
    for name in ("messages", "input"):
        messages = fields.get(name)
        if (
            isinstance(messages, list)
            and (count := len(messages) if outline is None else outline.length(messages))
            > MAX_MESSAGES
            and not (name == "input" and is_text(messages))
        ):
            raise InvalidInput(
                f"cannot take this request: `{name}` has {count} messages, over "
                f"{MAX_MESSAGES}; leave out the oldest",
                field=name,
            )
    return fields, model
