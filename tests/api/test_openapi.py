"""The OpenAPI document: valid, whole, and true to the table that it is made from."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from magid import errors
from magid.api.openapi import document, make_route
from magid.api.reply import Call, Reply, error_reply
from magid.api.routes import ROUTES, Access, Route
from magid.gateway.routing.endpoints import ENDPOINTS
from magid.http.status import STATUS, status_of

ALL = (*ROUTES, make_route(ROUTES))
DOCUMENT = json.loads(json.dumps(document(ALL)))
OPERATIONS = {
    (method.upper(), path): operation
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
}
routes = pytest.mark.parametrize("route", ALL, ids=lambda r: f"{r.method} {r.path}")


def operation_of(route: Route) -> dict[str, Any]:
    found: dict[str, Any] = OPERATIONS[route.method, route.path]
    return found


def every(key: str, within: object) -> Iterator[Any]:
    """All values of this key, however deep."""
    if isinstance(within, dict):
        for name, value in within.items():
            if name == key:
                yield value
            yield from every(key, value)
    elif isinstance(within, list):
        for item in within:
            yield from every(key, item)


def test_it_is_valid_openapi_3_1() -> None:
    assert DOCUMENT["openapi"] == "3.1.0"
    assert not list(OpenAPIV31SpecValidator(DOCUMENT).iter_errors())


def test_components_keep_the_names_that_clients_were_generated_from() -> None:
    components = DOCUMENT["components"]["schemas"]
    for name in ("LoadBalancing", "TierConfig", "TwoStage"):
        for side in ("Input", "Output"):
            assert components[f"{name}-{side}"]["title"] == name
    referred = {name.rpartition("/")[2] for name in every("$ref", DOCUMENT)}
    assert referred <= components.keys()


async def test_it_is_what_is_served() -> None:
    route = ALL[-1]
    served = await route.handler(None, Call())  # type: ignore[arg-type]  # it needs no context
    assert isinstance(served, Reply)
    assert json.loads(served.body) == DOCUMENT
    again = await route.handler(None, Call(if_none_match=served.headers["ETag"]))  # type: ignore[arg-type]
    assert isinstance(again, Reply)
    assert (again.status, again.body) == (304, b"")


def test_it_has_every_route_and_no_other() -> None:
    gateway = {(endpoint.method, endpoint.path) for endpoint in ENDPOINTS}
    assert OPERATIONS.keys() == {(route.method, route.path) for route in ALL} | gateway
    assert len(OPERATIONS) == len(ALL) + len(ENDPOINTS), "a route is twice in the table"


def test_every_reference_leads_somewhere_and_every_schema_is_used() -> None:
    used = set(every("$ref", DOCUMENT))
    for reference in used:
        target = DOCUMENT
        for step in reference.removeprefix("#/").split("/"):
            target = target[step]
        assert isinstance(target, dict)
    known = {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]}
    assert used == known


def test_operation_ids_are_distinct_names() -> None:
    ids = [operation["operationId"] for operation in OPERATIONS.values()]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z][a-zA-Z0-9_]*", name) for name in ids)


@routes
def test_an_operation_says_what_it_does_and_takes(route: Route) -> None:
    operation = operation_of(route)
    assert operation["summary"]
    assert operation["tags"] == [str(route.access)]
    parameters = operation["parameters"]
    in_path = [p["name"] for p in parameters if p["in"] == "path"]
    assert in_path == re.findall(r"{(\w+)}", route.path)
    in_query = {p["name"]: p["schema"] for p in parameters if p["in"] == "query"}
    assert in_query.keys() == {query.name for query in route.query}
    for query in route.query:
        assert in_query[query.name].get("maximum") == query.high
    assert ("requestBody" in operation) is bool(route.body)
    others = {
        ("POST", "/api/route/explain"): Access.READ,
        ("GET", "/api/tokens"): Access.CHANGE,
        ("GET", "/api/capture"): Access.CHANGE,
        ("GET", "/api/capture/{requestId}"): Access.CHANGE,  # texts of others
        ("GET", "/api/library/variants"): Access.CHANGE,  # asks with the token for the hub
        ("GET", "/api/library/outdated"): Access.CHANGE,
        ("POST", "/api/session"): Access.PUBLIC,  # who signs in has no access yet
        ("DELETE", "/api/session"): Access.PUBLIC,
    }
    if (route.method, route.path) in others:
        assert route.access is others[route.method, route.path]
    else:
        assert (route.access is Access.CHANGE) is (route.method != "GET")


@routes
def test_an_operation_says_what_it_answers(route: Route) -> None:
    responses = operation_of(route)["responses"]
    good = {str(status) for status in (route.status, *route.more)}
    assert good <= responses.keys()
    for status, response in responses.items():
        assert response["description"]
        if status in good:
            assert ("content" in response) is (status != "304")
        else:
            assert int(status) >= 400
            schema = response["content"]["application/json"]["schema"]
            assert schema == {"$ref": "#/components/schemas/ErrorReply"}
    for kind in route.errors:
        assert str(status_of(kind(""))) in responses
    for status in ("400", "401", "403", "404", "405", "408", "413", "415", "421", "500"):
        assert status in responses


def tree(kind: type[errors.MagidError]) -> Iterator[type[errors.MagidError]]:
    for below in kind.__subclasses__():
        yield below
        yield from tree(below)


def test_an_endpoint_that_is_not_here_promises_no_answer() -> None:
    for endpoint in ENDPOINTS:
        responses = DOCUMENT["paths"][endpoint.path][endpoint.method.lower()]["responses"]
        is_absent = endpoint.is_absent
        assert ("200" in responses, "501" in responses) == (not is_absent, is_absent)


@pytest.mark.parametrize("kind", list(tree(errors.MagidError)), ids=lambda kind: kind.__name__)
def test_every_error_has_a_status(kind: type[errors.MagidError]) -> None:
    assert any(ancestor in STATUS for ancestor in kind.__mro__), "add it to api.replies.STATUS"


PUBLIC = [kind for kind in tree(errors.MagidError) if kind.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", PUBLIC, ids=lambda kind: kind.__name__)
def test_every_error_is_answered_in_one_shape(kind: type[errors.MagidError]) -> None:
    answer = error_reply(kind("cannot do it", field="x"))
    assert 400 <= answer.status <= 599
    assert ("Retry-After" in answer.headers) is (answer.status in (429, 503))
    assert json.loads(answer.body) == {
        "error": kind.__name__,
        "message": "cannot do it",
        "details": {"field": "x"},
    }


def test_no_status_is_shared_by_chance() -> None:
    """An entry that only repeats what the class above it has says nothing."""
    for kind, status in STATUS.items():
        above = [STATUS[base] for base in kind.__mro__[1:] if base in STATUS]
        assert not above or above[0] != status, kind.__name__
