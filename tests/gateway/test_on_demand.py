"""Models that start with their first request, with real servers."""

import concurrent.futures
import re
from pathlib import Path
from typing import Any

import pytest

from magid.api.openapi import make_route
from magid.api.routes import ROUTES
from magid.gateway.routing.endpoints import ENDPOINTS
from tests.support import fake_llama, fleets, ggufs
from tests.support.fleets import MEDIUM, SMALL, chat
from tests.support.rest import Parts
from tests.support.running import Running

CHAT = "/v1/chat/completions"
# For a machine that takes minutes for what takes seconds on a quiet one.
PATIENT = "gateway: {max_loaded: 1, queue_timeout: 600}\n"
pytestmark = pytest.mark.slow


def defaults(more: str = "") -> str:
    return f"{{n_threads: 1, parallel: 2, ctx_size: 32768, start: on-demand{more}}}"


def states(magid: Running) -> dict[str, str]:
    """Of those that are not stopped."""
    servers = magid.get("/api/models/servers?all=true")["servers"]
    return {s["modelId"]: s["state"] for s in servers if s["state"] != "stopped"}


def test_the_first_request_is_held_until_its_model_is_ready(parts: Parts, tmp_path: Path) -> None:
    with (
        fleets.fleet(parts, tmp_path / "x", defaults=defaults()) as magid,
        fleets.client(magid) as client,
    ):
        assert states(magid) == {}
        assert SMALL in [entry["id"] for entry in client.get("/v1/models").json()["data"]]
        body = {"request": chat("fast")}
        assert magid.ask("POST", "/api/route/explain", body)["starts"] == SMALL
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            pending = [pool.submit(client.post, CHAT, json=chat("fast")) for _ in range(6)]
            answers = [future.result() for future in pending]
        assert {answer.status_code for answer in answers} == {200}
        assert states(magid) == {SMALL: "ready"}
        assert magid.log.read_text().count(f"starting {SMALL}") == 1
        # What else could be planned leaves the others alone.
        assert magid.ask("POST", "/api/models/apply")["start"] == []
        assert states(magid) == {SMALL: "ready"}


def test_a_model_nobody_asks_for_stops_and_comes_back(parts: Parts, tmp_path: Path) -> None:
    with (
        fleets.fleet(
            parts, tmp_path / "x", fleets.write_small, defaults=defaults(", idle_stop_seconds: 1")
        ) as magid,
        fleets.client(magid) as client,
    ):
        for _ in range(2):
            assert client.post(CHAT, json=chat(SMALL)).status_code == 200
            magid.wait_state(SMALL, "stopped")
        assert magid.client.get("/readyz").status_code == 200


def test_a_start_that_fails_tells_all_who_wait(parts: Parts, tmp_path: Path) -> None:
    fake = Parts(fake_llama.install(tmp_path / "f", "crashes"), parts.free_port, parts.free_ports)
    with (
        fleets.fleet(
            fake,
            tmp_path / "x",
            fleets.write_small,
            defaults="{start: on-demand}",
        ) as magid,
        fleets.client(magid) as client,
        concurrent.futures.ThreadPoolExecutor(3) as pool,
    ):
        pending = [pool.submit(client.post, CHAT, json=chat(SMALL)) for _ in range(3)]
        for future in pending:
            answer = future.result()
            assert answer.status_code == 503
            assert "broken on purpose" in answer.json()["error"]["message"]


def test_room_is_made_by_the_idle_and_never_by_the_busy(parts: Parts, tmp_path: Path) -> None:
    with (
        fleets.fleet(parts, tmp_path / "x", defaults=defaults(), configuration=PATIENT) as magid,
        fleets.client(magid) as client,
    ):
        assert client.post(CHAT, json=chat(SMALL)).status_code == 200
        long = chat(MEDIUM, stream=True, max_tokens=6_000, ignore_eos=True)
        with client.stream("POST", CHAT, json=long) as stream:
            chunks = stream.iter_bytes()
            next(chunks)
            assert states(magid) == {MEDIUM: "ready"}
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                waiting = pool.submit(client.post, CHAT, json=chat(SMALL))
                assert b"".join(chunks).endswith(b"data: [DONE]\n\n")
                assert waiting.result().status_code == 200
        assert states(magid) == {SMALL: "ready"}


def test_a_model_that_starts_with_magid_makes_no_room(parts: Parts, tmp_path: Path) -> None:
    with (
        fleets.fleet(
            parts, tmp_path / "x", defaults=defaults(), configuration="gateway: {max_loaded: 1}\n"
        ) as magid,
        fleets.client(magid) as client,
    ):
        magid.ask("PUT", f"/api/models/{SMALL}/runtime-settings", {"start": "always"})
        magid.ask("POST", "/api/models/apply")
        magid.wait_state(SMALL, "ready")
        assert client.post(CHAT, json=chat(MEDIUM)).status_code == 200
        assert states(magid) == {SMALL: "ready", MEDIUM: "ready"}


TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
PICTURE = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]


def _write_able(models: Path) -> None:
    """One of each kind, one that was taught tools, and one with a projector: none ever ran."""
    fleets.write_every_kind(models)
    ggufs.write_chat_model(
        models / "Caller-F16.gguf", template=ggufs.TOOL_TEMPLATE, quantization="F16", context=9999
    )
    ggufs.write_chat_model(models / "seer" / "Seer-F16.gguf", quantization="F16", context=99_999)
    ggufs.write_mmproj(models / "seer" / "mmproj-F16.gguf")


def test_one_request_starts_the_one_model_that_can(parts: Parts, tmp_path: Path) -> None:
    with (
        fleets.fleet(parts, tmp_path / "x", _write_able, defaults=defaults(), ports=8) as magid,
        fleets.client(magid) as client,
    ):

        def explained(**more: Any) -> str:
            body = {"request": chat("balanced", **more)}
            return str(magid.ask("POST", "/api/route/explain", body)["starts"])

        caller = explained(tools=TOOLS)
        assert caller.startswith("caller")
        assert explained(messages=[{"role": "user", "content": PICTURE}]).startswith("seer")
        known = magid.get("/api/models/registry")["models"]
        assert [i for i in known if known[i]["abilities"]["tools"]] == [caller]

        answer = client.post(CHAT, json=chat("balanced", tools=TOOLS))
        assert answer.status_code == 200, answer.text
        assert states(magid) == {caller: "ready"}
        hear = [{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]
        deaf = client.post(CHAT, json=chat(SMALL, messages=[{"role": "user", "content": hear}]))
        assert (deaf.status_code, "cannot hear audio" in deaf.text) == (400, True)
        assert list(states(magid)) == [answer.headers["X-Magi-Model"]]


GETS = sorted(
    {route.path for route in (*ROUTES, make_route(ROUTES)) if route.method == "GET"}
    | {endpoint.path for endpoint in ENDPOINTS if endpoint.method == "GET"}
)


def test_no_get_starts_or_stops_a_model(parts: Parts, tmp_path: Path) -> None:
    """Any page can have a browser send one, as for a picture."""
    with (
        fleets.fleet(
            parts, tmp_path / "x", defaults=defaults(), configuration="gateway: {max_loaded: 1}\n"
        ) as magid,
        fleets.client(magid) as client,
    ):
        assert client.post(CHAT, json=chat(SMALL)).status_code == 200
        (before,) = [
            s for s in magid.get("/api/models/servers?all=true")["servers"] if s["isReady"]
        ]
        for path in GETS:
            for name in (MEDIUM, SMALL, "balanced", "test"):
                url = re.sub(r"{\w+}", name, path)
                with client.stream("GET", f"{url}?model={name}") as answer:
                    assert answer.status_code != 500, url  # not read: some have no end
        stopped, running = (client.get(f"/slots?model={name}") for name in (MEDIUM, SMALL))
        assert (stopped.status_code, running.status_code) == (503, 200)
        assert "a GET starts nothing" in stopped.json()["error"]["message"]
        (after,) = [s for s in magid.get("/api/models/servers?all=true")["servers"] if s["isReady"]]
        assert (after["modelId"], after["pid"]) == (SMALL, before["pid"])
        log = magid.log.read_text()
        assert log.count("executor: starting ") == 1
        assert "stopping " not in log
