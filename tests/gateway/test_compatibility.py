"""What llama-server refuses or ignores, in a form that it takes; all else goes on as it came."""

import copy
import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import zstandard

from magid.auth.authenticator import LOCAL
from magid.errors import InvalidInput
from magid.gateway.frontend.request_reader import RequestBuilder, parse_request_head
from magid.gateway.routing.endpoints import find
from magid.gateway.routing.outline import WHOLE_BYTES
from magid.gateway.routing.request import ParsedRequest
from tests.support import fleets, ggufs
from tests.support.deadlines import DEADLINE_S
from tests.support.fleets import SMALL
from tests.support.rest import Parts
from tests.support.running import Running

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
LONG = "x" * (WHOLE_BYTES + 1)


def built(path: str, body: bytes) -> ParsedRequest:
    """The request as it goes on to a server."""
    endpoint = find("POST", path)
    assert endpoint is not None
    head = parse_request_head(b"POST %b HTTP/1.1\r\nHost: x" % path.encode(), None)
    builder = RequestBuilder(endpoint, head, "1", "client", LOCAL, 2**20)
    if len(body) <= WHOLE_BYTES:
        return builder.build(body)
    steps = builder.build_in_steps(body)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            request: ParsedRequest = end.value
            return request


def sent(path: str, fields: dict[str, Any]) -> Any:
    """The body that a server gets; also of the same request with much text."""
    small = built(path, json.dumps(fields).encode())
    large = built(path, json.dumps({**fields, "metadata": {"x": LONG}}).encode())
    body = b"".join(large.pieces) if large.pieces else bytes(large.body)
    found = json.loads(body)
    assert found.pop("metadata") == {"x": LONG}
    assert found == json.loads(bytes(small.body))
    return found


USER = {"role": "user", "content": "hi"}
SUMMARY = [{"type": "summary_text", "text": "s"}, {"type": "summary_text", "text": "t"}]
SUMMED = [{"type": "reasoning_text", "text": "s"}, {"type": "reasoning_text", "text": "t"}]
WHOLE = {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "r"}]}


@pytest.mark.parametrize(
    ("items", "meant"),
    [
        ([{"role": "assistant", "content": "a"}],
         [{"role": "assistant", "content": "a", "type": "message"}]),
        ([{"role": "assistant", "content": "a", "type": None}],
         [{"role": "assistant", "content": "a", "type": "message"}]),
        ([{"type": "reasoning", "summary": SUMMARY}],
         [{"type": "reasoning", "summary": SUMMARY, "content": SUMMED}]),
        ([{"type": "reasoning", "summary": SUMMARY, "content": None}, USER],
         [{"type": "reasoning", "summary": SUMMARY, "content": SUMMED}, USER]),
        ([{"type": "reasoning", "summary": [], "content": [], "encrypted_content": "x"}, USER],
         [USER]),
        ([{"type": "reasoning", "summary": "odd"}, USER], [USER]),
    ],
)  # fmt: skip
def test_items_of_an_earlier_turn(items: list[Any], meant: list[Any]) -> None:
    fields = {"model": SMALL, "input": items}
    assert sent(RESPONSES, copy.deepcopy(fields)) == {"model": SMALL, "input": meant}


def function(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {}}}


def flat(name: str) -> dict[str, Any]:
    return {"type": "function", "name": name, "parameters": {}}


def tool(name: str) -> dict[str, Any]:
    return {"name": name, "input_schema": {"type": "object", "properties": {}}}


ONE = {"type": "function", "function": {"name": "b"}}
FLAT = {"type": "function", "name": "b"}
CHOSEN = {"type": "tool", "name": "b", "disable_parallel_tool_use": True}


def allowed(mode: str, *tools: Any) -> dict[str, Any]:
    return {"type": "allowed_tools", "mode": mode, "tools": list(tools)}


def nested(mode: str, *tools: Any) -> dict[str, Any]:
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": list(tools)}}


@pytest.mark.parametrize(
    ("path", "tools", "choice", "left", "meant"),
    [
        (CHAT, [function("a"), function("b")], ONE, [function("b")], "required"),
        (RESPONSES, [flat("b"), {"type": "x"}, flat("a")], FLAT, [flat("b")], "required"),
        (MESSAGES, [tool("a"), tool("b")], CHOSEN, [tool("b")],
         {"type": "any", "disable_parallel_tool_use": True}),
        (CHAT, [function("a"), function("b")], nested("auto", ONE), [function("b")], "auto"),
        (CHAT, [function("a"), function("b")], nested("required", ONE, function("a")),
         [function("a"), function("b")], "required"),
        (RESPONSES, [flat("a"), flat("b"), flat("c")], allowed("required", FLAT, flat("c")),
         [flat("b"), flat("c")], "required"),
    ],
)  # fmt: skip
def test_the_tools_that_may_be_called(
    path: str, tools: list[Any], choice: Any, left: list[Any], meant: Any
) -> None:
    fields = {"model": SMALL, "tools": tools, "tool_choice": choice}
    assert sent(path, fields) == {**fields, "tools": left, "tool_choice": meant}


def test_no_tool_may_be_called() -> None:
    """llama-server would take Anthropic's word for the default, which lets it call any."""
    fields = {"model": SMALL, "tools": [tool("a")], "tool_choice": {"type": "none"}}
    assert sent(MESSAGES, fields) == {"model": SMALL}


@pytest.mark.parametrize(
    "choice",
    [allowed("x", FLAT), nested("", ONE), {"type": "allowed_tools", "allowed_tools": 1},
     {"type": "allowed_tools", "mode": "auto", "tools": "b"}],
)  # fmt: skip
def test_allowed_tools_that_are_none(choice: Any) -> None:
    with pytest.raises(InvalidInput, match="needs a list `tools` and a `mode`"):
        sent(CHAT, {"tools": [function("b")], "tool_choice": choice})


@pytest.mark.parametrize("tools", [None, [], "b", [function("a"), None, 1]])
def test_a_choice_of_a_tool_that_is_not_there(tools: Any) -> None:
    with pytest.raises(InvalidInput, match="tool_choice is for 'b'") as refused:
        sent(CHAT, {"tools": tools, "tool_choice": ONE})
    assert refused.value.details == {"field": "tool_choice"}


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {"tools": [function("a")], "tool_choice": "required"}),
        (CHAT, {"tools": [function("a")], "tool_choice": {"type": "function"}}),
        (MESSAGES, {"tools": [tool("a")], "tool_choice": {"type": "any"}}),
        (RESPONSES, {"input": "hi"}),
        (RESPONSES, {"input": [USER, 1, None, {"role": "assistant"}, WHOLE, {"type": "x"}]}),
        (RESPONSES, {"input": [{"type": "message", "role": "assistant", "content": "a"}]}),
        (CHAT, {"input": [{"role": "assistant", "content": "a"}], "messages": [USER]}),
    ],
)
def test_what_llama_server_takes_goes_on_byte_by_byte(path: str, fields: dict[str, Any]) -> None:
    body = json.dumps(fields, indent=1).encode()
    assert built(path, body).body == body
    assert sent(path, fields) == fields


# -- with a real llama-server --------------------------------------------------------------------


@pytest.fixture(scope="module")
def magid(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    def write(models: Path) -> None:
        fleets.write_conversations(models)
        ggufs.write_chat_model(
            models / "Caller-F16.gguf", name="Caller", quantization="F16",
            template=ggufs.TOOL_TEMPLATE, answer=ggufs.TOOL_ANSWER,
        )  # fmt: skip

    with fleets.fleet(parts, tmp_path_factory.mktemp("compatibility"), write) as running:
        yield running


@pytest.fixture
def ai(magid: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{magid.url}/v1", api_key="any", timeout=DEADLINE_S, max_retries=0
    ) as made:
        yield made


@pytest.mark.slow
@pytest.mark.parametrize("model", ["fast", "powerful"])
def test_a_second_turn_of_responses(ai: openai.OpenAI, model: str) -> None:
    turns: list[Any] = [{"role": "user", "content": "Hello"}]
    first = ai.responses.create(model=model, input=turns)
    assert ("reasoning" in [item.type for item in first.output]) is (model == "powerful")
    again: Any = {"role": "user", "content": "And then?"}
    plain = {"role": "assistant", "content": first.output_text}
    bare = {"type": "reasoning", "id": "rs_1", "summary": SUMMARY}
    earlier: list[list[Any]] = [[*first.output], [plain], [bare, plain]]
    for items in earlier:
        ai.responses.create(model=model, input=[*turns, *items, again])


EMPTY = {"type": "object", "properties": {}}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["look", "other"])
def test_llama_server_calls_that_tool(magid: Running, name: str) -> None:
    """The model would call `look`, which it was made to do."""
    both = ("look", "other")
    chat = {**fleets.chat("Caller-F16"), "max_tokens": 60, "temperature": 0}
    with fleets.client(magid) as client:
        answer = client.post(
            CHAT,
            json={
                **chat,
                "tools": [
                    {"type": "function", "function": {"name": n, "parameters": EMPTY}} for n in both
                ],
                "tool_choice": {"type": "function", "function": {"name": name}},
            },
        ).json()
        calls = answer["choices"][0]["message"]["tool_calls"]
        assert {call["function"]["name"] for call in calls} == {name}
        answer = client.post(
            RESPONSES,
            json={
                "model": "Caller-F16", "input": "hi", "max_output_tokens": 60, "temperature": 0,
                "tools": [{"type": "function", "name": n, "parameters": EMPTY} for n in both],
                "tool_choice": {"type": "function", "name": name},
            },
        ).json()  # fmt: skip
        calls = [item for item in answer["output"] if item["type"] == "function_call"]
        assert {call["name"] for call in calls} == {name}
        answer = client.post(
            MESSAGES,
            json={
                **chat,
                "tools": [{"name": n, "input_schema": EMPTY} for n in both],
                "tool_choice": {"type": "tool", "name": name},
            },
        ).json()
        assert {p["name"] for p in answer["content"] if p["type"] == "tool_use"} == {name}


@pytest.mark.slow
def test_llama_server_calls_no_tool_that_may_not_be_called(magid: Running) -> None:
    chat = {**fleets.chat("Caller-F16"), "max_tokens": 60, "temperature": 0}
    other = {"type": "function", "function": {"name": "other", "parameters": EMPTY}}
    look = {"type": "function", "function": {"name": "look", "parameters": EMPTY}}
    with fleets.client(magid) as client:
        choice = nested("required", {"type": "function", "function": {"name": "other"}})
        limited = {**chat, "tools": [look, other], "tool_choice": choice}
        answer = client.post(CHAT, json=limited).json()
        calls = answer["choices"][0]["message"]["tool_calls"]
        assert {call["function"]["name"] for call in calls} == {"other"}
        tools = [{"name": "look", "input_schema": EMPTY}]
        answer = client.post(MESSAGES, json={**chat, "tools": tools}).json()
        assert "tool_use" in {part["type"] for part in answer["content"]}
        none = {**chat, "tools": tools, "tool_choice": {"type": "none"}}
        answer = client.post(MESSAGES, json=none).json()
        assert {part["type"] for part in answer["content"]} == {"text"}


# -- the body as a whole -------------------------------------------------------------------------


CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zstd": lambda body: zstandard.ZstdCompressor().compress(body),
}


@pytest.mark.slow
@pytest.mark.parametrize("text", ["hi", "x" * (2 * WHOLE_BYTES)], ids=["small", "large"])
@pytest.mark.parametrize("coding", CODINGS)
def test_a_compressed_body(magid: Running, text: str, coding: str) -> None:
    body = json.dumps(fleets.chat("Medium-F16", text, n_predict=1)).encode()
    headers = {"Content-Type": "application/json", "Content-Encoding": coding}
    compress = CODINGS[coding]
    with fleets.client(magid) as client:
        plain = client.post(CHAT, content=body, headers={"Content-Type": "application/json"})
        answer = client.post(CHAT, content=compress(body), headers=headers)
        assert answer.status_code == plain.status_code, answer.text
        assert (answer.status_code == 200) is (text == "hi")  # the other one exceeds the context
        bomb = client.post(CHAT, content=compress(b" " * (40 * 2**20)), headers=headers)
        assert bomb.status_code == 413
        damaged = client.post(CHAT, content=compress(body)[:-1], headers=headers)
        assert damaged.status_code == 400
        other = client.post(CHAT, content=body, headers={**headers, "Content-Encoding": "br"})
        assert other.status_code == 415
        assert "Content-Encoding: br" in other.json()["error"]["message"]


@pytest.mark.slow
def test_a_compressed_body_for_the_api(magid: Running) -> None:
    path = "/api/models/apply?dryRun=true"
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    client = magid.client
    assert client.post(path, content=gzip.compress(b"{}"), headers=headers).status_code == 200
    assert client.post(path, content=b"{}", headers=headers).status_code == 400
    bomb = gzip.compress(b" " * (2 * WHOLE_BYTES))
    assert client.post(path, content=bomb, headers=headers).status_code == 413
    headers["Content-Encoding"] = "br"
    answer = client.post(path, content=b"{}", headers=headers)
    assert (answer.status_code, answer.json()["error"]) == (415, "UnsupportedMediaType")


@pytest.mark.slow
@pytest.mark.parametrize("model", ["", None])
def test_a_model_without_a_name_is_auto(magid: Running, model: str | None) -> None:
    with fleets.client(magid) as client:
        answer = client.post(CHAT, json={**fleets.chat(), "model": model})
    assert answer.status_code == 200, answer.text
    assert "auto" in answer.headers["x-magi-route"]
