"""The dialect of llama.cpp's router, by a client written from llama.cpp's documentation."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from magid.discovery.abilities import ModelAbilities
from magid.discovery.found import CompanionFile
from magid.discovery.kinds import ModelKind
from magid.gateway.frontend.model_events import changes
from magid.gateway.routing import model_list
from magid.gateway.routing.fleet import ServerProperties
from tests.gateway.test_fleet import made
from tests.support import fleets, values
from tests.support.deadlines import DEADLINE_S
from tests.support.fleets import MEDIUM, SMALL, VECTORS
from tests.support.rest import Parts
from tests.support.running import Running

# -- pure --------------------------------------------------------------------------------------


def entry(name: str = "a", **changes: Any) -> dict[str, Any]:
    now = made([values.found(name, **changes)], facts={name: ServerProperties(1, context=4096)})
    return model_list.entries(now)[0]


def test_the_arguments_of_an_entry_are_facts_and_no_path() -> None:
    plain = entry()
    assert plain["status"] == {
        "value": "loaded",
        "args": ["llama-server", "--ctx-size", "4096", "--jinja"],
    }
    assert plain["architecture"] == {"input_modalities": ["text"], "output_modalities": ["text"]}
    sees = ModelAbilities(tools=True, images=True, audio=True)
    companion = CompanionFile("mmproj", "/secret/place/mmproj-F16.gguf")
    able = entry(abilities=sees, companions=(companion,))
    assert able["status"]["args"][3:] == ["--mmproj", "mmproj.gguf", "--jinja"]
    assert able["architecture"]["input_modalities"] == ["text", "image", "audio"]
    assert "secret" not in json.dumps(able)


def test_the_modalities_of_an_embedding_model() -> None:
    vectors = entry("v", kind=ModelKind.EMBEDDING)
    assert vectors["architecture"]["output_modalities"] == ["embeddings"]
    assert "--jinja" not in vectors["status"]["args"]


def test_only_changes_become_events() -> None:
    loaded, loading = {"value": "loaded"}, {"value": "loading"}
    failed = {"value": "unloaded", "failed": True}
    assert list(changes({"a": loaded}, {"a": loaded})) == []
    assert list(changes({"a": loading, "b": loaded}, {"a": failed, "c": loaded})) == [
        {"model": "b", "event": "model_remove", "data": {}},
        {"model": "a", "event": "model_status", "data": {"status": "unloaded", "failed": True}},
        {"model": "c", "event": "model_status", "data": {"status": "loaded"}},
    ]


# -- the client --------------------------------------------------------------------------------


class RouterClient:
    """As llama.cpp's documentation of the server, "Using multiple models", has it."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def models(self) -> dict[str, Any]:
        """The entries that have a status: models."""
        listed = self._client.get("/models").raise_for_status().json()["data"]
        return {model["id"]: model for model in listed if "status" in model}

    def order(self, what: str, model: str) -> httpx.Response:
        return self._client.post(f"/models/{what}", json={"model": model})

    @contextmanager
    def events(self) -> Iterator[Iterator[dict[str, Any]]]:
        with self._client.stream("GET", "/models/sse") as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            lines = answer.iter_lines()
            yield (json.loads(line[6:]) for line in lines if line.startswith("data: "))


def until(events: Iterator[dict[str, Any]], model: str, status: str) -> list[str]:
    """The statuses of this model up to the one that is waited for."""
    seen = []
    for event in events:
        if event["model"] == model and event["event"] == "model_status":
            seen.append(event["data"]["status"])
            if seen[-1] == status:
                return seen
    raise AssertionError(f"the stream has ended after {seen}")


@pytest.fixture(scope="module")
def magid(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    defaults = fleets.DEFAULTS.replace("{", "{start: on-demand, ")
    with fleets.fleet(parts, tmp_path_factory.mktemp("router"), defaults=defaults) as running:
        yield running


@pytest.fixture
def router(magid: Running) -> Iterator[RouterClient]:
    with fleets.client(magid) as client:
        yield RouterClient(client)


@pytest.mark.slow
def test_a_model_is_loaded_and_unloaded(magid: Running, router: RouterClient) -> None:
    before = router.models()
    assert {SMALL, MEDIUM, VECTORS} <= before.keys()
    assert before[SMALL]["status"]["value"] == "unloaded"
    assert "my-model" in before[SMALL]["aliases"]
    with router.events() as events:
        assert until(events, SMALL, "unloaded") == ["unloaded"]  # first how things stand
        answer = router.order("load", "my-model")
        assert (answer.status_code, answer.json()) == (200, {"success": True})
        assert set(until(events, SMALL, "loaded")) <= {"loading", "loaded"}
        status = router.models()[SMALL]["status"]
        assert status["value"] == "loaded"
        assert status["args"][:2] == ["llama-server", "--ctx-size"]
        assert str(magid.models) not in json.dumps(router.models())
        assert router.order("load", SMALL).json() == {"success": True}  # again
        assert router.order("unload", SMALL).json() == {"success": True}
        until(events, SMALL, "unloaded")
    assert router.models()[SMALL]["status"]["value"] == "unloaded"
    logged = magid.log.read_text()
    for what in ("load", "unload"):
        assert f"127.0.0.1: POST /models/{what}: 200" in logged, "who has changed what runs"


@pytest.mark.slow
def test_names_that_are_no_model(router: RouterClient) -> None:
    for what in ("load", "unload"):
        for name, status in (
            ("gone", 404),
            ("fast", 400),
            ("auto", 400),
            ("gpt-4o", 400),
            ("", 400),
        ):
            refused = router.order(what, name)
            assert refused.status_code == status, name
            assert refused.json()["error"]["message"].startswith("cannot "), name


@pytest.mark.slow
def test_a_disabled_model_is_not_loaded(magid: Running, router: RouterClient) -> None:
    magid.ask("PUT", f"/api/models/{MEDIUM}/enabled", {"enabled": False})
    try:
        assert MEDIUM not in router.models()
        refused = router.order("load", MEDIUM)
        assert refused.status_code == 409
        assert "enabled" in refused.json()["error"]["message"]
    finally:
        magid.ask("PUT", f"/api/models/{MEDIUM}/enabled", {"enabled": None})


@pytest.mark.slow
def test_tokens_limit_what_is_seen_and_done(
    parts: Parts, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with fleets.fleet(
        parts, tmp_path_factory.mktemp("tokens"), fleets.write_conversations, locally=True
    ) as magid:
        secret = magid.make_token("few", "infer", models=[SMALL])
        headers = {"Authorization": f"Bearer {secret}"}
        with httpx.Client(
            base_url=magid.url, headers=headers, timeout=DEADLINE_S, trust_env=False
        ) as client:
            router = RouterClient(client)
            assert router.models().keys() == {SMALL}
            assert router.order("unload", SMALL).status_code == 403
            assert client.get(f"/slots?model={SMALL}").status_code == 403
            shown = client.get(f"/props?model={SMALL}")
            assert (shown.status_code, str(magid.models) in shown.text) == (200, False)
            assert client.get(f"/props?model={MEDIUM}").status_code == 404
            with router.events() as events:
                assert next(events)["model"] == SMALL
                with magid.local() as local:
                    local.delete("/api/tokens/few").raise_for_status()
                    local.post(f"/api/models/servers/{SMALL}/stop").raise_for_status()
                assert list(events) == [], "it ends, and what happened since is not told"


@pytest.mark.slow
def test_a_stream_does_not_keep_magid_from_ending(
    parts: Parts, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with (
        fleets.fleet(parts, tmp_path_factory.mktemp("drain"), fleets.write_small) as magid,
        fleets.client(magid) as client,
    ):
        with RouterClient(client).events() as events:
            next(events)
            assert magid.process
            magid.process.terminate()
            assert list(events) is not None
        assert magid.process.wait(DEADLINE_S) == 0
