"""`auto`, explanations, and the record of requests, with real servers."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support import fleets, rest
from tests.support.deadlines import DEADLINE_S
from tests.support.fleets import MEDIUM, SMALL, THINKER, chat
from tests.support.rest import Parts
from tests.support.running import Running

CHAT = "/v1/chat/completions"
HARD = "Prove that the algorithm is optimal and design a better one"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def magid(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with fleets.fleet(parts, tmp_path_factory.mktemp("auto")) as running:
        yield running


@pytest.fixture
def client(magid: Running) -> Iterator[httpx.Client]:
    with fleets.client(magid) as opened:
        yield opened


def explain(magid: Running, text: str) -> Any:
    return magid.ask("POST", "/api/route/explain", {"request": chat("auto", text)})


@pytest.mark.parametrize(
    ("text", "model", "why"),
    [
        ("Hi!", SMALL, "auto: score"),
        ("Write a mail to my landlord.", MEDIUM, "auto: no evidence"),
        (HARD, THINKER, "auto: score"),
    ],
)
def test_auto_and_its_explanation_agree(
    magid: Running, client: httpx.Client, text: str, model: str, why: str
) -> None:
    explained = explain(magid, text)
    answer = client.post(CHAT, json=chat("auto", text))
    assert answer.headers["x-magi-model"] == explained["chosen"]["modelId"] == model
    assert answer.headers["x-magi-route"] == explained["route"]
    assert explained["route"].startswith(why)
    assert (explained["score"] is None) is ("no evidence" in why)


def test_a_conversation_keeps_its_tier(client: httpx.Client) -> None:
    body = chat("auto", HARD + ", number 1")
    first = client.post(CHAT, json=body)
    said = first.json()["choices"][0]["message"]
    body["messages"] += [
        {"role": "assistant", "content": said.get("content") or ""},
        {"role": "user", "content": "Thanks!"},
    ]
    second = client.post(CHAT, json=body)
    assert second.headers["x-magi-server"] == first.headers["x-magi-server"]
    assert "kept on powerful" in second.headers["x-magi-route"]


def test_an_empty_tier_falls_to_the_next_stronger_then_weaker(magid: Running) -> None:
    magid.ask("PUT", f"/api/models/{SMALL}/enabled", {"enabled": False})
    try:
        assert explain(magid, "Hi!")["tier"] == "balanced"
        assert "fast has no model" in explain(magid, "Hi!")["route"]
    finally:
        magid.ask("PUT", f"/api/models/{SMALL}/enabled", {"enabled": None})
    magid.ask("PUT", f"/api/models/{THINKER}/enabled", {"enabled": False})
    try:
        assert explain(magid, HARD)["tier"] == "balanced"
        assert "powerful has no model" in explain(magid, HARD)["route"]
    finally:
        magid.ask("PUT", f"/api/models/{THINKER}/enabled", {"enabled": None})


def test_explanations_that_cannot_be_given(magid: Running) -> None:
    for body, status in (
        ({"request": {"model": "gone"}}, 404),
        ({"request": {"model": 5}}, 400),
        ({"request": {}, "endpoint": "/v1/nothing"}, 400),
        ({"model": "auto"}, 400),
    ):
        rest.refused(magid, "POST", "/api/route/explain", body, status)


def test_what_is_remembered_of_a_request(magid: Running, client: httpx.Client) -> None:
    """No word of it, but who answered, how fast, and what it used."""
    for path, body in (
        (CHAT, chat("fast", "A secret")),
        (CHAT, chat("fast", "A secret", stream=True)),
        ("/v1/messages", chat("fast", "A secret")),
        ("/v1/messages", chat("fast", "A secret", stream=True)),
        ("/v1/responses", {"model": "fast", "input": "A secret", "max_output_tokens": 4}),
    ):
        answer = client.post(path, json=body)
        listed = magid.get("/api/requests?limit=5")
        assert "secret" not in str(listed)
        row = next(r for r in listed["requests"] if r["id"] == answer.headers["x-request-id"])
        assert (row["path"], row["modelId"], row["outcome"]) == (path, SMALL, "ok")
        assert row["answerTokens"] == 4, row
        assert row["promptTokens"] > 5
        assert 0 <= row["waitedSeconds"] <= row["firstByteSeconds"] <= row["durationSeconds"]
    client.post(CHAT, json=chat("fast", temperature="hot"))
    assert magid.get("/api/requests")["requests"][0]["outcome"] == "refused"


@pytest.mark.parametrize(
    ("body", "code", "why"),
    [
        (chat("none_such", "A secret"), "ModelNotFound", "cannot find model 'none_such'"),
        (chat(SMALL, "secret " * 9000), "ContextExceeded", "tokens"),
    ],
    ids=["unknown model", "too long"],
)
def test_a_request_that_routing_refuses_is_listed_with_the_reason(
    magid: Running, client: httpx.Client, body: dict[str, Any], code: str, why: str
) -> None:
    ended = magid.get("/api/models/status")["totalRequests"]
    answer = client.post(CHAT, json=body)
    assert answer.is_client_error, answer.text
    listed = magid.get("/api/requests")
    row = listed["requests"][0]
    assert row["id"] == answer.headers["x-request-id"]
    assert (row["outcome"], row["code"], row["model"]) == ("refused", code, body["model"])
    assert why in row["error"]
    assert (row["modelId"], row["status"], row["attempts"]) == (None, None, 0)
    assert "secret" not in str(listed)
    assert magid.get("/api/models/status")["totalRequests"] == ended, "it never ran"


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/messages", "/v1/responses"])
def test_the_first_token_comes_after_the_prompt_was_read(
    magid: Running, client: httpx.Client, path: str
) -> None:
    """llama-server sends the head of its answer before it has read the prompt."""
    text = f"{path} " + "word " * 400  # nothing of it is cached
    body = chat(MEDIUM, text, stream=True)
    body |= {"input": text, "prompt": text} if "chat" not in path and "messages" not in path else {}
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    requests = magid.get("/api/requests")["requests"]
    row = next(r for r in requests if r["id"] == answer.headers["x-request-id"])
    assert row["firstByteSeconds"] < row["firstTokenSeconds"] <= row["durationSeconds"]
    whole = client.post(CHAT, json=chat("fast"))
    row = magid.get("/api/requests")["requests"][0]
    assert row["id"] == whole.headers["x-request-id"]
    assert row["firstTokenSeconds"] is None


def test_a_running_request_can_be_ended(magid: Running, client: httpx.Client) -> None:
    body = chat(MEDIUM, stream=True, max_tokens=30_000, ignore_eos=True)
    headers = {"X-Request-Id": "to-be-ended"}
    with client.stream("POST", CHAT, json=body, headers=headers) as answer:
        chunks = answer.iter_bytes()
        next(chunks)
        running = magid.get("/api/requests")
        assert running["running"] == 1
        row = running["requests"][0]
        assert row["id"] == answer.headers["x-request-id"]
        assert row["clientRequestId"] == "to-be-ended"
        rest.refused(magid, "DELETE", "/api/requests/to-be-ended", None, 404)
        magid.ask("DELETE", f"/api/requests/{row['id']}")
        ending = b"".join(chunks)
    assert b'"error"' in ending
    assert b"[DONE]" not in ending
    assert magid.get("/api/requests")["requests"][0]["outcome"] == "killed"
    rest.refused(magid, "DELETE", f"/api/requests/{row['id']}", None, 404)


def test_a_clients_id_names_no_request_of_somebody_else(
    magid: Running, client: httpx.Client
) -> None:
    """Two at once with one id: each has one of its own, and ending one ends no other."""
    body = chat(MEDIUM, stream=True, max_tokens=30_000, ignore_eos=True)
    named = {"X-Request-Id": "same"}
    with (
        client.stream("POST", CHAT, json=body, headers=named) as first,
        client.stream("POST", CHAT, json=body, headers=named) as second,
    ):
        ids = [answer.headers["x-request-id"] for answer in (first, second)]
        rows = magid.get("/api/requests")["requests"][:2]
        assert sorted(row["id"] for row in rows) == sorted(ids)
        assert {row["clientRequestId"] for row in rows} == {"same"}
        rest.refused(magid, "DELETE", "/api/requests/same", None, 404)
        magid.ask("DELETE", f"/api/requests/{ids[0]}")
        rows = magid.get("/api/requests")["requests"]
        outcomes = {row["id"]: row["outcome"] for row in rows if row["id"] in ids}
        assert outcomes == {ids[0]: "killed", ids[1]: "running"}


@pytest.mark.parametrize("given", ["x" * 65, "a b", "<script>", "\u00e9", '"'])
def test_what_is_no_plain_id_is_not_shown(magid: Running, client: httpx.Client, given: str) -> None:
    headers = {b"x-request-id": given.encode("latin-1")}
    own = client.post(CHAT, json=chat("fast"), headers=headers).headers["x-request-id"]
    row = magid.get("/api/requests")["requests"][0]
    assert (row["id"], row["clientRequestId"]) == (own, None)


def test_a_client_that_left_is_recorded(magid: Running, client: httpx.Client) -> None:
    body = chat(MEDIUM, stream=True, max_tokens=30_000, ignore_eos=True)
    with client.stream("POST", CHAT, json=body, headers={"X-Request-Id": "left"}) as answer:
        next(answer.iter_bytes())

    def outcome() -> str:
        rows = magid.get("/api/requests")["requests"]
        return str(next(row["outcome"] for row in rows if row["clientRequestId"] == "left"))

    deadline = time.monotonic() + DEADLINE_S
    while outcome() == "running":
        assert time.monotonic() < deadline
    assert outcome() == "cancelled"


def test_a_profile_without_models_has_nothing_for_auto(parts: Parts, tmp_path: Path) -> None:
    profile = "name: Test\nenabled_models: []\n"
    with (
        fleets.fleet(parts, tmp_path / "x", fleets.write_small, profile=profile) as magid,
        fleets.client(magid) as client,
    ):
        answer = client.post(CHAT, json=chat("auto"))
        assert answer.status_code == 404
        assert "no chat model is enabled" in answer.json()["error"]["message"]
        assert client.get("/v1/models").json()["data"] == []
