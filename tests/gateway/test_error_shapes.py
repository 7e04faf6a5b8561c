"""Errors of the gateway in the shape of each SDK, and within a stream."""

import json
from collections.abc import Iterator

import pytest

from magid import errors
from magid.gateway.frontend import responses
from magid.gateway.routing.endpoints import Style
from magid.http.status import status_of

LOST = errors.ServerLost("cannot finish: it is gone")


def tree(kind: type[errors.MagidError]) -> Iterator[type[errors.MagidError]]:
    for below in kind.__subclasses__():
        yield below
        yield from tree(below)


PUBLIC = [kind for kind in tree(errors.MagidError) if kind.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", PUBLIC, ids=lambda kind: kind.__name__)
def test_every_error_has_both_shapes(kind: type[errors.MagidError]) -> None:
    error = kind("cannot do it", field="model")
    status = status_of(error)
    openai = json.loads(responses.error_body(Style.OPENAI, status, error))["error"]
    assert openai.keys() == {"message", "type", "param", "code"}
    assert (openai["message"], openai["param"]) == ("cannot do it", "model")
    assert openai["code"] == openai["code"].lower()
    anthropic = json.loads(responses.error_body(Style.ANTHROPIC, status, error))
    assert anthropic["type"] == "error"
    assert anthropic["error"]["message"] == "cannot do it"
    blames_client = openai["type"] == "invalid_request_error"
    assert not blames_client or status < 500


def test_within_a_stream_it_is_an_event() -> None:
    openai = responses.error_event(Style.OPENAI, 502, LOST)
    assert openai.startswith(b'data: {"error":{')
    anthropic = responses.error_event(Style.ANTHROPIC, 502, LOST)
    assert anthropic.startswith(b'event: error\ndata: {"type":"error"')
    assert openai.endswith(b"\n\n")
    assert anthropic.count(b"\n\n") == 1


def test_llama_servers_errors_are_reshaped_and_other_things_left_alone() -> None:
    theirs = b'{"error":{"code":400,"message":"no","type":"invalid_request_error"}}'
    assert json.loads(responses.reshaped(Style.ANTHROPIC, 400, theirs)) == {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": "no"},
    }
    assert responses.reshaped(Style.OPENAI, 400, theirs) is theirs
    unclear = b'{"error":{"type":"exceed_context_size_error","n_prompt_tokens":"9","n_ctx":1}}'
    for other in (b"", b"<html>", b"[]", b'{"error":"no"}', unclear):
        for style in Style:
            assert responses.reshaped(style, 500, other) is other


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (503, b"HTTP/1.1 503 Service Unavailable\r\n"),
        (429, b"HTTP/1.1 429 Too Many Requests\r\n"),
        (599, b"HTTP/1.1 599 \r\n"),  # a server's own: a phrase may be empty, not the space
    ],
)
def test_clients_show_the_phrase_of_a_status(status: int, line: bytes) -> None:
    assert responses.head_bytes(status, b"", None, "1", closes=True).startswith(line)
