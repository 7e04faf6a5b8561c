"""The rules of a client's request that hold on both sides of the port."""

import pytest

from magid.errors import InvalidInput
from magid.http import request_rules
from magid.http.request_rules import MAX_SMALL_CHUNKS, SMALL_CHUNK_BYTES


def test_ids_of_requests_differ_and_are_fit_for_the_log() -> None:
    ids = {request_rules.next_request_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(request_rules.client_request_id(one) == one for one in ids)


@pytest.mark.parametrize("given", ["a.B-9_", "x" * 64])
def test_an_id_of_the_client_is_kept(given: str) -> None:
    assert request_rules.client_request_id(given) == given


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", "a\nb", "caf\xe9", "a/b"])
def test_an_id_that_is_not_fit_for_the_log_is_dropped(given: str) -> None:
    assert request_rules.client_request_id(given) == ""


@pytest.mark.parametrize(
    ("content_type", "is_json"),
    [
        ("application/json", True),
        ("Application/JSON ; charset=utf-8", True),
        ("", False),
        ("text/plain", False),
        ("application/jsonx", False),
        ("text/plain, application/json", False),
    ],
)
def test_a_body_is_json_or_is_not_read(content_type: str, is_json: bool) -> None:
    assert request_rules.is_json(content_type) is is_json


def test_a_body_may_come_in_as_many_small_chunks_as_an_encoder_makes() -> None:
    request_rules.check_chunks(MAX_SMALL_CHUNKS, 0)
    request_rules.check_chunks(MAX_SMALL_CHUNKS + 10, 10 * SMALL_CHUNK_BYTES)
    with pytest.raises(InvalidInput, match="chunks"):
        request_rules.check_chunks(MAX_SMALL_CHUNKS + 11, 10 * SMALL_CHUNK_BYTES)
