"""Tokens against a running daemon: each route and endpoint, asked by each kind of caller."""

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import anthropic
import httpx
import openai
import pytest

from magid.api.openapi import make_route
from magid.api.routes import ROUTES, Access, Route
from magid.auth import token_store
from magid.gateway.frontend import responses
from magid.gateway.routing.endpoints import ENDPOINTS, Endpoint
from tests.support import fleets, ggufs, rest
from tests.support.deadlines import DEADLINE_S
from tests.support.fleets import MEDIUM, SMALL, THINKER
from tests.support.rest import Parts
from tests.support.running import Running
from tests.support.token_daemons import SECRETS, UNKNOWN

pytestmark = pytest.mark.slow


def local(running: Running) -> httpx.Client:
    """A client on the unix socket."""
    return running.local()


def reload(running: Running) -> None:
    """SIGHUP; returns when magid has read everything anew."""
    assert running.process
    with local(running) as client, client.stream("GET", "/api/events") as answer:
        lines = answer.iter_lines()
        assert "event: snapshot" in lines
        something_new(running)
        running.process.send_signal(signal.SIGHUP)
        assert "event: registry" in lines  # of the scan, which comes last


def something_new(running: Running) -> None:
    """A model that the next scan finds, and tells of."""
    name = f"New{len(list(running.models.iterdir()))}-4B-Q2_K.gguf"
    ggufs.write_sparse_model(running.models / name, parameters_billions=4.0, quantization="Q2_K")


def bearer(who: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {SECRETS[who]}"}


# -- who is let in -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def anyone(bare: Running) -> Iterator[httpx.Client]:
    """Shows nothing of its own."""
    with fleets.client(bare) as made:
        yield made


@pytest.fixture(scope="module")
def inside(bare: Running) -> Iterator[httpx.Client]:
    with local(bare) as made:
        yield made


def status(client: httpx.Client, method: str, path: str, headers: dict[str, str]) -> int:
    """What such a caller gets for a request without a body."""
    with client.stream(method, path, headers=headers) as answer:
        challenge = answer.headers.get("www-authenticate")
        assert challenge == ('Bearer realm="magid"' if answer.status_code == 401 else None)
        return answer.status_code


def refusals(client: httpx.Client, method: str, path: str) -> dict[str, int]:
    """Who is kept out, with which status."""
    callers = {
        "nobody": {},
        "unknown": {"Authorization": f"Bearer {UNKNOWN}"},
        "other scheme": {"Authorization": f"Basic {SECRETS['admin']}"},
        **{who: bearer(who) for who in SECRETS},
    }
    found = {who: status(client, method, path, headers) for who, headers in callers.items()}
    return {who: code for who, code in found.items() if code in (401, 403)}


OUT = dict.fromkeys(("nobody", "unknown", "other scheme", "expired", "revoked"), 401)
KEPT_OUT: dict[Access, dict[str, int]] = {
    Access.PUBLIC: {},
    Access.READ: OUT | {"infer": 403, "small": 403},
    Access.CHANGE: OUT | {"infer": 403, "small": 403, "read": 403},
}
ALL = (*ROUTES, make_route(ROUTES))


@pytest.mark.parametrize("route", ALL, ids=lambda route: f"{route.method} {route.path}")
def test_every_route_lets_in_whom_it_should(
    anyone: httpx.Client, inside: httpx.Client, route: Route
) -> None:
    path = re.sub(r"{\w+}", "none", route.path)
    assert refusals(anyone, route.method, path) == KEPT_OUT[route.access]
    assert status(inside, route.method, path, {}) not in (401, 403)


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda e: f"{e.method} {e.path}")
def test_every_endpoint_of_the_gateway_is_for_infer(
    anyone: httpx.Client, inside: httpx.Client, endpoint: Endpoint
) -> None:
    method, path = endpoint.method, endpoint.path.replace("{id}", "none")
    others = {"infer": 403, "small": 403} if endpoint.needs_admin else {}
    assert refusals(anyone, method, path) == OUT | {"read": 403} | others
    admitted = SECRETS["admin" if others else "infer"]
    assert status(anyone, method, path, {"x-api-key": admitted}) not in (401, 403)
    assert status(anyone, method, path, {"x-api-key": UNKNOWN}) == 401
    assert status(inside, method, path, {}) not in (401, 403)


def test_paths_that_do_not_exist_tell_nothing_below_v1(anyone: httpx.Client) -> None:
    assert status(anyone, "GET", "/v1/nothing", {}) == 401
    assert status(anyone, "GET", "/v1/nothing", bearer("infer")) == 404


def test_a_browser_may_ask_whether_it_may_ask(anyone: httpx.Client) -> None:
    for path in ("/api/models/registry", "/v1/chat/completions"):
        assert status(anyone, "OPTIONS", path, {}) == 204


def test_one_credential_a_request(anyone: httpx.Client) -> None:
    for name in ("authorization", "x-api-key"):
        twice = [(name, f"Bearer {SECRETS['admin']}"), (name, "Bearer other")]
        for path in ("/api/models/status", "/v1/models"):
            answer = anyone.get(path, headers=twice)
            assert answer.status_code == 400
            assert "given twice" in answer.text


@pytest.mark.parametrize("path", ["/api/models/status", "/v1/models", "/livez"])
def test_a_token_in_the_url_is_refused(anyone: httpx.Client, path: str) -> None:
    answer = anyone.get(f"{path}?token={SECRETS['admin']}")
    assert answer.status_code == 400
    assert "URLs get into logs" in answer.text
    assert SECRETS["admin"] not in answer.text


def test_a_body_of_who_may_not_send_one_is_not_read(bare: Running) -> None:
    """Refused on the head alone, which says that a large body will follow."""
    for path in ("/v1/chat/completions", "/api/models/rescan"):
        with rest.connect(bare.port) as connection:
            connection.sendall(
                f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n"
                "Content-Type: application/json\r\n\r\n".encode()
            )
            assert connection.recv(4096).startswith(b"HTTP/1.1 401 ")


# -- the life of a token -----------------------------------------------------------------------


def test_a_token_is_made_listed_used_and_revoked(bare: Running, anyone: httpx.Client) -> None:
    body = {"name": "ci", "scopes": ["read"], "expiresAt": "2999-01-01T00:00:00+01:00"}
    made = bare.ask("POST", "/api/tokens", body, status=201)
    assert made["entry"] | {"id": ""} == {
        "name": "ci", "id": "", "scopes": ["read"], "models": None, "expired": False,
        "createdAt": made["entry"]["createdAt"], "expiresAt": "2998-12-31T23:00:00Z",
        "lastUsedAt": None,
        "limits": None,
    }  # fmt: skip
    mine = {"Authorization": f"Bearer {made['token']}"}
    rest.refused(bare, "POST", "/api/tokens", body, 409)
    with anyone.stream("GET", "/api/events", headers=mine) as events:
        lines = events.iter_lines()
        assert next(lines)
        listed = bare.client.get("/api/tokens")
        assert made["token"][14:] not in listed.text
        entries = {entry["name"]: entry for entry in listed.json()["tokens"]}
        assert entries["ci"]["lastUsedAt"]
        assert entries["expired"]["expired"]
        assert listed.json()["required"]
        bare.ask("DELETE", "/api/tokens/ci")
        assert status(anyone, "GET", "/api/models/status", mine) == 401
        something_new(bare)
        bare.ask("POST", "/api/models/rescan")  # news, at which the stream ends
        for line in lines:
            assert not line.startswith(("event: registry", ":")), "the stream goes on"
    rest.refused(bare, "DELETE", "/api/tokens/ci", None, 404)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"scopes": ["read"]}, "name"),
        ({"name": "../x", "scopes": ["read"]}, "name"),
        ({"name": "x", "scopes": []}, "scopes"),
        ({"name": "x", "scopes": ["root"]}, "scopes[0]"),
        ({"name": "x", "scopes": ["read"], "expiresAt": "2020-01-01T00:00:00Z"}, "expiresAt"),
        ({"name": "x", "scopes": ["read"], "expiresAt": "2999-01-01T00:00:00"}, "expiresAt"),
        ({"name": "x", "scopes": ["read"], "models": ["fast"]}, "models"),
        ({"name": "x", "scopes": ["infer"], "models": []}, "models"),
        ({"name": "x", "scopes": ["infer"], "secret": "mine"}, "secret"),
    ],
)
def test_a_bad_request_for_a_token(bare: Running, body: object, field: str) -> None:
    assert rest.refused(bare, "POST", "/api/tokens", body, 400)["details"]["field"] == field


def test_a_reload_reads_the_file_and_a_broken_one_closes(parts: Parts, tmp_path: Path) -> None:
    """From open to closed, broken and open again, without a restart."""
    running = parts.daemon(tmp_path)
    running.listen_locally()
    path = running.state / token_store.NAME
    with running, running.client, local(running) as client, fleets.client(running) as nobody:
        running.wait_ready()
        body = {"name": "first", "scopes": ["admin"]}
        why = rest.refused(running, "POST", "/api/tokens", body, 403)["message"]
        assert why.startswith("cannot make the first token over TCP: ")
        assert not path.exists()
        assert running.get("/api/tokens") == {"required": False, "problem": None, "tokens": []}
        first = running.make_token("first", "admin")
        assert status(nobody, "GET", "/api/models/status", {}) == 401
        running.use_token(first)
        good = path.read_bytes()
        path.write_bytes(good[:-20])
        reload(running)
        for asked in ("/api/models/status", "/v1/models"):
            mine = {"Authorization": f"Bearer {first}"}
            assert status(nobody, "GET", asked, mine) == 503
        said = client.get("/api/models/status").json()["problems"]
        assert [p for p in said if p.startswith(f"cannot use {path}: ")]
        assert running.client.get("/livez").status_code == 200
        assert client.post("/api/tokens", json={"name": "x", "scopes": ["read"]}).status_code == 409
        path.write_bytes(good)
        reload(running)
        assert running.ask("GET", "/api/models/status")
        path.unlink()
        reload(running)
        assert status(nobody, "GET", "/api/models/status", {}) == 200


# -- the gateway -------------------------------------------------------------------------------


def test_sdks_show_their_key(magid: Running) -> None:
    with openai.OpenAI(base_url=f"{magid.url}/v1", api_key=SECRETS["infer"]) as ai:
        assert SMALL in [model.id for model in ai.models.list()]
    with anthropic.Anthropic(base_url=magid.url, api_key=SECRETS["infer"]) as claude:
        answer = claude.messages.create(
            model="fast", max_tokens=4, messages=[{"role": "user", "content": "Hello"}]
        )
        assert answer.usage.output_tokens == 4
    records = magid.get("/api/requests")["requests"]
    assert records[0]["token"] == "infer"
    assert SECRETS["infer"] not in json.dumps(records)


def test_sdks_know_the_errors(magid: Running) -> None:
    for who, kind in (
        ("expired", openai.AuthenticationError),
        ("read", openai.PermissionDeniedError),
    ):
        with (
            openai.OpenAI(base_url=f"{magid.url}/v1", api_key=SECRETS[who], max_retries=0) as ai,
            pytest.raises(kind) as caught,
        ):
            ai.models.list()
        assert SECRETS[who] not in str(caught.value)
    with (
        anthropic.Anthropic(base_url=magid.url, api_key=UNKNOWN, max_retries=0) as claude,
        pytest.raises(anthropic.AuthenticationError) as refused,
    ):
        claude.messages.create(model="fast", max_tokens=4, messages=[])
    assert refused.value.body
    assert refused.value.body["error"]["type"] == "authentication_error"


def test_a_limited_token_has_its_models_and_no_others(magid: Running) -> None:
    """my-model is an alias of SMALL; THINKER is powerful, and so is gpt-4o."""
    with httpx.Client(base_url=magid.url, headers=bearer("small"), timeout=DEADLINE_S) as client:
        listed = [row["id"] for row in client.get("/v1/models").json()["data"]]
        assert {SMALL, MEDIUM, "my-model", "fast", "balanced", "auto"} <= set(listed)
        assert not {THINKER, "powerful", "gpt-4o"} & set(listed)
        assert client.get(f"/v1/models/{THINKER}").status_code == 404
        assert client.get(f"/v1/models/{SMALL}").status_code == 200
        for name in (SMALL, "fast", "my-model", "auto", "powerful"):
            answer = client.post("/v1/chat/completions", json=fleets.chat(name))
            assert answer.status_code == 200, answer.text
            assert answer.headers["x-magi-model"] in (SMALL, MEDIUM)
        for name in (THINKER, "gpt-4o"):
            answer = client.post("/v1/chat/completions", json=fleets.chat(name))
            assert answer.status_code == 404
            assert answer.json()["error"]["code"] == "model_not_found"
        assert client.get(f"/props?model={THINKER}").status_code == 404
        assert client.get(f"/slots?model={SMALL}").status_code == 403


def test_what_others_ask_and_where_files_lie_is_not_shown(magid: Running) -> None:
    """/slots has what every slot works on, and /props the path of the model's file."""
    for who, slots in (("infer", 403), ("small", 403), ("admin", 200)):
        with httpx.Client(base_url=magid.url, headers=bearer(who), timeout=DEADLINE_S) as client:
            assert client.get(f"/slots?model={SMALL}").status_code == slots
            props = client.get(f"/props?model={SMALL}")
            assert props.status_code == 200
            assert props.json()["model_path"].endswith(".gguf")
            assert "/" not in props.json()["model_path"]
            assert str(magid.models) not in props.text
            assert props.json()["model_alias"] == SMALL
    with local(magid) as client:
        assert client.get(f"/slots?model={SMALL}").status_code == 200


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"model_path":"/a/b/X.gguf","n":1}', b'{"n":1,"model_path":"X.gguf"}'),
        (b'{"model_path":"X.gguf"}', b'{"model_path":"X.gguf"}'),
        (b'{"n":1}', b'{"n":1}'),
        (b"[]", b"[]"),
        (b"/a/b/X.gguf <html>", b"{}"),
        (b'{"model_path":"\\/a\\/b\\/X.gguf"}', b'{"model_path":"X.gguf"}'),
    ],
)
def test_paths_in_props(body: bytes, expected: bytes) -> None:
    assert responses.without_path(body) == expected


def test_the_token_is_not_passed_on(magid: Running) -> None:
    """llama-server would refuse it: it knows its own key alone; and its log does not have it."""
    headers = bearer("infer") | {"x-api-key": SECRETS["infer"]}
    answer = httpx.post(
        f"{magid.url}/v1/chat/completions", json=fleets.chat("fast"), headers=headers,
        timeout=DEADLINE_S, trust_env=False,
    )  # fmt: skip
    assert answer.status_code == 200
    logs = magid.get(f"/api/models/servers/{SMALL}/logs?lines=2000")
    assert SECRETS["infer"][14:] not in json.dumps(logs)
