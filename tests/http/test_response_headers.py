"""What the head of an answer has, by status."""

from http import HTTPStatus

import pytest

from magid.http.response_headers import PHRASES, headers_for
from magid.http.status import STATUS


@pytest.mark.parametrize(
    ("status", "names"),
    [
        (200, set()),
        (401, {"WWW-Authenticate"}),
        (404, set()),
        (405, {"Allow"}),
        (429, {"Retry-After"}),
        (503, {"Retry-After"}),
    ],
)
def test_headers_that_a_status_needs(status: int, names: set[str]) -> None:
    assert headers_for(status, {"POST", "GET"}).keys() == names
    assert headers_for(status, {"POST", "GET"}).get("Allow", "GET, POST") == "GET, POST"


def test_every_status_of_magid_has_its_standard_phrase() -> None:
    assert all(PHRASES[status] == HTTPStatus(status).phrase.encode() for status in STATUS.values())
