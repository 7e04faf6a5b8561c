"""A model that is stopped while it answers: its clients are told so, each in its own dialect."""

import concurrent.futures
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from magid.http.json_text import to_json
from tests.support import fleets, ggufs, rest
from tests.support.deadlines import DEADLINE_S
from tests.support.fleets import LONG, chat
from tests.support.rest import Parts
from tests.support.running import Running

pytestmark = pytest.mark.slow

MODEL = "medium_0p0b_f16_balanced"
STREAM = {"model": MODEL, "stream": True}
HELLO = [{"role": "user", "content": "Hello"}]
MANY = 4000  # words of its answer, which take seconds
ANSWER = " ".join(f"w{n}" for n in range(MANY))


def write_talker(models: Path) -> None:
    ggufs.write_chat_model(
        models / "Medium-F16.gguf",
        name="Medium",
        quantization="F16",
        context=LONG,
        answer=ANSWER,
    )


@pytest.fixture
def magid(parts: Parts, tmp_path: Path) -> Iterator[Running]:
    folder, configuration = tmp_path / "stopped", "stop_timeout: 1\n"
    with fleets.fleet(parts, folder, write_talker, configuration=configuration, ports=1) as running:
        yield running


@pytest.fixture
def patient(parts: Parts, tmp_path: Path) -> Iterator[Running]:
    """It kills no server for as long as a test lasts."""
    folder, configuration = tmp_path / "patient", f"stop_timeout: {10 * DEADLINE_S:.0f}\n"
    with fleets.fleet(parts, folder, write_talker, configuration=configuration, ports=1) as running:
        yield running


@pytest.fixture
def client(magid: Running) -> Iterator[httpx.Client]:
    with fleets.client(magid) as opened:
        yield opened


def send(magid: Running, number: int) -> None:
    (server,) = magid.get("/api/models/servers")["servers"]
    os.kill(server["pid"], number)


def stop(magid: Running) -> None:
    """In the middle of its answer: a frozen server does not end it first."""
    send(magid, signal.SIGSTOP)
    magid.ask("POST", f"/api/models/servers/{MODEL}/stop")


def ending(client: httpx.Client, path: str, body: dict[str, Any], act: Callable[[], object]) -> str:
    """The last event or line of a stream during which something was done."""
    with client.stream("POST", path, json=body) as answer:
        assert answer.status_code == 200
        lines = answer.iter_lines()
        next(lines)
        act()
        return [line for line in lines if line][-1].removeprefix("data: ")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": HELLO, "max_tokens": MANY}),
        ("/v1/completions", {"prompt": "Hello", "max_tokens": MANY}),
        ("/completion", {"prompt": "Hello", "n_predict": MANY}),
        ("/v1/responses", {"input": "Hello", "max_output_tokens": MANY}),
    ],
)
def test_openais_clients_are_told(
    magid: Running, client: httpx.Client, path: str, body: dict[str, Any]
) -> None:
    last = ending(client, path, {**STREAM, **body}, lambda: stop(magid))
    error = json.loads(last)["error"]
    assert (error["code"], error["type"]) == ("server_stopped", "server_error")
    assert "was stopped (stop asked for)" in error["message"]
    record = magid.get("/api/requests")["requests"][0]
    assert (record["outcome"], record["status"]) == ("stopped", 200)
    assert record["error"] == error["message"]
    assert 'outcome="stopped"' in magid.client.get("/metrics").text


def test_anthropics_clients_are_told(magid: Running, client: httpx.Client) -> None:
    body = {**STREAM, "messages": HELLO, "max_tokens": MANY}
    last = json.loads(ending(client, "/v1/messages", body, lambda: stop(magid)))
    assert (last["type"], last["error"]["type"]) == ("error", "overloaded_error")
    assert "was stopped (stop asked for)" in last["error"]["message"]


def test_ollamas_clients_are_told(magid: Running, client: httpx.Client) -> None:
    body = {"model": MODEL, "prompt": "Hello", "raw": True, "options": {"num_predict": MANY}}
    last = ending(client, "/api/generate", body, lambda: stop(magid))
    assert "was stopped (stop asked for)" in json.loads(last)["error"]


def test_an_answer_in_one_piece_is_refused(magid: Running, client: httpx.Client) -> None:
    body = chat(MODEL, max_tokens=MANY)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pending = pool.submit(client.post, "/v1/chat/completions", json=body)
        magid.wait_for("the request", lambda: magid.get("/api/requests")["running"] == 1)
        stop(magid)
        answer = pending.result()
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "server_stopped"


def test_a_restart_for_new_settings_is_a_stop_too(magid: Running, client: httpx.Client) -> None:
    def act() -> None:
        send(magid, signal.SIGSTOP)
        magid.ask("PUT", f"/api/models/{MODEL}/runtime-settings", {"parallel": 1})
        magid.ask("POST", "/api/models/apply")

    body = {**STREAM, "messages": HELLO, "max_tokens": MANY}
    error = json.loads(ending(client, "/v1/chat/completions", body, act))["error"]
    assert error["code"] == "server_stopped"
    assert "was stopped (settings changed: parallel" in error["message"]


def test_a_server_that_is_killed_was_not_stopped(magid: Running, client: httpx.Client) -> None:
    body = {**STREAM, "messages": HELLO, "max_tokens": MANY}
    error = json.loads(
        ending(client, "/v1/chat/completions", body, lambda: send(magid, signal.SIGKILL))
    )
    assert error["error"]["code"] == "server_lost"
    assert magid.get("/api/requests")["requests"][0]["outcome"] == "failed"


def test_a_client_that_takes_nothing_does_not_hold_up_a_stop(patient: Running) -> None:
    """llama-server ends when its last answer is written, and this one never would be."""
    (server,) = patient.get("/api/models/servers")["servers"]
    port = server["port"]

    def is_generated() -> bool:
        key = {"Authorization": f"Bearer {patient.key(port)}"}
        (slot, *_) = httpx.get(
            f"http://127.0.0.1:{port}/slots", headers=key, timeout=DEADLINE_S, trust_env=False
        ).json()
        running = patient.get("/api/requests")["running"]
        return slot["is_processing"] is False and slot["id_task"] >= 0 and running == 1

    body = to_json({**STREAM, "prompt": "Hello", "n_predict": MANY, "n_probs": 100})
    with rest.connect(patient.port) as silent:
        silent.sendall(
            b"POST /completion HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        patient.wait_for("the end of the generation", is_generated)
        patient.ask("POST", f"/api/models/servers/{MODEL}/stop")
        patient.wait_for("the stop", lambda: patient.servers()[MODEL]["state"] == "stopped")
        record = patient.get("/api/requests")["requests"][0]
        assert (record["outcome"], record["error"].count("stop asked for")) == ("stopped", 1)
        # Nor was it ended only because its server had not answered for long.
        assert "does not answer /health" not in patient.log.read_text()
