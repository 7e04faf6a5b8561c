"""Downloads by clients of Ollama's API and of llama.cpp's router, from a hub on loopback."""

import json
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import ollama
import pytest

from magid.errors import InvalidInput
from magid.gateway.frontend.model_downloads import download_changes, entries
from magid.gateway.ollama import pulls
from magid.gateway.routing import model_list, resolver
from magid.gateway.routing.fleet import Fleet
from magid.library.job import JobStatus, PlannedFile
from magid.library.source import ModelSource
from tests.gateway.test_fleet import made
from tests.gateway.test_router_dialect import RouterClient
from tests.support import fleets, ggufs, rest, values
from tests.support.deadlines import DEADLINE_S
from tests.support.hub import HubFault, HubRepository, ModelHub, running_hub
from tests.support.rest import Parts
from tests.support.running import Running

# -- pure --------------------------------------------------------------------------------------

SOURCE = ModelSource("org/Tiny", tag="Q8_0")
OID = "ab" * 32


def status(state: str, done: int = 0, **changes: Any) -> JobStatus:
    file = PlannedFile("tiny-Q8_0.gguf", 100, OID, done)
    return replace(JobStatus("id", SOURCE, 1.0, state, files=[file]), **changes)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("hf.co/org/Tiny:Q8_0", SOURCE),
        ("huggingface.co/org/Tiny:Q8_0", SOURCE),
        ("org/Tiny", ModelSource("org/Tiny")),
        ("hf.co/org/Tiny:latest", ModelSource("org/Tiny")),
    ],
)
def test_names_to_pull(name: str, source: ModelSource) -> None:
    assert pulls.source_of(name) == source


@pytest.mark.parametrize(
    "name", ["llama3", "llama3:8b", "llama3:latest", "library/llama3", "registry.ollama.ai/x/y"]
)
def test_names_of_ollamas_library_are_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="Ollama's own library"):
        pulls.source_of(name)


def test_lines_say_what_has_changed() -> None:
    begun, half, whole = status("downloading"), status("downloading", 50), status("verifying", 100)
    told = {"status": "pulling abababababab", "digest": f"sha256:{OID}", "total": 100}
    verifying = {"status": "verifying sha256 digest"}
    assert list(pulls.lines(None, begun)) == [{**told, "completed": 0}]
    assert list(pulls.lines(begun, half)) == [{**told, "completed": 50}]
    assert list(pulls.lines(half, half)) == []
    assert list(pulls.lines(half, whole)) == [{**told, "completed": 100}, verifying]
    assert list(pulls.lines(whole, status("done", 100))) == []
    assert list(pulls.lines(half, status("verifying", 60))) == [{**told, "completed": 60}]
    waits = replace(half, reason="the hub asks to wait")
    assert list(pulls.lines(half, waits)) == [{"status": "the hub asks to wait"}]


def test_events_of_downloads_are_of_those_under_way() -> None:
    begun, half, done = status("downloading"), status("downloading", 50), status("done", 100)
    address = "https://hub/org/Tiny/resolve/main/tiny-Q8_0.gguf"
    event = {"model": "org/Tiny:Q8_0", "event": "download_progress"}

    def told(before: JobStatus | None, now: JobStatus) -> list[Any]:
        return list(download_changes({"id": before} if before else {}, {"id": now}, "https://hub"))

    assert told(None, half) == [{**event, "data": {address: {"done": 50, "total": 100}}}]
    assert told(begun, half) == told(None, half)
    assert told(half, half) == told(None, done) == told(done, done) == []
    assert told(half, done) == [{**event, "event": "download_finished", "data": {}}]
    (failed,) = told(half, status("failed", reason="cannot go on: no room"))
    assert failed == {
        **event, "event": "download_failed", "data": {"message": "cannot go on: no room"}
    }  # fmt: skip


def test_the_router_lists_what_is_under_way() -> None:
    states = ("queued", "downloading", "paused", "verifying", "done", "failed")
    downloads = [
        replace(status(state, 50), source=replace(SOURCE, tag=state), created_at=9.0 - number)
        for number, state in enumerate(states)
    ]
    listed = entries(downloads, "https://hub")
    assert [entry["created"] for entry in listed] == [6, 8, 9], "the oldest first"
    address = "https://hub/org/Tiny/resolve/main/tiny-Q8_0.gguf"
    assert listed[0] == {
        "id": "org/Tiny:verifying", "object": "model", "created": 6, "owned_by": "magid",
        "aliases": [],
        "status": {
            "value": "downloading", "args": [],
            "progress": {address: {"done": 50, "total": 100}},
        },
        "architecture": {"input_modalities": ["text"], "output_modalities": ["text"]},
    }  # fmt: skip


def test_the_router_lists_a_name_once() -> None:
    """A model that is pulled again while it is loaded is loaded; two jobs may have one name."""
    now = library()
    models = model_list.entries(now)
    again = replace(status("downloading"), source=ModelSource("org/Tiny", tag="Q4_K_M"))
    assert entries([again], "https://hub")[0]["id"] in models[1]["aliases"]
    assert entries([again], "https://hub", models) == []
    listed = {**models[1], "id": "org/Tiny:Q4_K_M", "aliases": []}
    assert entries([again], "https://hub", [listed]) == []
    twice = [replace(status("downloading"), id=f"job{at}", created_at=at) for at in (2, 1)]
    (entry,) = entries(twice, "https://hub", models)
    assert (entry["id"], entry["created"]) == ("org/Tiny:Q8_0", 1)


def library() -> Fleet:
    """Two models of one repository, one of another, one beside them."""
    paths = {
        "a": "/lib/org/Tiny/tiny-Q8_0.gguf", "b": "/lib/org/Tiny/tiny-Q4_K_M.gguf",
        "c": "/lib/org/Other/UD/other-F16.gguf", "d": "/lib/sub/plain-F16.gguf",
    }  # fmt: skip
    now = made([values.found(name, path=path) for name, path in paths.items()], library="/lib")
    assert now.hub_paths.keys() == {"a", "b", "c"}
    return now


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("org/Tiny:Q8_0", "a"), ("org/Tiny:q4_k_m", "b"), ("hf.co/org/Tiny:Q8_0", "a"),
        ("org/Other", "c"), ("hf.co/org/Other:latest", "c"), ("huggingface.co/org/Other:F16", "c"),
        ("org/Tiny", None), ("org/Tin:Q8_0", None), ("org/Tiny:Q8", None), ("sub/plain", None),
    ],
)  # fmt: skip
def test_models_of_a_hub_have_its_names(name: str, model: str | None) -> None:
    assert resolver.of_hub(name, library()) == model


def test_a_tag_is_of_the_file_and_not_of_its_repository() -> None:
    """A client that removes a model by such a name means no other one."""
    path = "/lib/org/Tiny-F16-GGUF/tiny-Q8_0.gguf"
    now = made([values.found("a", path=path)], library="/lib")
    names = ("org/Tiny-F16-GGUF:Q8_0", "org/Tiny-F16-GGUF:F16", "org/Tiny-F16-GGUF:Tiny")
    assert [resolver.of_hub(name, now) for name in names] == ["a", None, "a"]


def test_of_long_names_nothing_is_kept() -> None:
    """A client chooses them; a body has room for 64 KiB."""
    now = library()
    names = [f"org/Tiny:{number}{'x' * 60_000}" for number in range(5)]
    tracemalloc.start()
    try:
        assert [resolver.of_hub(name, now) for name in names] == [None] * len(names)
        kept, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 2**15
    assert most < 2**20


def test_the_router_lists_the_name_at_the_hub() -> None:
    """Where the quantization is part of the file's name, as a tag is."""
    listed = {entry["id"]: entry for entry in model_list.entries(library()) if "aliases" in entry}
    hubs = {i: [n for n in e["aliases"] if "/" in n] for i, e in listed.items()}
    assert hubs == {"a": [], "b": ["org/Tiny:Q4_K_M"], "c": [], "d": []}


# -- with a hub --------------------------------------------------------------------------------

HELLO = [{"role": "user", "content": "Hello"}]
TINY, OTHER = "hf.co/org/Tiny:Q8_0", "org/Other"
PATH = "/api/library/downloads"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelHub]:
    folder = tmp_path_factory.mktemp("hub")
    names = ("Tiny", "Other", "Third", "Fourth")
    repositories = {}
    for name in names:
        path = ggufs.write_chat_model(folder / f"{name}-Q8_0.gguf", name=name, quantization="Q8_0")
        repositories[f"org/{name}"] = HubRepository({path.name: path.read_bytes()})
    with running_hub(repositories) as hub:
        yield hub


@pytest.fixture(scope="module")
def magid(
    parts: Parts, hub: ModelHub, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("pulls")
    configuration = (
        f"library_path: {folder / 'models'}\ndownloads: {{endpoint: '{hub.url}', reserve: 0}}\n"
    )
    defaults = fleets.DEFAULTS.replace("{", "{start: on-demand, ")
    with fleets.fleet(
        parts, folder, fleets.write_small, configuration=configuration, defaults=defaults,
        locally=True,
    ) as running:  # fmt: skip
        yield running


@pytest.fixture
def client(magid: Running) -> Iterator[ollama.Client]:
    with ollama.Client(host=magid.url, timeout=DEADLINE_S, trust_env=False) as made:
        yield made


def state_of(magid: Running, repository: str) -> str:
    found = {d["repository"]: d["state"] for d in magid.get(PATH)["downloads"]}
    return str(found.get(repository))


@pytest.mark.slow
def test_ollamas_client_pulls_a_model(client: ollama.Client, hub: ModelHub, magid: Running) -> None:
    parts = list(client.pull(TINY, stream=True, insecure=True))
    told = list(dict.fromkeys(part.status for part in parts))
    oid = hub.repositories["org/Tiny"].oid("Tiny-Q8_0.gguf")
    assert told == [
        "pulling manifest", f"pulling {oid[:12]}", "verifying sha256 digest", "writing manifest",
        "success",
    ]  # fmt: skip
    last = [part for part in parts if part.digest][-1]
    assert last.digest == f"sha256:{oid}"
    assert last.completed == last.total == hub.repositories["org/Tiny"].size("Tiny-Q8_0.gguf")
    assert client.chat(TINY, messages=HELLO).message.content, "at once, and by the same name"
    assert "127.0.0.1: POST /api/pull: 200" in magid.log.read_text(), "who has downloaded it"


@pytest.mark.slow
def test_in_one_piece(client: ollama.Client) -> None:
    assert client.pull(OTHER).status == "success"
    assert client.pull(OTHER).status == "success", "again"
    assert client.generate(OTHER, "Hello").response


@pytest.mark.slow
def test_who_leaves_at_once_is_in_the_log(magid: Running) -> None:
    line = "127.0.0.1: POST /models: 200"
    before = magid.log.read_text().count(line)
    body = b'{"model":"org/Other"}'
    with rest.connect(magid.port) as client:
        client.sendall(
            b"POST /models HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )
    magid.wait_for("the line", lambda: magid.log.read_text().count(line) > before)
    magid.wait_for("its end", lambda: state_of(magid, "org/Other") == "done")


@pytest.mark.slow
def test_what_cannot_be_pulled(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="Ollama's own library") as bare:
        client.pull("llama3")
    assert bare.value.status_code == 400
    with pytest.raises(ollama.ResponseError, match="no repository of that name"):
        client.pull("org/Missing")
    with pytest.raises(ollama.ResponseError, match="no repository of that name"):
        list(client.pull("org/Missing", stream=True))
    with pytest.raises(ollama.ResponseError, match="it has Q8_0"):
        list(client.pull("org/Tiny:Q2_K", stream=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["https://[/x", "https://huggingface.co\u2100/org/Tiny"])
def test_what_is_no_address_is_answered(magid: Running, name: str) -> None:
    """Python refuses to split it; the connection was ended without an answer."""
    with fleets.client(magid) as plain:
        for path in ("/api/pull", "/models", "/models/unload"):
            answer = plain.post(path, json={"model": name})
            assert answer.status_code in (400, 404), answer.text
            assert "cannot " in answer.text
    magid.ask("POST", "/api/library/downloads", {"source": name}, status=400)


@pytest.mark.slow
def test_a_client_that_leaves_ends_nothing(magid: Running, hub: ModelHub) -> None:
    hub.faults.append(HubFault("stall", 1000))
    body = {"model": "org/Third"}
    with fleets.client(magid) as plain, plain.stream("POST", "/api/pull", json=body) as answer:
        lines = answer.iter_lines()
        assert json.loads(next(lines)) == {"status": "pulling manifest"}
        assert json.loads(next(lines))["completed"] < 2000
    assert state_of(magid, "org/Third") == "downloading"
    hub.released.set()  # the rest comes with another connection
    magid.wait_for("its end", lambda: state_of(magid, "org/Third") == "done")
    hub.released.clear()


@pytest.mark.slow
def test_the_router_downloads_pauses_and_goes_on(magid: Running, hub: ModelHub) -> None:
    hub.released.clear()
    hub.faults.append(HubFault("stall", 1000))
    name = "org/Fourth:Q8_0"
    with fleets.client(magid) as plain, RouterClient(plain).events() as events:
        router = RouterClient(plain)

        def wait_for(kind: str) -> Any:
            return next(e["data"] for e in events if e["model"] == name and e["event"] == kind)

        started = plain.post("/models", json={"model": name})
        assert (started.status_code, started.json()) == (200, {"success": True})
        (progress,) = wait_for("download_progress").values()
        assert 0 <= progress["done"] < progress["total"]
        shown = router.models()[name]["status"]
        assert shown["value"] == "downloading"
        (progress,) = shown["progress"].values()
        assert progress["total"] == hub.repositories["org/Fourth"].size("Fourth-Q8_0.gguf")
        offered = plain.get("/v1/models").json()["data"]
        assert name not in {model["id"] for model in offered}, "it cannot be used yet"
        assert router.order("unload", name).json() == {"success": True}
        assert wait_for("download_failed").keys() == {"message"}
        magid.wait_for("the pause", lambda: state_of(magid, "org/Fourth") == "paused")
        assert name not in router.models()
        hub.released.set()
        assert plain.post("/models", json={"model": name}).is_success
        wait_for("download_finished")
        (entry,) = [m for m in router.models().values() if name in m["aliases"]]
        assert router.order("load", name).json() == {"success": True}
        gone = plain.request("DELETE", "/models", params={"model": "org/Missing:Q8_0"})
        assert gone.status_code == 404
        router.order("unload", entry["id"])
        refused = plain.post("/models", json={"model": "llama3"})
        assert refused.status_code == 400
        assert refused.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.slow
def test_a_download_that_a_person_ends(magid: Running, hub: ModelHub) -> None:
    """Its clients are told: that it is paused, or removed, by what is seen of it first."""
    hub.released.clear()
    (magid.models / "org/Third/Third-Q8_0.gguf").unlink(missing_ok=True)
    hub.faults.append(HubFault("stall", 1000))
    body = {"model": "org/Third"}
    with fleets.client(magid) as plain, plain.stream("POST", "/api/pull", json=body) as answer:
        lines = answer.iter_lines()
        assert "digest" in [json.loads(next(lines)), json.loads(next(lines))][1]
        (job,) = [d["id"] for d in magid.get(PATH)["downloads"] if d["repository"] == "org/Third"]
        magid.ask("DELETE", f"{PATH}/{job}")
        assert json.loads(list(lines)[-1])["error"].startswith("cannot go on: the download of org")
    hub.released.set()


@pytest.mark.slow
def test_only_administrators_download(magid: Running, hub: ModelHub) -> None:
    """The last one: from here on, a token is required."""
    infers, rules = magid.make_token("asks", "infer"), magid.make_token("rules", "admin")

    def asked(token: str, path: str) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}"}
        with httpx.Client(base_url=magid.url, headers=headers, trust_env=False) as made:
            return made.post(path, json={"model": OTHER, "stream": False}, timeout=DEADLINE_S)

    for path in ("/api/pull", "/models"):
        assert asked(infers, path).status_code == 403
        assert asked(rules, path).status_code == 200
    hub.released.clear()
    (magid.models / "org/Third/Third-Q8_0.gguf").unlink(missing_ok=True)
    hub.faults.append(HubFault("stall", 1000))
    magid.client.headers["Authorization"] = f"Bearer {rules}"
    assert magid.ask("POST", PATH, {"source": "org/Third"})["state"] == "queued"
    limited = magid.make_token("one", "infer", models=[fleets.SMALL])
    for token, sees in ((infers, True), (limited, False)):
        listed = magid.client.get("/models", headers={"Authorization": f"Bearer {token}"})
        shown = [m for m in listed.json()["data"] if m["id"] == "org/Third"]
        assert [m["status"]["value"] for m in shown] == ["downloading"] * sees
    hub.released.set()
