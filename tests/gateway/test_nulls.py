"""Nulls in optional fields are as if absent, and nothing else of a body changes."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magid.gateway.routing import nulls
from magid.gateway.routing.endpoints import Endpoint, find
from tests.support import fleets
from tests.support.fleets import SMALL, VECTORS
from tests.support.rest import Parts
from tests.support.running import Running

SCHEMA = {
    "type": "object",
    "properties": {"x": {"type": "string", "enum": ["a"], "default": None}, "y": {"items": {}}},
    "additionalProperties": False,
    "anyOf": [{"minimum": 1}],
}
FUNCTION = {"name": "f", "description": "d", "parameters": SCHEMA}
CHAT = {
    "model": SMALL,
    "max_tokens": 1,
    "reasoning_format": "none",
    "messages": [
        {"role": "user", "content": "hi", "name": "n"},
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "r",
            "name": "n",
            "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
            ],
        },
        {"role": "tool", "tool_call_id": "1", "content": "r", "name": "f"},
    ],
    "tools": [{"type": "function", "function": FUNCTION}],
}
FORMAT = {
    "model": SMALL,
    "max_tokens": 1,
    "messages": [{"role": "user", "content": "hi"}],
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}},
}
COMPLETION = {"model": SMALL, "max_tokens": 1, "prompt": "hi", "json_schema": SCHEMA}
RESPONSES = {
    "model": SMALL,
    "max_output_tokens": 1,
    "input": [{"type": "message", "role": "user", "content": "hi"}],
    "tools": [{"type": "function", **FUNCTION}],
}
MESSAGES = {
    "model": SMALL,
    "max_tokens": 1,
    "messages": [{"role": "user", "content": "hi"}],
    "tools": [{"name": "f", "description": "d", "input_schema": SCHEMA}],
}
COUNT = {key: value for key, value in MESSAGES.items() if key != "max_tokens"}
EMBEDDINGS = {"model": VECTORS, "input": ["a"], "encoding_format": "float", "embd_normalize": 2}

_PROPERTIES = ("properties", "additionalProperties", "anyOf")
_INNER = ("properties.x.enum", "properties.y.items", "anyOf.0.minimum")
IN_SCHEMA = (*_PROPERTIES, *_INNER)
# Where an SDK may send null: the endpoint, a whole body, and the paths in it.
PLACES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "/v1/chat/completions": (
        CHAT,
        (
            "reasoning_format", "messages.0.name", "messages.1.name",
            "messages.1.reasoning_content", "messages.1.tool_calls.0.id",
            "messages.2.tool_call_id", "messages.2.name",
            "tools.0.function.description",
            *(f"tools.0.function.parameters.{path}" for path in IN_SCHEMA),
        ),
    ),
    "/v1/chat/completions?": (
        FORMAT,
        tuple(f"response_format.json_schema.schema.{path}" for path in IN_SCHEMA),
    ),
    "/v1/completions": (COMPLETION, tuple(f"json_schema.{path}" for path in IN_SCHEMA)),
    "/completion": (COMPLETION, tuple(f"json_schema.{path}" for path in IN_SCHEMA)),
    "/apply-template": (
        CHAT,
        ("messages.0.name", "messages.2.name", "tools.0.function.description"),
    ),
    "/v1/responses": (
        RESPONSES,
        (
            "tools", "input.0.type", "tools.0.description",
            *(f"tools.0.parameters.{path}" for path in IN_SCHEMA),
        ),
    ),
    "/v1/messages": (MESSAGES, tuple(f"tools.0.input_schema.{path}" for path in IN_SCHEMA)),
    "/v1/messages/count_tokens": (
        COUNT,
        tuple(f"tools.0.input_schema.{path}" for path in IN_SCHEMA),
    ),
    "/v1/embeddings": (EMBEDDINGS, ("encoding_format", "embd_normalize")),
}  # fmt: skip
EVERY = [(name, path) for name, (_, paths) in PLACES.items() for path in paths]


def endpoint_of(name: str) -> Endpoint:
    endpoint = find("POST", name.rstrip("?"))
    assert endpoint is not None
    return endpoint


def owner_in(body: Any, path: str) -> tuple[Any, str]:
    *way, last = path.split(".")
    for step in way:
        body = body[int(step) if isinstance(body, list) else step]
    return body, last


def both(name: str, *paths: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The body with nulls there, and without these fields."""
    sent = copy.deepcopy(PLACES[name][0])
    meant = copy.deepcopy(sent)
    for path in paths:
        owner, key = owner_in(sent, path)
        owner[key] = None
        owner, key = owner_in(meant, path)
        del owner[key]
    return sent, meant


@pytest.mark.parametrize(("name", "path"), EVERY, ids=lambda value: str(value))
@pytest.mark.parametrize("layout", [{}, {"separators": (",", ":")}, {"indent": 3}])
def test_the_null_goes_and_all_else_stays_as_it_is(
    name: str, path: str, layout: dict[str, Any]
) -> None:
    sent, meant = both(name, path)
    body = json.dumps(sent, **layout).encode()
    left = nulls.without(endpoint_of(name), body, sent)
    assert json.loads(left) == meant
    assert sent == meant
    member = f'"{path.rpartition(".")[2]}"'.encode()
    start = body.split(member)[0].rstrip(b", \n")
    assert left.startswith(start)  # to the byte


@given(st.data())
def test_any_number_of_them_in_any_layout(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([name for name in PLACES if "tools" not in PLACES[name][1]]))
    leaves = [path for path in PLACES[name][1] if path.rpartition(".")[2] not in _PROPERTIES]
    paths = data.draw(st.lists(st.sampled_from(leaves), unique=True))
    sent, meant = both(name, *paths)
    gap = data.draw(st.text(" \n\t\r", max_size=4))
    body = json.dumps(sent, separators=(f"{gap},{gap}", f"{gap}:{gap}")).encode()
    assert json.loads(nulls.without(endpoint_of(name), body, sent)) == meant


@pytest.mark.parametrize(
    "text",
    [
        '{"model":"m","messages":[{"role":"user","content":null}]}',
        '{"messages":[{"role":"user","content":"{\\"name\\": null}, \\"name\\":null"}]}',
        '{"model":"m","messages":[{"role":"user","content":"x"}],"metadata":{"name": null}}',
        '{"model":"m","stop":null,"messages":[{"role":"user","content":"x"}]}',
        '{"model":"m","messages":"name","tools":null,"response_format":null}',
        '{"model":"m","messages":[null,1,[]],"tools":[null,{"function":null}]}',
        '{"tools":[{"function":{"parameters":{"properties":{"x":{"default":null,"const":null,'
        '"enum":[null],"examples":[null]}}}}}]}',
    ],
)
def test_what_is_taken_or_means_something_goes_on_byte_by_byte(text: str) -> None:
    body = text.encode()
    assert nulls.without(endpoint_of("/v1/chat/completions"), body, json.loads(body)) == body


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        (  # one that is a value, and one that is none
            '{"messages":[{"name":null}],"metadata":{"name":null}}',
            {"messages": [{}], "metadata": {"name": None}},
        ),
        ('{"messages":[{"name":"x","name":null}]}', {"messages": [{"name": "x"}]}),
        ('{"messages":[{"name":null,"name":"x"}]}', {"messages": [{"name": "x"}]}),
        ('{"messages":[{"n\\u0061me":null}]}', {"messages": [{}]}),
        ('{"messages":[{"content":"\\"name\\":null","name":null}]}', None),
        ('{"messages":[{"name" :\r\n null ,\t"role":"user"}]}', {"messages": [{"role": "user"}]}),
        ('{"messages":[{"a":1 , "name":null, "tool_call_id":null }]}', {"messages": [{"a": 1}]}),
    ],
)
def test_ambiguous_spellings(text: str, meant: Any) -> None:
    meant = meant or {"messages": [{"content": '"name":null'}]}
    body = text.encode()
    left = nulls.without(endpoint_of("/v1/chat/completions"), body, json.loads(body))
    assert json.loads(left) == meant


def test_looking_is_bounded_and_what_is_beyond_goes_on_as_it_came() -> None:
    endpoint = endpoint_of("/v1/chat/completions")
    far = [{"content": "x"}] * (2 * nulls.MOST_LOOKS) + [{"name": None}]
    body = json.dumps({"messages": far}).encode()
    assert nulls.without(endpoint, body, json.loads(body)) == body
    wide: dict[str, Any] = {
        f"x{n}": {"properties": {"pattern": {}}} for n in range(2 * nulls.MOST_LOOKS)
    }
    tool = {"function": {"description": None, "parameters": {"properties": wide}}}
    body = json.dumps({"tools": [tool], "x": '"description"' * 10}).encode()
    assert b"null" not in nulls.without(endpoint, body, json.loads(body))


# -- with a real llama-server --------------------------------------------------------------------


@pytest.fixture(scope="module")
def magid(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with fleets.fleet(parts, tmp_path_factory.mktemp("x")) as running:
        yield running


@pytest.mark.slow
@pytest.mark.parametrize(("name", "path"), EVERY, ids=lambda value: str(value))
def test_llama_server_takes_what_is_left(magid: Running, name: str, path: str) -> None:
    sent, meant = both(name, path)
    if path.endswith("tools"):
        meant = sent  # a whole list of tools: both answers are the same
    with fleets.client(magid) as client:
        plain = client.post(name.rstrip("?"), json=meant)
        answer = client.post(name.rstrip("?"), json=sent)
    assert (answer.status_code, plain.status_code) == (200, 200), answer.text + plain.text
