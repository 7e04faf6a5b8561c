"""Every endpoint of the gateway against pages of other sites; made from its table, as REST's are.

test_api_hostile does the same for the REST routes.
"""

import re
from collections.abc import Iterator

import httpx
import pytest

from magid.gateway.routing.endpoints import ENDPOINTS, Endpoint, Style
from tests.support import rest
from tests.support.deadlines import DEADLINE_S
from tests.support.running import Running

pytestmark = pytest.mark.slow

OWN_PAGE = "http://ui.example:5173"
SDK_HEADERS = (  # of Anthropic's and OpenAI's libraries in a browser
    "anthropic-beta,anthropic-dangerous-direct-browser-access,anthropic-version,authorization,"
    "content-type,x-api-key,x-stainless-arch,x-stainless-lang,x-stainless-retry-count"
)
endpoints = pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda e: f"{e.method} {e.path}")
posts = pytest.mark.parametrize(
    "endpoint", [e for e in ENDPOINTS if e.method == "POST"], ids=lambda e: e.path
)


@pytest.fixture(scope="module")
def magid(parts: rest.Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    configuration = f"allowed_origins: ['{OWN_PAGE}']\ngateway: {{max_body_bytes: 4096}}\n"
    running = parts.daemon(tmp_path_factory.mktemp("daemon"), configuration)
    with running, running.client:
        running.wait_ready()
        yield running
        assert "Traceback" not in running.log.read_text()


@pytest.fixture(scope="module")
def client(magid: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=magid.url, timeout=DEADLINE_S, trust_env=False) as client:
        yield client


def path_of(endpoint: Endpoint) -> str:
    return re.sub(r"{\w+}", "nobody", endpoint.path)


def check_refused(endpoint: Endpoint, answer: httpx.Response, status: int) -> None:
    """In the shape that the endpoint's SDK reads, and with no leave for a page to read it."""
    assert answer.status_code == status, answer.text
    error = answer.json()
    if endpoint.style is Style.OLLAMA:
        assert error.keys() == {"error"}
        assert error["error"].startswith("cannot ")
    else:
        assert error["error"]["message"].startswith("cannot ")
    assert (error.get("type") == "error") is (endpoint.style is Style.ANTHROPIC)
    assert not [name for name in answer.headers if name.startswith("access-control-")]


@endpoints
@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.nip.io:80", "10.0.0.1", "localhost.x"])
def test_a_foreign_host(client: httpx.Client, endpoint: Endpoint, host: str) -> None:
    answer = client.request(endpoint.method, path_of(endpoint), headers={"Host": host})
    check_refused(endpoint, answer, 421)


@endpoints
@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:1", "file://"])
def test_a_foreign_page(client: httpx.Client, endpoint: Endpoint, origin: str) -> None:
    answer = client.request(endpoint.method, path_of(endpoint), headers={"Origin": origin})
    check_refused(endpoint, answer, 403)
    headers = {"Origin": origin, "Access-Control-Request-Headers": SDK_HEADERS}
    check_refused(endpoint, client.options(path_of(endpoint), headers=headers), 403)


@endpoints
def test_a_browser_asks_first(client: httpx.Client, endpoint: Endpoint) -> None:
    headers = {"Access-Control-Request-Headers": SDK_HEADERS}
    answer = client.options(path_of(endpoint), headers={"Origin": OWN_PAGE, **headers})
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == OWN_PAGE
    assert endpoint.method in answer.headers["access-control-allow-methods"].split(", ")
    assert answer.headers["access-control-allow-headers"] == SDK_HEADERS
    own = client.options(path_of(endpoint), headers=headers)  # of magid's own page, or of none
    assert not [name for name in own.headers if name.startswith("access-control-")]


@endpoints
def test_a_page_may_read_why_its_request_is_refused(
    client: httpx.Client, endpoint: Endpoint
) -> None:
    path = f"{path_of(endpoint)}?api_key=x"
    answer = client.request(endpoint.method, path, headers={"Origin": OWN_PAGE})
    assert answer.status_code == 400
    assert answer.headers["access-control-allow-origin"] == OWN_PAGE


@posts
@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_request_from_another_site(client: httpx.Client, endpoint: Endpoint, site: str) -> None:
    answer = client.post(path_of(endpoint), json={}, headers={"Sec-Fetch-Site": site})
    check_refused(endpoint, answer, 403)


@posts
@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "\xff"]
)
def test_a_form(client: httpx.Client, endpoint: Endpoint, kind: str) -> None:
    """Of these a page can send some to any site without being asked whether it may."""
    headers = {b"content-type": kind.encode("latin-1")}
    if kind == "application/x-www-form-urlencoded":  # what `curl -d` calls everything
        headers[b"sec-fetch-site"] = b"same-origin"
    answer = client.post(path_of(endpoint), content=b'{"model":"fast"}', headers=headers)
    check_refused(endpoint, answer, 415)


@endpoints
@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "TRACE", "PROPFIND"])
def test_other_methods(client: httpx.Client, endpoint: Endpoint, method: str) -> None:
    here = [one for one in ENDPOINTS if one.path == endpoint.path]
    methods = {one.method for one in here}
    if method in methods:
        return
    answer = client.request(method, path_of(endpoint), data={"_method": endpoint.method})
    check_refused(endpoint, answer, 405)
    allowed = set(answer.headers["allow"].split(", "))
    is_served = any(one.method == "GET" and not one.kinds for one in here)  # by magid itself
    assert allowed == methods | {"OPTIONS"} | ({"HEAD"} if is_served else set())


@posts
def test_a_body_over_the_limit(client: httpx.Client, endpoint: Endpoint) -> None:
    headers = {"Content-Type": "application/json"}
    answer = client.post(path_of(endpoint), content=b" " * 4097, headers=headers)
    check_refused(endpoint, answer, 413)
    pieces = (b" " * 1000 for _ in range(5))
    check_refused(endpoint, client.post(path_of(endpoint), content=pieces, headers=headers), 413)
