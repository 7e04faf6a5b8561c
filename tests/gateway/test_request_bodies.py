"""The body of a request for the gateway, segment by segment: bounded whatever its framing is."""

import gc
import json
import tracemalloc

import pytest

from magid.auth.authenticator import LOCAL
from magid.errors import InvalidInput, TooLarge
from magid.gateway.frontend import request_reader
from magid.gateway.frontend.request_reader import BodyReader, RequestBuilder
from magid.gateway.routing.conversations import (
    KEPT_BETWEEN,
    KEPT_ENDS,
    KEPT_PROCESSES,
    Conversations,
)
from magid.gateway.routing.endpoints import find
from magid.gateway.routing.outline import WHOLE_BYTES
from magid.gateway.routing.request import Prompt, read
from magid.http.request_rules import MAX_SMALL_CHUNKS, SMALL_CHUNK_BYTES
from tests.gateway.test_outline import finished

LIMIT = 32 * 2**20
SEGMENT = 2**18  # as uvloop reads


def chunked(size: int, count: int) -> bytes:
    return b"%x\r\n%b\r\n" % (size, b"x" * size) * count


def feed(body: BodyReader, data: bytes, segment: int = SEGMENT) -> bytes | bytearray | None:
    for at in range(0, len(data), segment):
        whole = body.feed(data[at : at + segment])
        if whole is not None:
            return whole
    return None


@pytest.mark.parametrize("segment", [7, 1000, SEGMENT])
@pytest.mark.parametrize("size", [1, 2, 15, 1000, 70_000])
def test_chunks_are_put_together(size: int, segment: int) -> None:
    count = min(3000, 200_000 // size)
    body = BodyReader(None, LIMIT)
    data = chunked(size, count) + b"0\r\n\r\nGET /"
    assert feed(body, data[:-5], segment) == b"x" * size * count
    assert body.rest == b""


def test_what_stands_behind_the_last_chunk_is_kept() -> None:
    body = BodyReader(None, LIMIT)
    data = chunked(5, 10_000) + b"0\r\n\r\n"
    assert body.feed(data + b"POST /") == b"x" * 50_000
    assert body.rest == b"POST /"


@pytest.mark.parametrize("size", [1, 2, SMALL_CHUNK_BYTES // 2])
def test_a_body_in_crumbs_is_refused_before_it_is_read(size: int) -> None:
    """16 MiB in chunks of 2 bytes took 43 s and 451 MB: no more chunks are read than the bound."""
    body = BodyReader(None, LIMIT)
    data = chunked(size, 60_000)
    gc.collect()
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInput, match="chunks of a few bytes"):
            body.feed(data)
        assert tracemalloc.get_traced_memory()[1] < 3 * 2**20
    finally:
        tracemalloc.stop()


def test_a_client_that_sends_each_word_as_a_chunk_is_taken() -> None:
    body = BodyReader(None, LIMIT)
    data = chunked(6, MAX_SMALL_CHUNKS // 2) + chunked(SMALL_CHUNK_BYTES, 60_000) + b"0\r\n\r\n"
    assert feed(body, data) is not None


@pytest.mark.parametrize("is_chunked", [True, False])
def test_a_large_body_is_kept_once(*, is_chunked: bool) -> None:
    size = 16 * 2**20
    data = chunked(size, 1) + b"0\r\n\r\n" if is_chunked else b"x" * size
    body = BodyReader(None if is_chunked else size, LIMIT)
    tracemalloc.start()
    try:
        whole = feed(body, data)
        assert tracemalloc.get_traced_memory()[1] < 1.4 * size
    finally:
        tracemalloc.stop()
    assert whole is not None
    assert len(whole) == size


def test_a_small_body_is_bytes() -> None:
    body = BodyReader(WHOLE_BYTES, LIMIT)
    assert body.feed(b"x") is None
    assert type(body.feed(b"x" * WHOLE_BYTES)) is bytes
    assert body.rest == b"x"


def test_a_body_that_may_be_parsed_as_it_is_is_bytes() -> None:
    """A parser would copy a bytearray."""
    size = 2 * 2**20
    body, sent = BodyReader(size, LIMIT), b"x" * size
    tracemalloc.start()
    try:
        assert type(feed(body, sent)) is bytes
        kept, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 0.2 * size  # the result is gone
    assert most < 2.4 * size


def test_a_body_over_the_limit_is_refused_at_once() -> None:
    with pytest.raises(TooLarge):
        BodyReader(LIMIT + 1, LIMIT)
    with pytest.raises(TooLarge):
        BodyReader(None, 1000).feed(chunked(1001, 1))


# -- what it asks for ----------------------------------------------------------------------------


def test_nulls_are_dropped_from_a_large_body_as_from_a_small_one() -> None:
    endpoint = find("POST", "/v1/chat/completions")
    assert endpoint is not None
    head = request_reader.parse_request_head(
        b"POST /v1/chat/completions HTTP/1.1\r\nContent-Type: application/json", None
    )
    builder = RequestBuilder(endpoint, head, "1", "client", LOCAL, 2**20)
    for size in (10, 10 * WHOLE_BYTES):
        data = {"model": "m", "messages": [{"role": "user", "content": "x" * size, "name": None}]}
        body = json.dumps(data).encode()
        request = builder.build(body) if size == 10 else finished(builder.build_in_steps(body))
        del data["messages"][0]["name"]  # type: ignore[attr-defined]  # a list
        assert json.loads(b"".join(request.pieces or (request.body,))) == data


# -- what is remembered of a request -------------------------------------------------------------


def talk(count: int, topic: str = "") -> Prompt:
    return read({"messages": [{"role": "user", "content": f"{topic}{n}"} for n in range(count)]})


def test_one_long_conversation_does_not_crowd_out_the_others() -> None:
    known = Conversations(limit=1000)
    others = [talk(3, f"other {n} ") for n in range(100)]
    for other in others:
        known.remember(other, "one", None)
    known.remember(talk(4096), "two", None)
    assert len(known) <= 300 + 2 * KEPT_ENDS + KEPT_BETWEEN
    assert all(known.cached_chars(other) for other in others)


@pytest.mark.parametrize("count", [1, 31, 64, 65, 200, 1000, 4000])
def test_a_long_conversation_goes_on_where_it_was(count: int) -> None:
    known = Conversations()
    known.remember(talk(count), "one", None)
    longer = talk(count + 2)
    assert known.cached_chars(longer)["one"] == talk(count).text_chars
    for shared in (KEPT_ENDS, count - KEPT_ENDS):
        if 0 < shared < count:
            other = read({"messages": [
                *({"role": "user", "content": str(n)} for n in range(shared)),
                {"role": "user", "content": "something else"},
            ]})  # fmt: skip
            assert known.cached_chars(other).get("one", 0) > 0


def test_servers_that_came_and_went_are_not_all_remembered() -> None:
    known = Conversations()
    for number in range(100):
        known.remember(talk(2), f"process {number}", None)
    newest = {f"process {number}" for number in range(100 - KEPT_PROCESSES, 100)}
    assert set(known.cached_chars(talk(2))) == newest
