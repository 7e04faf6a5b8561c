"""One request as the gateway sees it: parsed once, passed on as the bytes it came as. Pure.

A large body is not parsed as a whole (`outline`): the long strings in its `fields` are marks then.
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qs

from pydantic_core import from_json, to_json

from magid.errors import InvalidInput
from magid.gateway.routing.endpoints import Endpoint
from magid.gateway.routing.fleet import AUTO
from magid.gateway.routing.outline import Body, Buffer, Outline, outlined
from magid.gateway.routing.prompt import Prompt, is_text, read

MAX_MESSAGES = 4096  # each is hashed, which takes 3 us


@dataclass(slots=True)
class Asked:
    """`fields` is the body's JSON; `passed` are the header lines that go on to llama-server."""

    endpoint: Endpoint
    body: Body
    fields: Mapping[str, Any]
    model: str
    request_id: str = ""
    client: str = ""  # who asks, for fairness between clients
    passed: bytes = b""
    takes_chunks: bool = True  # HTTP/1.1
    token: str = ""  # the name of the caller's
    only: tuple[str, ...] | None = None  # the models that it may use, as `fleet.limited` takes them
    client_request_id: str = ""  # the client's own word for it: shown, and good for nothing else
    outline: Outline | None = None  # of a large body
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

    def changed(self, fields: Mapping[str, Any], **more: Any) -> "Asked":
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
    """The body's fields and its `model`; without one, auto. Raises InvalidInput.

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
    model = fields.get("model", AUTO)
    is_name = isinstance(model, str) and bool(model)
    if not is_name or (outline is not None and outline.chars(model) > len(model)):
        raise InvalidInput(
            "cannot choose a model: `model` is not a name; GET /v1/models lists the names",
            field="model",
        )
    for name in ("messages", "input"):
        messages = fields.get(name)
        if (
            isinstance(messages, list)
            and len(messages) > MAX_MESSAGES
            and not (name == "input" and is_text(messages))
        ):
            raise InvalidInput(
                f"cannot take this request: `{name}` has {len(messages)} messages, over "
                f"{MAX_MESSAGES}; leave out the oldest",
                field=name,
            )
    return fields, model
