"""Removes nulls that SDKs send for optional fields and that llama-server refuses. Pure.

A null there means the same as an absent field. llama-server 0.7.0 answers 500 or 400 to each of the
fields listed here and accepts the others. Such members are cut out of the body; its other bytes
stay as they came. The search is bounded, whatever the body: the server refuses nulls it does not
reach.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from magid.gateway.routing.endpoints import COMPLETION, Endpoint
from magid.http.json_text import to_json

MOST_LOOKS = 10_000  # objects of one body that are looked at, and places where a key may stand

_MESSAGE = ("name", "reasoning_content", "tool_call_id")
# Of a JSON Schema. Not `default`, `const` and `examples`, where null is a value.
_KEYWORDS = (
    "$ref", "properties", "items", "additionalProperties", "enum", "anyOf", "oneOf", "allOf",
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength",
    "pattern", "format", "minItems", "maxItems",
)  # fmt: skip
_SINGLE = ("items", "additionalProperties", "not")  # keywords whose value is a schema
_LISTED = ("anyOf", "oneOf", "allOf", "prefixItems")  # those whose value is a list of schemas
_NAMED = ("properties", "$defs", "definitions")  # those whose value holds schemas by name


def without(endpoint: Endpoint, body: bytes, fields: dict[str, Any]) -> bytes:
    """The body without such nulls, which are taken out of its `fields` too.

    For a body that was parsed as a whole; one that is read in outline is written again from its
    fields, which `dropped` leaves without them.
    """
    if b"null" not in body:
        return body
    keys = dropped(endpoint, fields)
    return _cut(body, keys, fields) if keys else body


def dropped(endpoint: Endpoint, fields: dict[str, Any]) -> list[str]:
    """The keys of such nulls, which were taken out of these fields."""
    search_in = _SEARCHES.get(endpoint.upstream)
    if search_in is None:
        return []
    search = _Search()
    search_in(search, fields)
    for owner, key in search.found:
        owner.pop(key, None)
    return [key for _, key in search.found]


# -- where they are ------------------------------------------------------------------------------


class _Search:
    """What was found: an object, and the key in it whose value is null."""

    def __init__(self) -> None:
        self.found: list[tuple[dict[str, Any], str]] = []
        self._left = MOST_LOOKS

    def nulls(self, owner: object, keys: Iterable[str]) -> None:
        self._left -= 1
        if isinstance(owner, dict) and self._left > 0:
            self.found += [(owner, key) for key in keys if key in owner and owner[key] is None]

    def list(self, owner: object, key: str) -> list[Any]:
        """No longer than what may still be looked at."""
        found = owner.get(key) if isinstance(owner, dict) else None
        return found[: max(0, self._left)] if isinstance(found, list) else []

    def schema(self, root: object) -> None:
        waiting = [root]
        while waiting and self._left > 0:
            schema = waiting.pop()
            if not isinstance(schema, dict):
                continue
            self.nulls(schema, _KEYWORDS)
            waiting += [schema[key] for key in _SINGLE if key in schema]
            for key in _LISTED:
                waiting += self.list(schema, key)
            for key in _NAMED:
                waiting += list(_dict(schema, key).values())[: self._left]


def _dict(owner: object, key: str) -> dict[str, Any]:
    found = owner.get(key) if isinstance(owner, dict) else None
    return found if isinstance(found, dict) else {}


def _in_chat(search: _Search, fields: dict[str, Any]) -> None:
    search.nulls(fields, ("reasoning_format",))
    for message in search.list(fields, "messages"):
        search.nulls(message, _MESSAGE)
        for call in search.list(message, "tool_calls"):
            search.nulls(call, ("id",))
    for tool in search.list(fields, "tools"):
        function = _dict(tool, "function")
        search.nulls(function, ("description",))
        search.schema(function.get("parameters"))
    form = _dict(fields, "response_format")
    search.schema(form.get("schema"))
    search.schema(_dict(form, "json_schema").get("schema"))


def _in_completion(search: _Search, fields: dict[str, Any]) -> None:
    search.schema(fields.get("json_schema"))


def _in_responses(search: _Search, fields: dict[str, Any]) -> None:
    search.nulls(fields, ("tools",))
    for item in search.list(fields, "input"):
        if isinstance(item, dict) and "role" in item:
            search.nulls(item, ("type",))  # it is a message
    for tool in search.list(fields, "tools"):
        search.nulls(tool, ("description",))
        search.schema(_dict(tool, "parameters"))
    search.schema(_dict(_dict(fields, "text"), "format").get("schema"))


def _in_messages(search: _Search, fields: dict[str, Any]) -> None:
    for tool in search.list(fields, "tools"):
        search.schema(_dict(tool, "input_schema"))


def _in_embeddings(search: _Search, fields: dict[str, Any]) -> None:
    search.nulls(fields, ("encoding_format", "embd_normalize"))


_SEARCHES: Mapping[str, Callable[[_Search, dict[str, Any]], None]] = {
    "/v1/chat/completions": _in_chat,
    "/v1/completions": _in_completion,
    COMPLETION: _in_completion,
    "/apply-template": _in_chat,
    "/v1/responses": _in_responses,
    "/v1/messages": _in_messages,
    "/v1/messages/count_tokens": _in_messages,
    "/v1/embeddings": _in_embeddings,
}

# -- cutting them out ----------------------------------------------------------------------------

Span = tuple[int, int]


def _cut(body: bytes, keys: list[str], fields: Mapping[str, Any]) -> bytes:
    """The body without the members of these names whose value is null, of which there are so many.

    Where its bytes have another number of them (in a `default`, a key twice or spelt with escapes),
    they do not tell which are meant, and the body is written again from its fields.
    """
    spans = sorted(span for name in set(keys) for span in _spans(body, name.encode()))
    return _without_spans(body, spans) if len(spans) == len(keys) else to_json(fields)


def _spans(body: bytes, key: bytes) -> list[Span]:
    """Where `"key": null` stands, with the comma behind it if there is one.

    A quote in a string is escaped, so what looks like a member behind a brace or a comma is one.
    """
    spans: list[Span] = []
    name, end = b'"%b"' % key, 0
    for _ in range(MOST_LOOKS):
        at = body.find(name, end)
        if at < 0:
            break
        end = at + len(name)
        match = _NULL.match(body, end)
        if match and body[max(0, at - _WINDOW) : at].rstrip(_WHITE).endswith((b"{", b",")):
            spans.append((at, match.end()))
    return spans


_WHITE = b" \t\r\n"
_NULL = re.compile(rb"[ \t\r\n]*:[ \t\r\n]*null(?:[ \t\r\n]*,)?")
_WINDOW = 256  # so much white space may stand before a key


def _without_spans(body: bytes, spans: list[Span]) -> bytes:
    kept, at = bytearray(), 0
    for start, end in spans:
        kept += body[at:start]
        at = end
        if not body.endswith(b",", start, end):  # it was the last one: the comma before it goes
            _drop_comma(kept)
    kept += body[at:]
    return bytes(kept)


def _drop_comma(kept: bytearray) -> None:
    while kept and kept[-1] in _WHITE:
        kept.pop()
    if kept and kept[-1] == ord(","):
        kept.pop()
