"""Every route against callers that mean no good; made from the route table, so none is left out."""

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from magid.api.openapi import make_route
from magid.api.routes import ROUTES, Route
from magid.api.schemas import bodies
from tests.support import ggufs, rest
from tests.support.rest import QWEN
from tests.support.running import Running

ALL = (*ROUTES, make_route(ROUTES))
LIMIT = 4096
OWN_PAGE = "http://ui.example:5173"
CONFIGURATION = f"""\
max_body_bytes: {LIMIT}
allowed_hosts: [magi.example]
allowed_origins: ['{OWN_PAGE}']
"""
STREAMS = {route.path for route in ALL if route.reply is None}


@pytest.fixture(scope="module")
def magid(parts: rest.Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A daemon with one model that never runs. Nothing that is done to it is a defect of its."""
    running = parts.daemon(tmp_path_factory.mktemp("daemon"), CONFIGURATION)
    ggufs.write_sparse_model(
        running.models / "Qwen3-4B-Q2_K.gguf", parameters_billions=4.0, quantization="Q2_K"
    )
    with running, running.client:
        running.wait_ready()
        yield running
        assert "ERROR" not in running.log.read_text()


def named(route: Route) -> str:
    return f"{route.method} {route.path}"


def path_of(route: Route, parameter: str = "nobody") -> str:
    return re.sub(r"{\w+}", parameter, route.path)


routes = pytest.mark.parametrize("route", ALL, ids=named)
writes = pytest.mark.parametrize("route", [r for r in ALL if r.method != "GET"], ids=named)
reads = pytest.mark.parametrize("route", [r for r in ALL if r.method == "GET"], ids=named)
with_parameter = pytest.mark.parametrize("route", [r for r in ALL if "{" in r.path], ids=named)
with_body = pytest.mark.parametrize("route", [r for r in ALL if r.body], ids=named)


def send(magid: Running, route: Route, status: int, **options: Any) -> httpx.Response:
    """The answer to this route's request, which must have this status."""
    response = magid.client.request(route.method, path_of(route), **options)
    assert response.status_code == status, response.text
    if status >= 400:
        assert response.json().keys() == {"error", "message", "details"}
    return response


# -- who asks ----------------------------------------------------------------------------------


@routes
@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.nip.io:80", "10.0.0.1", "localhost.x"])
def test_a_foreign_host(magid: Running, route: Route, host: str) -> None:
    error = send(magid, route, 421, headers={"Host": host}).json()
    assert error["error"] == "HostNotAllowed"


@routes
@pytest.mark.parametrize("host", ["", "a b", "localhost:x", "user@localhost", "[::1"])
def test_a_malformed_host(magid: Running, route: Route, host: str) -> None:
    answer = rest.ask(magid.port, f"{route.method} {path_of(route)} HTTP/1.1", host=host)
    rest.check_error(answer, 400)


@routes
@pytest.mark.parametrize("lines", [[], ["Host: localhost", "Host: localhost"]])
def test_no_host_or_two(magid: Running, route: Route, lines: list[str]) -> None:
    head = "\r\n".join([f"{route.method} {path_of(route)} HTTP/1.1", "X: y", *lines, "", ""])
    (answer,) = rest.exchange(magid.port, head.replace("X: y", "Connection: close").encode())
    rest.check_error(answer, 400)


@routes
@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:1", "file://"])
def test_a_foreign_page(magid: Running, route: Route, origin: str) -> None:
    response = send(magid, route, 403, headers={"Origin": origin})
    assert response.json()["error"] == "NotAllowed"
    assert not [name for name in response.headers if name.startswith("access-control-")]


@writes
@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_change_from_another_site(magid: Running, route: Route, site: str) -> None:
    send(magid, route, 403, headers={"Sec-Fetch-Site": site})


@pytest.mark.parametrize("route", [r for r in ALL if r.is_for_own_pages], ids=named)
def test_work_for_a_page_of_another_site(magid: Running, route: Route) -> None:
    """An image of the page would ask the hub with the administrator's token, or start processes."""
    for site in ("cross-site", "same-site"):
        error = send(magid, route, 403, headers={"Sec-Fetch-Site": site}).json()
        assert error["error"] == "NotAllowed"
    for headers in ({"Sec-Fetch-Site": "none"}, {"Origin": OWN_PAGE}):
        answer = magid.client.get(path_of(route), headers=headers)
        assert "cannot answer a page" not in answer.text, answer.text


def test_what_is_no_work_for_anybody_may_be_fetched(magid: Running) -> None:
    for path in ("/livez", "/api/models/registry", "/metrics"):
        response = magid.client.get(path, headers={"Sec-Fetch-Site": "cross-site"})
        assert response.status_code == 200


@routes
def test_a_parameter_that_is_not_known(magid: Running, route: Route) -> None:
    """It is told, with the known ones: a slip in a name must not pass for its effect."""
    response = magid.client.request(route.method, f"{path_of(route)}?limitt=5")
    assert response.status_code == 400, response.text
    error = response.json()
    assert error["details"]["field"] == "limitt"
    assert all(query.name in error["message"] for query in route.query)
    preflight = magid.client.options(f"{path_of(route)}?limitt=5", headers={"Origin": OWN_PAGE})
    assert preflight.status_code == 204  # that of the request itself tells


@routes
def test_a_browser_asks_first(magid: Running, route: Route) -> None:
    asked = {"Access-Control-Request-Headers": "authorization,if-match,x-of-a-library"}
    own = magid.client.options(path_of(route), headers={"Origin": OWN_PAGE, **asked})
    assert (own.status_code, own.content) == (204, b"")
    assert own.headers["access-control-allow-origin"] == OWN_PAGE
    assert route.method in own.headers["access-control-allow-methods"].split(", ")
    allowed = own.headers["access-control-allow-headers"]
    assert allowed == asked["Access-Control-Request-Headers"]
    foreign = magid.client.options(
        path_of(route), headers={"Origin": "http://evil.example", **asked}
    )
    assert foreign.status_code == 403
    assert not [name for name in foreign.headers if name.startswith("access-control-")]


@pytest.mark.parametrize("path", ["/livez", "/api/models/registry", "/nowhere"])
def test_a_page_of_ours_may_read_answers_and_errors(magid: Running, path: str) -> None:
    response = magid.client.get(path, headers={"Origin": OWN_PAGE})
    assert response.headers["access-control-allow-origin"] == OWN_PAGE
    assert "ETag" in response.headers["access-control-expose-headers"]
    assert response.headers["vary"] == "Origin"
    alone = magid.client.get(path)
    assert "access-control-allow-origin" not in alone.headers
    assert alone.headers["vary"] == "Origin"


@pytest.mark.parametrize("host", ["magi.example", "LOCALHOST:1", "[::1]", "magi.example.:80"])
def test_hosts_of_ours(magid: Running, host: str) -> None:
    assert magid.client.get("/livez", headers={"Host": host}).status_code == 200


# -- what is sent ------------------------------------------------------------------------------


@routes
@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "x",
             "application/jsonx", "\xff"],
)  # fmt: skip
def test_a_body_that_is_not_called_json(magid: Running, route: Route, kind: str) -> None:
    # Of these a page can send some to any site without being asked whether it may.
    headers = {b"content-type": kind.encode("latin-1")}
    error = send(magid, route, 415, content=b'{"tier": "fast"}', headers=headers).json()
    assert error["error"] == "UnsupportedMediaType"


@routes
def test_a_body_over_the_limit(magid: Running, route: Route) -> None:
    body = b" " * (LIMIT + 1)
    json_type = {"Content-Type": "application/json"}
    assert send(magid, route, 413, content=body, headers=json_type).json()["error"] == "TooLarge"
    send(magid, route, 413, content=chunks(body), headers=json_type)


def chunks(body: bytes) -> Iterator[bytes]:
    """Httpx sends what it does not know the length of in chunks."""
    for start in range(0, len(body), 1000):
        yield body[start : start + 1000]


NOT_JSON = {
    "nothing": b"",
    "half": b'{"tier": "fast"',
    "text": b"fast",
    "nan": b"NaN",
    "two": b"{} {}",
    "utf-16": '{"tier": "fast"}'.encode("utf-16"),
    "not utf-8": b'{"tier": "\xff"}',
    "half a surrogate": b'{"name": "\\ud800", "tier": "\\ud800"}',
    "nul": b'{"tier": "fast"}\x00',
    "deep": b"[" * 2000 + b"]" * 2000,
    "deep in a key": b'{"a":' * 600 + b"1" + b"}" * 600,
    "comment": b"{} // x",
    "trailing comma": b'{"tier": "fast",}',
}
WRONG = {
    "null": b"null",
    "number": b"1",
    "huge number": b"9" * 4000,
    "string": b'"tier"',
    "list": b'[{"tier": "fast"}]',
    "unknown key": b'{"nonsense": 1}',
    "unknown keys": json.dumps({str(number): number for number in range(300)}).encode(),
    "prototype": b'{"__proto__": {"tier": "fast"}, "constructor": 1}',
    "infinite": b'{"tier": Infinity, "port": 1e999, "name": NaN, "ctxSize": -Infinity}',
}


@with_body
@pytest.mark.parametrize("body", [*NOT_JSON.values(), *WRONG.values()], ids=[*NOT_JSON, *WRONG])
def test_a_body_of_a_wrong_form(magid: Running, route: Route, body: bytes) -> None:
    response = send(magid, route, 400, content=body, headers={"Content-Type": "application/json"})
    error = response.json()
    assert error["error"] == "InvalidInput"
    assert "field" in error["details"]
    assert len(response.content) < 10_000, "an error does not repeat what was sent"


@with_body
@pytest.mark.parametrize("value", [[], {}, -1, 1e300, "\u202e", "x" * 3000, [[[]]]], ids=repr)
def test_values_of_a_wrong_kind(magid: Running, route: Route, value: object) -> None:
    assert route.body
    for name, field in bodies.MODELS[route.body].model_fields.items():
        body = {field.alias or name: value}
        if not valid(route, body):
            send(magid, route, 400, json=body)


def valid(route: Route, body: object) -> bool:
    assert route.body
    try:
        bodies.MODELS[route.body].model_validate_json(json.dumps(body))
    except ValueError:
        return False
    return True


# -- where to ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted({route.path for route in ALL}))
def test_other_methods(magid: Running, path: str) -> None:
    known = {route.method for route in ALL if route.path == path}
    for method in {"GET", "POST", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND", "get"} - known:
        answer = rest.ask(magid.port, f"{method} {re.sub('{.*?}', 'x', path)} HTTP/1.1")
        assert rest.check_error(answer, 405)["error"] == "MethodNotAllowed"
        allowed = set(answer.headers["allow"].split(", "))
        assert allowed == known | {"OPTIONS"} | ({"HEAD"} if "GET" in known else set())


@pytest.mark.parametrize(
    "path",
    [
        "/api", "/api/models", "/api/models/x/y/z", "/etc/passwd", "/openapi.json/x",
        "/../../etc/passwd", "/api/models/../../livez", "/%2e%2e/etc/passwd", "/livez%00",
        "/livez%2f", "/LIVEZ", "//livez", "/api%2fmodels%2fregistry", "/.git/config", "/static/",
        "/" + "a" * 10_000, "/" + "a/" * 5000, "/%", "/%zz", "/;x", "/livez;x=1",
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
def test_paths_that_are_not_there(magid: Running, method: str, path: str) -> None:
    answer = rest.ask(magid.port, f"{method} {path} HTTP/1.1")
    if method == "HEAD":
        assert (answer.status, answer.body) == (404, b"")
    else:
        assert rest.check_error(answer, 404)["error"] == "NotFound"


NAMES = {
    "parent": ("%2e%2e%2f%2e%2e%2fetc%2fpasswd", "../../etc/passwd"),
    "nul": ("a%00b", "a\x00b"),
    "twice": ("%252e%252e%252f", "%2e%2e%2f"),
    "percent": ("%25", "%"),
    "newline": ("a%0d%0aX-Evil:%201", "a\r\nX-Evil: 1"),
    "unicode": ("%D0%BC%E2%80%AE%F0%9F%98%80", "м\u202e😀"),
    "long": ("a" * 10_000, "a" * 10_000),
    "plus": ("a+b", "a+b"),
    "half an escape": ("%e", "%e"),
    "backslash": ("..%5c..%5c", "..\\..\\"),
    "option": ("--help", "--help"),
    "shell": ("$(id)`id`", "$(id)`id`"),
    "star": ("*", "*"),
}


@with_parameter
@pytest.mark.parametrize(("sent", "meant"), NAMES.values(), ids=NAMES)
def test_names_that_nothing_has(magid: Running, route: Route, sent: str, meant: str) -> None:
    """Decoded exactly once, and never a path, a header or a program's option."""
    body = "{}" if route.body else ""
    if route.body and not valid(route, {}):
        body = json.dumps(next(b for b in GOOD if valid(route, b)))
    head = (
        f"{route.method} {path_of(route, sent)} HTTP/1.1", "Host: localhost", "Connection: close",
        "Content-Type: application/json", f"Content-Length: {len(body)}", "", body,
    )  # fmt: skip
    (answer,) = rest.exchange(magid.port, "\r\n".join(head).encode())
    if "/capture/" in route.path:  # nothing of it is said to an unknown caller
        rest.check_error(answer, 403)
        return
    error = rest.check_error(answer, 400 if "{tier}" in route.path else 404)
    shown = error["details"].get("modelId", error["details"].get("profileName", meant))
    assert shown == meant[: len(shown)]
    assert "x-evil" not in answer.headers


GOOD: list[dict[str, object]] = [
    {"tier": "fast"}, {"thinking": True}, {"enabled": True}, {"port": None}, {"name": "X"},
    {"text": "name: X\nenabled_models: []\n"},
]  # fmt: skip


@with_parameter
@pytest.mark.parametrize("sent", ["%ff", "%c0%ae%c0%ae", "a%80", "%ed%a0%80"])
def test_names_that_are_not_utf8(magid: Running, route: Route, sent: str) -> None:
    answer = rest.ask(magid.port, f"{route.method} {path_of(route, sent)} HTTP/1.1")
    rest.check_error(answer, 404)


@reads
@pytest.mark.parametrize(
    "query", ["%", "%00=%ff", "&&&==", "a=" + "b" * 5000, "lines=%ff", "model=%00", "x[]=1", "+"]
)
def test_odd_queries(magid: Running, route: Route, query: str) -> None:
    if route.path in STREAMS:
        return
    answer = rest.ask(magid.port, f"GET {path_of(route, QWEN)}?{query} HTTP/1.1")
    assert answer.status < 500


# -- every answer ------------------------------------------------------------------------------


@reads
def test_head_is_get_without_the_body(magid: Running, route: Route) -> None:
    path = path_of(route, "fast" if "{tier}" in route.path else "test")
    head = rest.ask(magid.port, f"HEAD {path} HTTP/1.1")
    assert head.body == b""
    if route.path not in STREAMS:
        get = magid.client.get(path)
        assert head.status == get.status_code
        for name in ("etag", "content-type", "cache-control"):
            assert head.headers.get(name) == get.headers.get(name)


@routes
def test_headers_of_every_answer(magid: Running, route: Route) -> None:
    method = "HEAD" if route.path in STREAMS else route.method
    for path in (path_of(route), path_of(route) + "/nowhere/at/all"):
        response = magid.client.request(method, path)
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert response.headers["cache-control"] in ("no-store", "no-cache")
        assert "server" not in response.headers


@pytest.mark.parametrize("path", ["/livez", "/nowhere", "/api/models/nobody", "/v1/models"])
@pytest.mark.parametrize("given", ["abc-1.2_Z", "x" * 65, "", "a b", "<script>", "\u00e9", '"'])
def test_ids_are_magids_own(magid: Running, path: str, given: str) -> None:
    headers = {b"x-request-id": given.encode("latin-1")}
    own = [magid.client.get(path, headers=headers).headers["x-request-id"] for _ in range(2)]
    assert own[0] != own[1]
    for one in own:
        assert re.fullmatch(r"[0-9a-f]{17,32}", one)


def test_after_all_of_this_it_still_answers(magid: Running) -> None:
    assert magid.get("/livez") == {"status": "ok"}
    registry = magid.get("/api/models/registry")["models"]
    assert registry.keys() == {QWEN}
    assert registry[QWEN]["tierOverride"] is None
    assert magid.get("/api/models/profiles") == ["test"]
