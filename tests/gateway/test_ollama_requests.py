"""Requests of Ollama's API, translated. Pure: no server, no socket."""

from typing import Any

import pytest

from magid.errors import InvalidInput
from magid.gateway.ollama import requests
from tests.support import ollama
from tests.support.ollama import USER


def translated(path: str, **fields: Any) -> tuple[str, dict[str, Any]]:
    """The server's path and body."""
    endpoint, body = ollama.translated(path, **fields)
    return endpoint.target, body


def test_a_conversation_is_streamed_unless_it_says_otherwise() -> None:
    target, body = translated("/api/chat", messages=[USER])
    assert target == "/v1/chat/completions"
    assert body == {
        "model": "a",
        "messages": [USER],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert "stream" not in translated("/api/chat", messages=[USER], stream=False)[1]


def test_options_become_parameters_and_those_of_a_server_are_left_out() -> None:
    options = {
        "num_predict": 5,
        "num_ctx": 9,
        "num_gpu": 1,
        "seed": 0,
        "stop": ["x"],
        "top_k": None,
    }
    body = translated("/api/chat", messages=[USER], options=options, keep_alive="5m", stream=False)[
        1
    ]
    assert body == {"model": "a", "messages": [USER], "max_tokens": 5, "seed": 0, "stop": ["x"]}
    for endless in (-1, -2, 0, None, "x"):
        made = translated("/api/chat", messages=[USER], options={"num_predict": endless})[1]
        assert "max_tokens" not in made


def test_calls_of_tools_get_ids_and_their_answers_the_same() -> None:
    call = {"function": {"name": "f", "arguments": {"x": 1}}}
    other = {"function": {"name": "g", "arguments": {}}}
    messages = [
        USER,
        {"role": "assistant", "tool_calls": [call, other], "thinking": "hm"},
        {"role": "tool", "content": "2", "tool_name": "g"},
        {"role": "tool", "content": "1"},
        {"role": "tool", "content": "0"},
    ]
    tools = [{"type": "function", "function": {"name": "f"}}]
    body = translated("/api/chat", messages=messages, tools=tools)[1]
    assert body["tools"] == tools
    made = body["messages"]
    assert made[1]["reasoning_content"] == "hm"
    assert made[1]["content"] == ""
    assert [c["id"] for c in made[1]["tool_calls"]] == ["call_1", "call_2"]
    assert made[1]["tool_calls"][0]["function"] == {"name": "f", "arguments": {"x": 1}}
    assert [m["tool_call_id"] for m in made[2:]] == ["call_2", "call_1", "call_0"]


def test_images_become_parts() -> None:
    (message,) = translated("/api/chat", messages=[{**USER, "images": ["AAAA"]}])[1]["messages"]
    assert message["content"] == [
        {"type": "text", "text": "Hello"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    ]
    target, body = translated("/api/generate", prompt="", images=["AAAA"], system="be brief")
    assert target == "/v1/chat/completions"
    assert [m["role"] for m in body["messages"]] == ["system", "user"]


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ({"format": "json"}, {"response_format": {"type": "json_object"}}),
        ({"format": {"type": "object"}},
         {"response_format": {"type": "json_schema",
                              "json_schema": {"name": "answer", "schema": {"type": "object"}}}}),
        ({"format": ""}, {}),
        ({"think": False}, {"chat_template_kwargs": {"enable_thinking": False}}),
        ({"think": "low"},
         {"chat_template_kwargs": {"enable_thinking": True, "reasoning_effort": "low"}}),
        ({"logprobs": True, "top_logprobs": 2}, {"logprobs": True, "top_logprobs": 2}),
        ({"logprobs": True}, {"logprobs": True, "top_logprobs": 1}),
    ],
)  # fmt: skip
def test_format_and_think(given: dict[str, Any], made: dict[str, Any]) -> None:
    body = translated("/api/chat", messages=[USER], stream=False, **given)[1]
    assert body == {"model": "a", "messages": [USER], **made}


def test_texts() -> None:
    assert translated("/api/generate", prompt="x", raw=True, stream=False) == (
        "/v1/completions", {"model": "a", "prompt": "x"}
    )  # fmt: skip
    target, body = translated("/api/generate", prompt="x", suffix="y", options={"num_predict": 3})
    assert (target, body["input_prefix"], body["input_suffix"]) == ("/infill", "x", "y")
    assert body["n_predict"] == 3


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
def test_without_a_text_a_model_is_loaded_or_unloaded(path: str) -> None:
    assert translated(path)[0] == requests.LOAD
    kept: Any
    for kept in (-1, 0.5, "5m", "0s1", "", "s", None, [], {"0": 0}):
        assert translated(path, keep_alive=kept)[0] == requests.LOAD
    for over in (0, -0.0, "0", "0s", "0h", "0ms", "0h0m0s", "-0.00s"):
        assert translated(path, keep_alive=over)[0] == requests.UNLOAD


def test_vectors() -> None:
    assert translated("/api/embed", input=["a", "b"], truncate=True)[1]["input"] == ["a", "b"]
    assert translated("/api/embeddings", prompt="a") == (
        "/v1/embeddings", {"model": "a", "input": "a"}
    )  # fmt: skip


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/api/chat", {"messages": [USER], "format": 5}),
        ("/api/chat", {"messages": [USER], "think": "much"}),
        ("/api/generate", {"prompt": "x", "template": "{{ .Prompt }}"}),
        ("/api/embed", {"input": "a", "dimensions": 5}),
        ("/api/generate", {"prompt": "x", "raw": True, "images": ["AAAA"]}),
        ("/api/generate", {"prompt": "x", "raw": True, "system": "be brief"}),
        ("/api/generate", {"prompt": "x", "suffix": "y", "images": ["AAAA"]}),
        ("/api/generate", {"prompt": "x", "suffix": "y", "system": "be brief"}),
    ],
)
def test_what_would_change_the_answer_is_refused(path: str, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=r"^cannot use"):
        translated(path, **fields)


@pytest.mark.parametrize("messages", ["x", 5, [5], [None], [{}], [{"tool_calls": [5, {}]}]])
def test_malformed_messages_are_the_servers_to_refuse(messages: Any) -> None:
    translated("/api/chat", messages=messages)


@pytest.mark.parametrize("more", [{"raw": True}, {"suffix": "y"}])
def test_paths_without_a_response_format_get_a_schema(more: dict[str, Any]) -> None:
    for given, schema in (("json", {"type": "object"}), ({"type": "array"}, {"type": "array"})):
        body = translated("/api/generate", prompt="x", format=given, **more)[1]
        assert body["json_schema"] == schema
        assert "response_format" not in body


def test_a_load_takes_a_model_of_any_kind_by_its_name_alone() -> None:
    endpoint, _ = ollama.translated("/api/generate")
    assert (endpoint.takes_any_by_name, endpoint.generates) == (True, False)
    plain, _ = ollama.translated("/api/generate", prompt="x")
    assert endpoint.kinds == plain.kinds
    assert not plain.takes_any_by_name


class Compared(str):
    """A name that counts how often it is compared."""

    __slots__ = ()
    times = 0

    def __eq__(self, other: object) -> bool:
        Compared.times += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_answers_of_tools_cost_the_same_however_many_calls_are_open() -> None:
    names: list[Any] = [Compared("a"), ["x"], None, 5]
    calls = [{"function": {"name": name}} for name in names * 500]
    called: list[Any] = [Compared("b"), Compared("a"), None, {}]
    answers = [{"role": "tool", "tool_name": name} for name in called * 500]
    messages = [{"role": "assistant", "tool_calls": calls}, *answers]
    made = translated("/api/chat", messages=messages)[1]["messages"]
    ids = [message["tool_call_id"] for message in made[1:]]
    assert len(set(ids)) == len(ids), "each call is answered once"
    assert ids[:4] == ["call_1", "call_5", "call_2", "call_3"]
    assert Compared.times <= 4 * len(calls + answers)
