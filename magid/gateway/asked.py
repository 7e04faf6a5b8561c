"""One request as the gateway sees it: parsed once, passed on as the bytes it came as. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

from pydantic_core import from_json

from magid.errors import InvalidInput
from magid.gateway.endpoints import Endpoint
from magid.gateway.fleet import AUTO
from magid.gateway.prompt import Prompt, read


@dataclass(slots=True)
class Asked:
    """`fields` is the body's JSON; `passed` are the header lines that go on to llama-server."""

    endpoint: Endpoint
    body: bytes
    fields: Mapping[str, Any]
    model: str
    request_id: str = ""
    client: str = ""  # who asks, for fairness between clients
    passed: bytes = b""
    takes_chunks: bool = True  # HTTP/1.1
    token: str = ""  # the name of the caller's
    only: tuple[str, ...] | None = None  # the models that it may use, as `fleet.limited` takes them
    client_request_id: str = ""  # the client's own word for it: shown, and good for nothing else
    _prompt: Prompt | None = None

    @property
    def prompt(self) -> Prompt:
        """Looked at when it is first asked for: many requests need none of it."""
        if self._prompt is None:
            self._prompt = read(self.fields)
        return self._prompt

    @property
    def is_stream(self) -> bool:
        return self.fields.get("stream") is True


def parse_query(query: str) -> tuple[Mapping[str, Any], str]:
    """As `parse`, for a request without a body. Keys but `model` do not matter."""
    model = parse_qs(query, errors="replace").get("model", [AUTO])[0]
    return {"model": model}, model


def parse(endpoint: Endpoint, body: bytes) -> tuple[dict[str, Any], str]:
    """The body's fields and its `model`; without one, auto. Raises InvalidInput.

    llama-server takes the last of two equal keys, and so does this parser.
    """
    try:
        fields = from_json(body, cache_strings="keys")
    except ValueError as error:
        raise InvalidInput(f"cannot read the request body: it is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise InvalidInput("cannot read the request body: it is not a JSON object")
    model = fields.get("model", AUTO)
    if not isinstance(model, str) or not model:
        raise InvalidInput(
            "cannot choose a model: `model` is not a name; GET /v1/models lists the names",
            field="model",
        )
    return fields, model
