"""What Ollama's clients are told of models: pure, but for the last ones."""

import gzip
from typing import Any

import httpx
import pytest

from magid.api.routes import ROUTES
from magid.discovery.abilities import ModelAbilities
from magid.discovery.kinds import ModelKind
from magid.discovery.tiers import ThinkingMode, Tier
from magid.errors import ModelNotFound
from magid.gateway.ollama import models
from magid.gateway.routing import resolver
from magid.gateway.routing.endpoints import ENDPOINTS, find
from magid.gateway.routing.fleet import ServerProperties
from tests.gateway.test_fleet import made
from tests.support import fleets, values
from tests.support.fleets import SMALL, VECTORS
from tests.support.rest import Parts

ABLE = ModelAbilities(tools=True, images=True, audio=False, infill=True)
PLAIN = ModelAbilities(tools=False, images=False, audio=False, embedding_length=64)
NOW = made(
    [
        values.found("a", abilities=ABLE, tier=Tier.FAST, thinking_mode=ThinkingMode.TOGGLEABLE),
        values.found("v", abilities=PLAIN, tier=Tier.BALANCED, kind=ModelKind.EMBEDDING),
    ],
    facts={"a": ServerProperties(1, context=4096, vision=True, tools=True)},
)


def by_name(listed: dict[str, Any]) -> dict[str, Any]:
    return {entry["name"]: entry for entry in listed["models"]}


def test_a_name_without_a_model_behind_it_is_not_found() -> None:
    """No model yet, or only those for vectors: auto and tiers lead nowhere."""
    vectors = made([values.found("v", abilities=PLAIN, kind=ModelKind.EMBEDDING)])
    for fleet in (made([]), vectors):
        for name in ("auto", "fast:latest"):
            with pytest.raises(ModelNotFound, match="no enabled model is behind it"):
                models.show(name, fleet)
    assert models.show("v", vectors)["capabilities"] == ["embedding"]


def test_every_name_is_listed_with_a_tag() -> None:
    listed = by_name(models.tags(NOW))
    assert listed.keys() == {"a:latest", "v:latest", "fast:latest", "auto:latest"}
    entry = listed["a:latest"]
    assert entry["model"] == "a:latest"
    assert entry["modified_at"].endswith("Z")
    assert len(bytes.fromhex(entry["digest"])) == 32
    assert entry["details"] == {
        "parent_model": "",
        "format": "gguf",
        "family": "llama",
        "families": ["llama"],
        "parameter_size": "4.0B",
        "quantization_level": "Q4_K_M",
        "context_length": 4096,
    }
    assert entry["capabilities"] == ["completion", "tools", "insert", "vision", "thinking"]
    assert listed["v:latest"]["capabilities"] == ["embedding"]
    assert listed["auto:latest"]["details"].keys() == entry["details"].keys()
    assert len({e["digest"] for e in listed.values()}) == 4


@pytest.mark.parametrize("name", ["a", "a:latest", "fast", "auto:latest"])
def test_a_name_is_known_with_its_tag_and_without(name: str) -> None:
    shown = models.show(name, NOW)
    architecture = shown["model_info"]["general.architecture"]
    assert shown["model_info"][f"{architecture}.context_length"] == 4096
    assert "tools" in shown["capabilities"]
    assert resolver.by_name(name, NOW) == name.removesuffix(":latest")


def test_a_name_that_is_none() -> None:
    for name in ("gone", "gone:latest", "a:8b", "a" + ":latest" * 5000):
        with pytest.raises(ModelNotFound):
            models.show(name, NOW)


def test_only_what_runs_is_running() -> None:
    (entry,) = models.running(NOW, {})["models"]
    assert (entry["name"], entry["context_length"]) == ("a:latest", 4096)
    assert entry["expires_at"].startswith("9999-")


def test_no_path_of_the_rest_api_is_one_of_ollamas() -> None:
    """Both have paths below /api."""
    own = {route.path for route in ROUTES}
    assert not own & {endpoint.path for endpoint in ENDPOINTS}
    for route in ROUTES:
        for method in ("GET", "POST", "PUT", "DELETE"):
            assert find(method, route.path) is None, route.path
            assert find(method, route.path.replace("{", "").replace("}", "")) is None


@pytest.mark.slow
def test_the_calls_of_a_real_magid(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("ollama")
    with fleets.fleet(parts, folder, locally=True) as magid:
        with fleets.client(magid) as client:
            check_calls(client)
            assert str(magid.models) not in client.get("/api/tags").text
            assert str(magid.models) not in client.post("/api/show", json={"model": SMALL}).text
        secret = magid.make_token("few", "infer", models=[SMALL])
        headers = {"Authorization": f"Bearer {secret}"}
        assert httpx.get(f"{magid.url}/api/tags", trust_env=False).status_code == 401
        with httpx.Client(base_url=magid.url, headers=headers, trust_env=False) as limited:
            names = by_name(limited.get("/api/tags").json()).keys()
            assert f"{SMALL}:latest" in names
            assert not [name for name in names if name.startswith(("medium", "vectors"))]
            assert limited.post("/api/show", json={"model": VECTORS}).status_code == 404


def check_calls(client: httpx.Client) -> None:
    assert client.get("/").text == client.get("/", headers={"Accept": "*/*"}).text
    assert client.get("/").text == "Ollama is running"
    assert client.head("/").status_code == 200
    document = client.get("/", headers={"Accept": "text/html,*/*;q=0.8"})
    assert document.status_code == 404
    assert document.text.startswith("cannot show the page: ")
    assert client.head("/api/version").status_code == client.head("/api/tags").status_code == 200
    assert client.get("/api/version").json() == {"version": models.API_VERSION}
    listed = by_name(client.get("/api/tags").json())
    assert {f"{SMALL}:latest", f"{VECTORS}:latest", "gpt-4o:latest", "fast:latest"} <= set(listed)
    running = by_name(client.get("/api/ps").json())
    assert running[f"{SMALL}:latest"]["context_length"] > 0
    shown = client.post("/api/show", json={"model": f"{SMALL}:latest", "verbose": True}).json()
    assert shown["model_info"]["general.architecture"] == "llama"
    assert client.post("/api/show", json={"name": "my-model"}).status_code == 200
    refused = client.post("/api/show", json={"model": "gone"})
    assert refused.status_code == 404
    assert refused.json()["error"].startswith("cannot find model 'gone'")
    assert client.post("/api/show", json={}).status_code == 400
    assert client.post("/api/show", content=b'{"model": "my-model"}').status_code == 200
    form = {"Content-Type": "application/x-www-form-urlencoded"}  # as `curl -d` calls it
    assert client.post("/api/show", content=b'{"model": "my-model"}', headers=form).is_success
    text, page = {"Content-Type": "text/plain"}, {"Sec-Fetch-Site": "same-origin"}
    for foreign in (text, page, {**form, "Origin": str(client.base_url)}):
        assert client.post("/api/show", content=b"{}", headers=foreign).status_code == 415
    packed = gzip.compress(b'\xef\xbb\xbf{"model": "my-model"}')
    as_json = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    assert client.post("/api/show", content=packed, headers=as_json).status_code == 200
    bomb = gzip.compress(b" " * 10_000_000)
    assert client.post("/api/show", content=bomb, headers=as_json).status_code == 413
    odd = as_json | {"Content-Encoding": "br"}
    assert client.post("/api/show", content=packed, headers=odd).status_code == 415
    large = {"model": "x" * 70_000}
    assert client.post("/api/show", json=large).status_code == 413
    for word in ("create", "copy", "push"):
        answer = client.post(f"/api/{word}", json={"model": SMALL})
        assert (answer.status_code, list(answer.json())) == (501, ["error"])
    other = client.request("DELETE", "/api/delete", json={"model": "my-model"})
    assert (other.status_code, "another name of a model" in other.json()["error"]) == (409, True)
    runs = client.request("DELETE", "/api/delete", json={"name": f"{SMALL}:latest"})
    assert runs.status_code == 409
    assert client.request("DELETE", "/api/delete", json={"model": "none"}).status_code == 404
    pull = client.post("/api/pull", json={"model": SMALL})
    assert (pull.status_code, "Ollama's own library" in pull.json()["error"]) == (400, True)
    assert client.get("/api/models/status").status_code == 200  # magid's own
    assert client.get("/api/tagsx").json()["message"].startswith("cannot find /api/tagsx")
