"""Answers in the shapes of Ollama's API, from what servers say. Pure: no server, no socket."""

import json
from typing import Any

import pytest

from magid.errors import InvalidInput, MagidError, ServerLost
from magid.gateway.ollama.answers import AnswerParts, Shape
from magid.gateway.ollama.stream import sink_for
from magid.gateway.routing.request import ParsedRequest
from magid.http.framing import LAST_CHUNK, ChunkReader, ProtocolError, ReplyHead
from magid.http.limits import MAX_COLLECTED_BYTES
from tests.support.ollama import USER, translated


class Client:
    """What the client's connection is given."""

    def __init__(self) -> None:
        self.reader = ChunkReader(keep=True)
        self.head: ReplyHead | None = None
        self.plain = b""
        self.has_ended = False
        self.error = ""

    def begins(self, head: ReplyHead, fields: bytes, data: bytes) -> None:
        self.head = head
        self.goes_on(data)

    def goes_on(self, data: bytes) -> None:
        assert self.head
        if self.head.is_chunked:
            self.reader.feed(data)
        else:
            self.plain += data

    def ends(self) -> None:
        self.has_ended = True

    def fails(self, error: MagidError, fields: bytes = b"") -> None:
        self.error = error.message

    def breaks_off(self, error: MagidError, *, is_inside_chunk: bool) -> None:
        assert not is_inside_chunk
        self.error = error.message

    @property
    def body(self) -> bytes:
        return b"".join(self.reader.payload or ()) + self.plain

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.body.splitlines()]


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


EVENTS = ReplyHead(200, b"text/event-stream", None, is_chunked=True, keeps_alive=True)


def answered(path: str, parts: list[Any], size: int = 7, **fields: Any) -> Client:
    """The answer of these events, in segments of so many bytes."""
    endpoint, body = translated(path, **fields)
    client = Client()
    sink = sink_for(ParsedRequest(endpoint, b"", body, "a:latest"), client)
    text = b"".join(b"data: %b\n\n" % json.dumps(part).encode() for part in parts)
    data = b"".join(chunked(event) for event in (text, b"data: [DONE]\n\n")) + b"0\r\n\r\n"
    sink.begins(EVENTS, b"", data[:size])
    for at in range(size, len(data), size):
        sink.goes_on(data[at : at + size])
    sink.ends()
    assert client.has_ended
    assert client.reader.done
    return client


def streamed(data: bytes) -> Client:
    """The answer to a conversation, of these bytes in one segment."""
    endpoint, body = translated("/api/chat", messages=[USER])
    client = Client()
    sink = sink_for(ParsedRequest(endpoint, b"", body, "a"), client)
    sink.begins(EVENTS, b"", chunked(data) + LAST_CHUNK)
    sink.ends()
    return client


def delta(**said: Any) -> dict[str, Any]:
    return {"choices": [{"delta": said, "finish_reason": None}]}


END = {"choices": [{"delta": {}, "finish_reason": "length"}]}
USED = {
    "choices": [],
    "usage": {"prompt_tokens": 7, "completion_tokens": 3},
    "timings": {"prompt_ms": 1.5, "predicted_ms": 2},
}


@pytest.mark.parametrize("size", [1, 13, 10_000])
def test_events_become_lines(size: int) -> None:
    parts = [delta(reasoning_content="hm"), delta(content="I"), delta(content=" am"), END, USED]
    client = answered("/api/chat", parts, size, messages=[USER])
    assert client.head
    assert client.head.content_type == b"application/x-ndjson"
    *lines, last = client.lines
    assert [line["message"] for line in lines] == [
        {"role": "assistant", "content": "", "thinking": "hm"},
        {"role": "assistant", "content": "I"},
        {"role": "assistant", "content": " am"},
    ]
    assert not any(line["done"] for line in lines)
    assert (last["done"], last["done_reason"], last["model"]) == (True, "length", "a:latest")
    assert (last["prompt_eval_count"], last["eval_count"]) == (7, 3)
    assert (last["prompt_eval_duration"], last["eval_duration"]) == (1_500_000, 2_000_000)
    assert last["total_duration"] > 0


@pytest.mark.parametrize(
    ("said", "count"),
    [
        ({"usage": {"prompt_tokens": 7}, "timings": {"prompt_n": 1, "cache_n": 6}}, 7),
        ({"timings": {"prompt_n": 1, "cache_n": 6}}, 7),
        ({"timings": {"prompt_n": 3}}, 3),
        ({"timings": {"prompt_n": 3, "cache_n": "x"}}, 3),
        ({"timings": {"prompt_n": 10**300, "cache_n": 10**300}}, 2**62),
        ({}, 0),
    ],
)
def test_a_prompt_is_counted_with_what_was_cached(said: dict[str, Any], count: int) -> None:
    last = answered("/api/generate", [END, said], prompt="x", suffix="y").lines[-1]
    assert last["prompt_eval_count"] == count


def test_a_text_is_called_response() -> None:
    first, last = answered("/api/generate", [delta(content="I"), END], prompt="x").lines
    assert (first["response"], last["response"]) == ("I", "")
    assert "message" not in first
    raw = {"choices": [{"text": "I", "finish_reason": None}]}
    assert answered("/api/generate", [raw, END], prompt="x", raw=True).lines[0]["response"] == "I"
    infill = [{"content": "I", "stop": False}, {"content": "", "stop": True, "stop_type": "limit"}]
    lines = answered("/api/generate", infill, prompt="x", suffix="y").lines
    assert (lines[0]["response"], lines[1]["done_reason"]) == ("I", "length")


def call(index: int, **function: str) -> dict[str, Any]:
    return delta(tool_calls=[{"index": index, "function": function}])


def test_calls_of_tools_come_whole_with_arguments_as_an_object() -> None:
    parts = [call(0, name="f", arguments='{"x"'), call(0, arguments=": 1}"), call(1, name="g"),
             call(2, name="cut", arguments='{"x": ')]  # fmt: skip
    first, last = answered("/api/chat", parts, messages=[USER]).lines
    assert first["message"]["tool_calls"] == [
        {"function": {"name": "f", "arguments": {"x": 1}}},
        {"function": {"name": "g", "arguments": {}}},
    ]
    assert last["done"]


def test_an_error_in_a_stream_is_its_last_line() -> None:
    error = {"error": {"code": 500, "message": "out of memory"}}
    lines = answered("/api/chat", [delta(content="I"), error], messages=[USER]).lines
    assert lines[1:] == [{"error": "out of memory"}]


def test_an_error_of_older_servers_and_one_without_its_blank_line() -> None:
    for data in (
        b'error: {"code":500,"message":"no memory","type":"server_error"}\n\n',
        b'error: {"code":500,"message":"no memory"}',
        b'data: {"error":{"message":"no memory"}}\n',
    ):
        assert streamed(data).lines == [{"error": "no memory"}]


@pytest.mark.parametrize(
    "part",
    [5, None, {}, {"choices": 5}, {"choices": [5]}, delta(content=5, tool_calls=[5, {"index": []}]),
     {"choices": [{"delta": 5, "logprobs": 5, "finish_reason": 5}]},
     {"usage": {"prompt_tokens": "x"}, "timings": {"prompt_ms": "x", "predicted_ms": 1e300}},
     {"timings": {"prompt_ms": 10**400, "predicted_ms": -(10**400)}}],
)  # fmt: skip
def test_a_server_may_say_anything(part: Any) -> None:
    (last,) = answered("/api/chat", [part], messages=[USER]).lines
    assert last["done"] is True


def whole(path: str, answer: bytes, status: int = 200, **fields: Any) -> Client:
    endpoint = translated(path, **fields)[0]
    client = Client()
    body = {"stream": fields.get("stream", True)}
    sink = sink_for(ParsedRequest(endpoint, b"", body, "a"), client)
    head = ReplyHead(status, b"application/json", len(answer), is_chunked=False, keeps_alive=True)
    sink.begins(head, b"", answer[:10])
    for at in range(10, len(answer), 10):
        sink.goes_on(answer[at : at + 10])
    sink.ends()
    return client


def test_an_answer_in_one_piece() -> None:
    message = {
        "content": "I", "reasoning_content": "hm",
        "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}],
    }  # fmt: skip
    answer = {**USED, "choices": [{"message": message, "finish_reason": "tool_calls"}]}
    client = whole("/api/chat", json.dumps(answer).encode(), messages=[USER], stream=False)
    made = json.loads(client.body)
    assert client.head
    assert client.head.length == len(client.body)
    assert made["message"] == {
        "role": "assistant", "content": "I", "thinking": "hm",
        "tool_calls": [{"function": {"name": "f", "arguments": {}}}],
    }  # fmt: skip
    assert (made["done"], made["done_reason"], made["eval_count"]) == (True, "stop", 3)


def test_an_error_goes_on_as_it_came() -> None:
    """The connection gives it its shape."""
    for fields in ({"messages": [USER], "stream": False}, {}):
        client = whole("/api/chat", b'{"error":{"message":"no"}}', 500, **fields)
        assert client.head
        assert (client.head.status, client.body) == (500, b'{"error":{"message":"no"}}')


@pytest.mark.parametrize("answer", [b"<html>", b'{"choices":', b"\xff"])
def test_an_answer_that_is_no_json_is_the_servers_error(answer: bytes) -> None:
    """The relay, which records it, sends the client what `ends` raises."""
    endpoint, body = translated("/api/chat", messages=[USER], stream=False)
    client = Client()
    sink = sink_for(ParsedRequest(endpoint, b"", body, "a"), client)
    head = ReplyHead(200, b"application/json", len(answer), is_chunked=False, keeps_alive=True)
    sink.begins(head, b"", answer)
    with pytest.raises(ServerLost, match="what the server has sent is not JSON") as raised:
        sink.ends()
    sink.breaks_off(raised.value, is_inside_chunk=False)
    assert client.head is None, "no status of success"
    assert client.error == raised.value.message


def test_an_answer_too_long_for_one_piece_is_not_the_servers_fault() -> None:
    message = {"content": "x" * (MAX_COLLECTED_BYTES + 1)}
    answer = json.dumps({"choices": [{"message": message}]}).encode()
    with pytest.raises(InvalidInput, match="ask for a stream"):
        whole("/api/chat", answer, messages=[USER], stream=False)


def test_a_load_says_so() -> None:
    made = json.loads(whole("/api/generate", b'{"tokens":[]}').body)
    assert (made["done_reason"], made["response"]) == ("load", "")


VECTORS = (
    b'{"model":"x","object":"list","usage":{"prompt_tokens":9,"total_tokens":9},"data":['
    b'{"embedding":[0.5,-1e-3],"index":0,"object":"embedding"},'
    b'{"embedding":[1,2],"index":1,"object":"embedding"}]}'
)


def test_vectors_go_on_one_by_one() -> None:
    made = json.loads(whole("/api/embed", VECTORS, input=["a", "b"]).body)
    assert made["embeddings"] == [[0.5, -0.001], [1, 2]]
    assert (made["model"], made["prompt_eval_count"]) == ("a", 9)
    assert json.loads(whole("/api/embeddings", VECTORS).body) == {"embedding": [0.5, -0.001]}
    assert json.loads(whole("/api/embeddings", b"{}").body) == {"embedding": []}


# -- bounds ------------------------------------------------------------------------------------


def sinks() -> list[tuple[Any, ReplyHead]]:
    chat = {"messages": [USER]}
    made = []
    for path, fields in (("/api/chat", chat), ("/api/chat", {**chat, "stream": False}),
                         ("/api/embed", {"input": "a"})):  # fmt: skip
        endpoint, body = translated(path, **fields)
        sink = sink_for(ParsedRequest(endpoint, b"", body, "a"), Client())
        made.append((sink, EVENTS))
    return made


@pytest.mark.parametrize("number", [0, 2])
def test_what_has_no_end_is_cut(number: int) -> None:
    sink, head = sinks()[number]
    sink.begins(head, b"", chunked(b'"embedding":[0'))

    def flood() -> None:
        for _ in range(MAX_COLLECTED_BYTES // 1024 + 2):
            sink.goes_on(chunked(b"1" * 1024))

    with pytest.raises(ProtocolError):
        flood()


def test_calls_without_an_end_are_cut() -> None:
    parts = AnswerParts(Shape("/api/chat", "a"))

    def flood() -> None:
        for _ in range(MAX_COLLECTED_BYTES // 1024 + 2):
            list(parts.lines(call(0, arguments="x" * 1024)))

    with pytest.raises(ProtocolError):
        flood()


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_server_that_is_lost(number: int) -> None:
    sink, head = sinks()[number]
    sink.begins(head, b"", chunked(b"data: {}\n\n"))
    sink.breaks_off(ServerLost("cannot finish"), is_inside_chunk=True)
    assert sink._client.error == "cannot finish"


def test_a_stream_without_chunks_is_refused() -> None:
    sink, _head = sinks()[0]
    head = ReplyHead(200, b"text/event-stream", None, is_chunked=False, keeps_alive=False)
    with pytest.raises(ProtocolError):
        sink.begins(head, b"", b"")
