"""Logs over REST, of servers that write what they like and of magid itself."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from magid.api.handlers.logs import escaped
from magid.api.sse import KEEP_ALIVE_S
from magid.log.events import Event
from tests.support import fake_llama, ggufs, rest
from tests.support.deadlines import DEADLINE_S
from tests.support.magictl import magictl
from tests.support.running import Running

pytestmark = pytest.mark.slow

ALPHA = "alpha_1p0b_q4km_fast"
LOGS = f"/api/models/servers/{ALPHA}/logs"
HOSTILE = (
    "\x1b[2J\x1b]8;;http://evil\x1b\\click\x1b]8;;\x1b\\",
    "good\rroot# all is well",
    "\u202etxt.exe\u2066\u200f\ufeff\u061c",
    "\x9b31m\x7f\x08",
    "a\u2028b",
    "$(touch owned) ; `id` | .* [ ( %s {0}",
)


@pytest.fixture(scope="module")
def magid(parts: rest.Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One model, whose server writes HOSTILE."""
    running = parts.daemon(tmp_path_factory.mktemp("logs"))
    program = fake_llama.install(running.folder / "bin", "says=" + "\n".join((*HOSTILE, "")))
    running.environment["LLAMA_SERVER_PATH"] = str(program)
    running.environment["MAGI_BIND"] += f",unix:{running.folder}/magid.sock"
    low, high = running.port_range
    running.configuration.write_text(f"port_range: [{low}, {high}]\n")
    ggufs.write_sparse_model(running.models / "Alpha-1B-Q4_K_M.gguf", parameters_billions=1)
    with running, running.client:
        running.wait_ready()
        yield running


def followed(magid: Running, path: str, last: str | None = None) -> Iterator[dict[str, Any]]:
    """The entry of each event."""
    headers = {} if last is None else {"Last-Event-ID": last}
    with httpx.stream(
        "GET", magid.url + path, headers=headers, timeout=DEADLINE_S, trust_env=False
    ) as response:
        assert response.status_code == 200, response.read()
        cursor = ""
        for line in response.iter_lines():
            name, _, value = line.partition(": ")
            if name == "id":
                cursor = value
            elif name == "data":
                entry = json.loads(value)
                assert entry["cursor"] == cursor
                yield entry


def raw(magid: Running, path: str) -> bytes:
    response = magid.client.get(path)
    assert response.status_code == 200
    return response.content


@pytest.mark.parametrize("path", [LOGS, "/api/logs"])
def test_following_begins_at_once_where_nothing_is_found(magid: Running, path: str) -> None:
    """Many clients wait for the head for less long than until the first comment."""
    query = "?follow=true&grep=nobody-says-this"
    with httpx.stream(
        "GET", magid.url + path + query, timeout=KEEP_ALIVE_S / 2, trust_env=False
    ) as response:
        assert response.status_code == 200
        assert next(response.iter_lines()) == "retry: 2000"


# -- of a server -------------------------------------------------------------------------------


def test_json_says_the_same_and_is_safe_to_look_at(magid: Running) -> None:
    said = [line["message"] for line in magid.get(LOGS)["lines"]]
    assert [text for text in said if text in HOSTILE] == list(HOSTILE)
    answer = raw(magid, LOGS).decode()
    assert all(sign.isprintable() for sign in answer)
    assert "\\u001b[2J" in answer
    assert "\\u202etxt.exe\\u2066\\u200f\\ufeff\\u061c" in answer


def test_followed_lines_are_safe_too(magid: Running) -> None:
    with httpx.stream(
        "GET", f"{magid.url}{LOGS}?follow=true", timeout=DEADLINE_S, trust_env=False
    ) as response:
        seen = ""
        for text in response.iter_text():
            seen += text
            if "touch owned" in seen:
                break
    assert all(sign.isprintable() or sign == "\n" for sign in seen)


@pytest.mark.parametrize("text", HOSTILE)
def test_what_is_searched_for_is_text_and_nothing_else(magid: Running, text: str) -> None:
    found = magid.client.get(LOGS, params={"grep": text}).json()["lines"]
    assert [line["message"] for line in found] == [text]
    assert not list(magid.folder.rglob("owned"))


def test_the_last_lines_of_what_is_found(magid: Running) -> None:
    """Not what is found in the last lines."""
    everything = magid.get(f"{LOGS}?lines=2000")["lines"]
    first = everything[0]
    found = magid.client.get(LOGS, params={"grep": first["message"], "lines": 1}).json()["lines"]
    assert [line["message"] for line in found] == [first["message"]]


def test_json_of_any_text_is_the_same_text() -> None:
    for number in (*range(0xD800), *range(0xE000, 0x11000)):
        text = f"a{chr(number)}b\\"
        data = escaped(json.dumps(text, ensure_ascii=False).encode())
        assert json.loads(data) == text


# -- of magid ----------------------------------------------------------------------------------


def own(magid: Running, query: str = "") -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = magid.get(f"/api/logs?{query}")["lines"]
    return lines


def test_what_magid_says_of_a_server(magid: Running) -> None:
    (ready,) = [line for line in own(magid, "lines=2000") if line["event"] == "server_ready"][:1]
    port = magid.servers()[ALPHA]["port"]
    assert ready["messageId"] == Event.SERVER_READY.value
    assert (ready["level"], ready["modelId"]) == ("info", ALPHA)
    assert ready["unit"] == f"llama-server@{port}.service"
    assert ready["message"].startswith(f"llama-server@{port}.service ({ALPHA}) is ready after ")
    assert own(magid, "lines=1") == own(magid)[-1:]
    assert [line["event"] for line in own(magid, "grep=ANSWERS%20on")] == ["started"]
    assert own(magid, "since=0s") == []


def test_what_a_user_decides_is_told_at_once(magid: Running) -> None:
    entries = followed(magid, "/api/logs?follow=true&lines=1")
    last = next(entries)
    magid.ask("PUT", f"/api/models/{ALPHA}/tier", {"tier": "powerful"})
    logged = next(entries)
    assert logged["message"] == f"decided for {ALPHA}: tierOverride=powerful"
    assert (logged["event"], logged["modelId"]) == ("decided", ALPHA)
    changed = next(entries)
    assert changed["message"] == f"127.0.0.1: PUT /api/models/{ALPHA}/tier: 200"
    assert (changed["event"], bool(changed["requestId"])) == ("changed", True)
    magid.ask("PUT", f"/api/models/{ALPHA}/tier", {"tier": None})
    assert next(entries)["message"] == f"decided for {ALPHA}: tierOverride="
    resumed = followed(magid, "/api/logs?follow=true", last["cursor"])
    assert next(resumed) == logged


def test_who_has_changed_something_is_told(magid: Running) -> None:
    """Who only looks, or is refused, changes nothing."""
    socket = f"unix:{magid.folder}/magid.sock"
    before = {line["cursor"] for line in own(magid, "lines=100")}
    for line in (f"thinking {ALPHA} on", f"thinking {ALPHA} auto", "diff", "apply --dry-run"):
        assert magictl(*line.split(), url=socket).returncode == 0
    magid.get("/api/models/registry")
    path = f"/api/models/{ALPHA}/thinking"
    magid.ask("PUT", path, {"thinking": 7}, status=400)
    logged = [line for line in own(magid, "lines=100") if line["cursor"] not in before]
    messages = [line["message"] for line in logged if line["event"] == "changed"]
    assert messages == [f"uid {os.getuid()}: PUT {path}: 200"] * 2


def test_a_refused_request_is_logged_with_its_id(magid: Running) -> None:
    headers = {"Host": "evil.example", "X-Request-Id": "my-own.id"}
    answer = magid.client.get("/livez", headers=headers)
    assert answer.status_code == 421
    logged = own(magid, "lines=1")[0]
    assert (logged["event"], logged["clientRequestId"]) == ("request_refused", "my-own.id")
    assert logged["requestId"] == answer.headers["x-request-id"] != "my-own.id"
    assert logged["message"].startswith("GET /livez: 421: cannot answer for host 'evil.example'")
    assert logged["level"] == "warning"


def test_good_requests_and_unknown_paths_are_not_logged(magid: Running) -> None:
    before = own(magid, "lines=1")
    magid.get("/livez")
    magid.ask("GET", "/api/nothing", status=404)
    magid.ask("PUT", f"/api/models/{ALPHA}/tier", {"tier": "huge"}, status=400)
    assert own(magid, "lines=1") == before


def test_a_flood_of_refusals_does_not_fill_the_log(magid: Running) -> None:
    first = own(magid, "lines=1")[0]["cursor"]
    for _ in range(100):
        magid.client.get("/livez", headers={"Host": "flood.example"})
    logged = [line for line in own(magid, "grep=flood.example") if line["cursor"] > first]
    assert 0 < len(logged) <= 60, "LIMIT in each of at most three windows"


@pytest.mark.parametrize(
    ("query", "field"),
    [("lines=0", "lines"), ("since=soon", "since"), ("follow=perhaps", "follow")],
)
def test_queries_that_are_refused(magid: Running, query: str, field: str) -> None:
    answer = rest.refused(magid, "GET", f"/api/logs?{query}", None, 400)
    assert answer["details"]["field"] == field


def test_a_cursor_of_another_log(magid: Running) -> None:
    response = magid.client.get("/api/logs?follow=true", headers={"Last-Event-ID": "nonsense"})
    assert response.status_code == 400


def test_following_goes_on_after_a_restart(magid: Running) -> None:
    """Cursors of an earlier magid lie before all that is there now: nothing is missed."""
    cursors = {path: magid.get(path)["lines"][-1]["cursor"] for path in (LOGS, "/api/logs")}
    assert magid.process is not None
    magid.process.send_signal(signal.SIGTERM)
    assert magid.process.wait(DEADLINE_S) == 0
    magid.start()
    magid.wait_ready()
    fresh = followed(magid, f"{LOGS}?follow=true", cursors[LOGS])
    assert next(fresh)["message"] == HOSTILE[0]
    entries = followed(magid, "/api/logs?follow=true", cursors["/api/logs"])
    assert any(entry["event"] == "started" for entry in entries)


def test_a_line_of_a_file_that_is_no_profile(magid: Running, tmp_path: Path) -> None:
    """A name out of a file, in the log as text."""
    profile = magid.profiles / "test.yaml"
    good = profile.read_text()
    for text in ('name: Test\n"\\e[2Jevil\\u202e": 1\n', good):
        new = profile.with_suffix(
            ".new"
        )  # as editors do it: a file that is half written is another
        new.write_text(text)
        new.rename(profile)
        magid.get("/api/models/status")
    (logged,) = [line for line in own(magid) if line["event"] == "profile_problem"]
    assert "evil" in logged["message"]
    assert all(sign.isprintable() for sign in logged["message"])
    assert "\x1b" not in magid.log.read_text()
