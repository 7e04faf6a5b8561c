"""Texts are kept while an administrator has asked for it, within bounds, and never else."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from magid.gateway.accounting.request_log import Record
from magid.gateway.accounting.text_capture import MAX_BYTES, MAX_KEPT, TEXT_BYTES, TextCapture
from tests.support import fleets, rest
from tests.support.deadlines import DEADLINE_S
from tests.support.fleets import MEDIUM, SMALL, chat
from tests.support.magictl import Done, magictl
from tests.support.rest import Parts
from tests.support.running import Running

CAPTURE = "/api/capture"
CHAT = "/v1/chat/completions"
KIB = 2**10


def record(number: int) -> Record:
    return Record(f"request {number}", 0.0, CHAT, "auto", is_stream=False)


def held(capture: TextCapture) -> int:
    """The bytes of all texts, counted again."""
    return sum(len(one.request) + len(one.answer) for one in capture.newest())


@pytest.fixture
async def capture() -> TextCapture:
    made = TextCapture()
    made.start(3600, "token boss")
    return made


# -- bounds --------------------------------------------------------------------------------------


async def test_the_oldest_texts_make_room(capture: TextCapture) -> None:
    for number in range(100):
        exchange = capture.begin(record(number), (b"q" * 300 * KIB,))
        for _ in range(40):
            capture.answer(exchange, b"a" * 10 * KIB)
        assert capture.bytes == held(capture) <= MAX_BYTES
    kept = [one.record.id for one in capture.newest()]
    assert kept == [f"request {99 - at}" for at in range(len(kept))]
    assert len(kept) == MAX_BYTES // (2 * TEXT_BYTES)
    assert capture.dropped == 100 - len(kept)


async def test_many_short_ones_have_a_bound_too(capture: TextCapture) -> None:
    for number in range(MAX_KEPT + 10):
        capture.begin(record(number), (b"",))
    assert len(capture.newest()) == MAX_KEPT
    assert capture.dropped == 10


async def test_an_answer_that_goes_on_behind_its_place_is_not_kept(capture: TextCapture) -> None:
    slow = capture.begin(record(0), (b"q",))
    for number in range(1, MAX_KEPT + 1):
        capture.begin(record(number), (b"q",))
    capture.answer(slow, b"late")
    assert (slow.request, bytes(slow.answer), slow.answer_bytes) == (b"", b"", 4)
    assert capture.bytes == held(capture) == MAX_KEPT


async def test_of_a_long_request_both_ends_are_kept(capture: TextCapture) -> None:
    half = TEXT_BYTES // 2
    text = b"".join(b"%08d" % number for number in range(TEXT_BYTES))
    pieces = (text[:100], memoryview(text)[100 : 5 * half], b"", text[5 * half :])
    exchange = capture.begin(record(0), pieces)
    assert exchange.request == text[:half] + text[-half:]
    assert exchange.request_bytes == len(text)
    whole = capture.begin(record(1), (text[:half], memoryview(text)[half:TEXT_BYTES]))
    assert whole.request == text[:TEXT_BYTES]
    capture.answer(whole, text[:half])
    capture.answer(whole, text[half:])
    assert (bytes(whole.answer), whole.answer_bytes) == (text[:TEXT_BYTES], len(text))


async def test_the_end_drops_everything_also_what_is_under_way(capture: TextCapture) -> None:
    under_way = capture.begin(record(0), (b"q",))
    capture.answer(under_way, b"early")
    capture.end("by token boss")
    capture.answer(under_way, b"late")
    assert (capture.is_on, capture.until, capture.bytes, capture.newest()) == (False, None, 0, [])
    assert (under_way.request, bytes(under_way.answer)) == (b"", b"")
    capture.start(3600, "token boss")
    capture.answer(under_way, b"later")
    assert (capture.bytes, capture.newest(), bytes(under_way.answer)) == (0, [], b"")


async def test_it_ends_by_itself_and_another_start_sets_a_new_end() -> None:
    capture = TextCapture()
    capture.start(3600, "token boss")
    late = capture.until
    capture.begin(record(0), (b"q",))
    capture.start(0.01, "token boss")
    assert late is not None
    assert capture.until is not None
    assert capture.until < late
    assert len(capture.newest()) == 1
    async with asyncio.timeout(DEADLINE_S):
        while capture.is_on:  # noqa: ASYNC110 - its end has no event
            await asyncio.sleep(0.01)
    assert capture.newest() == []


# -- with real servers ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def magid(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("capture")
    with fleets.fleet(parts, folder, fleets.write_conversations, locally=True) as running:
        rest.refused(running, "POST", CAPTURE, {"seconds": 60}, 403)  # there are no tokens
        with running.local() as local:
            local.post(CAPTURE, json={"seconds": 60}).raise_for_status()
            rest.refused(running, "GET", f"{CAPTURE}/x", None, 403)
            assert running.ask("DELETE", CAPTURE)["on"] is False
        running.use_token(running.make_token("boss", "admin"))
        yield running


@pytest.fixture
def client(magid: Running) -> Iterator[httpx.Client]:
    headers = {"Authorization": str(magid.client.headers["Authorization"])}
    with fleets.client(magid) as opened:
        opened.headers.update(headers)
        yield opened
    magid.ask("DELETE", CAPTURE)


def texts(magid: Running, answer: httpx.Response) -> Any:
    return magid.get(f"{CAPTURE}/{answer.headers['x-request-id']}")


@pytest.mark.slow
def test_nothing_is_captured_before_and_after(magid: Running, client: httpx.Client) -> None:
    before = client.post(CHAT, json=chat(SMALL, "secret one"))
    state = magid.ask("POST", CAPTURE, {"seconds": 600})
    assert (state["on"], state["requests"], state["bytes"]) == (True, [], 0)
    meanwhile = client.post(CHAT, json=chat(SMALL, "secret two"))
    assert "secret two" in texts(magid, meanwhile)["request"]
    assert magid.ask("DELETE", CAPTURE)["requests"] == []
    after = client.post(CHAT, json=chat(SMALL, "secret three"))
    for answer in (before, meanwhile, after):
        path = f"{CAPTURE}/{answer.headers['x-request-id']}"
        assert "none are kept" in rest.refused(magid, "GET", path, None, 404)["message"]
    marks = ["x-magi-captured" in one.headers for one in (before, meanwhile, after)]
    assert marks == [False, True, False]
    state = magid.get(CAPTURE)
    assert (state["on"], state["until"], state["bytes"]) == (False, None, 0)


@pytest.mark.slow
@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("path", [CHAT, "/v1/messages", "/api/chat"])
def test_request_and_answer_are_what_the_server_got_and_said(
    magid: Running, client: httpx.Client, path: str, is_stream: bool
) -> None:
    magid.ask("POST", CAPTURE, {"seconds": 600})
    answer = client.post(path, json=chat(SMALL, "What is a unit?", stream=is_stream))
    assert answer.status_code == 200, answer.text
    found = texts(magid, answer)
    assert (found["model"], found["path"], found["token"]) == (SMALL, path, "boss")
    assert "What is a unit?" in str(json.loads(found["request"])["messages"])
    assert found["requestBytes"] == len(found["request"].encode())
    assert found["answerBytes"] == len(found["answer"].encode()) > 0
    if is_stream:
        assert found["contentType"].startswith("text/event-stream")
        lines = found["answer"].splitlines()
        assert all(not line or line.startswith(("data:", "event:", ":")) for line in lines), lines
    else:
        assert found["contentType"].startswith("application/json")
        json.loads(found["answer"])
    listed = magid.get(CAPTURE)
    assert [one["id"] for one in listed["requests"]] == [found["id"]]
    assert listed["bytes"] == found["requestBytes"] + found["answerBytes"]


@pytest.mark.slow
def test_only_administrators_capture_and_read(magid: Running, client: httpx.Client) -> None:
    magid.ask("POST", CAPTURE, {"seconds": 600})
    answer = client.post(CHAT, json=chat(SMALL, "secret"))
    one = f"{CAPTURE}/{answer.headers['x-request-id']}"
    asked = [("GET", CAPTURE), ("POST", CAPTURE), ("DELETE", CAPTURE), ("GET", one)]
    for scope in ("read", "infer"):
        bearer = {"Authorization": f"Bearer {magid.make_token(f'only-{scope}', scope)}"}
        for method, path in asked:
            body = {"seconds": 60} if method == "POST" else None
            refused = client.request(method, path, headers=bearer, json=body)
            assert refused.status_code == 403, (scope, method, path)
    assert client.get(one).status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [9, 3601, 0, -1, "60", None])
def test_the_time_has_bounds(magid: Running, seconds: object) -> None:
    rest.refused(magid, "POST", CAPTURE, {"seconds": seconds}, 400)
    assert magid.get(CAPTURE)["on"] is False


@pytest.mark.slow
def test_everybody_is_told_and_the_log_says_who(magid: Running, client: httpx.Client) -> None:
    until = magid.ask("POST", CAPTURE, {"seconds": 600})["until"]
    answer = client.post(CHAT, json=chat(SMALL, "secret"))
    for _ in range(3):
        texts(magid, answer)
    found = [one for one in magid.get("/api/models/status")["conditions"]
             if one["code"] == "CapturingTexts"]  # fmt: skip
    assert found[0]["severity"] == "warning"
    assert until in found[0]["message"]
    assert any(until in text for text in magid.get("/readyz")["warnings"])
    asker = magid.make_token("asker", "infer")
    shown = client.get("/api/session", headers={"Authorization": f"Bearer {asker}"}).json()
    assert shown["capturedUntil"] == until
    magid.ask("DELETE", CAPTURE)
    shown = client.get("/api/session", headers={"Authorization": f"Bearer {asker}"}).json()
    assert shown["capturedUntil"] is None
    said = [line["message"] for line in magid.get("/api/logs?lines=200")["lines"]]
    for words in (
        "token boss has switched the capture of texts on, for 600 s",
        "token boss reads captured texts",
        "the capture of texts has ended, by token boss; requests whose texts are dropped: 1",
    ):
        assert sum(words in line for line in said) >= 1, words
    assert not any("secret" in line for line in said)


@pytest.mark.slow
def test_magictl_captures_and_shows(magid: Running, client: httpx.Client) -> None:
    def typed(*words: str) -> Done:
        return magictl("capture", *words, url=f"unix:{magid.folder}/magid.sock")

    assert "no texts are captured" in typed("ls").stderr
    assert typed("start", "--for", "2h").returncode == 1
    done = typed("start", "--for", "5m")
    assert done.stdout.startswith("texts are captured until ")
    answer = client.post(CHAT, json=chat(SMALL, "secret\n\x1b[2J"))
    request_id = answer.headers["x-request-id"]
    (row,) = typed("ls").stdout.splitlines()[1:]
    assert row.split()[:4] == [request_id, SMALL, "boss", CHAT]
    done = typed("show", request_id)
    asked, answered = done.stdout.removeprefix("-- asked\n").split("\n-- answered\n")
    assert json.loads(asked)["messages"][0]["content"] == "secret\n\x1b[2J"
    assert json.loads(answered) == answer.json()
    assert "\x1b" not in done.stdout
    assert typed("stop").returncode == 0
    assert typed("show", request_id).returncode == 4


@pytest.mark.slow
def test_what_is_off_is_not_on_the_way(magid: Running, client: httpx.Client) -> None:
    """A stream that began before a capture is not captured, and one that outlives it neither."""
    body = chat(MEDIUM, stream=True, max_tokens=30_000, ignore_eos=True)
    with client.stream("POST", CHAT, json=body) as early:
        chunks = early.iter_bytes()
        next(chunks)
        magid.ask("POST", CAPTURE, {"seconds": 600})
        next(chunks)
        assert magid.get(CAPTURE)["requests"] == []
        with client.stream("POST", CHAT, json=body) as late:
            more = late.iter_bytes()
            next(more)
            (row,) = magid.get(CAPTURE)["requests"]
            assert row["id"] == late.headers["x-request-id"]
            magid.ask("DELETE", CAPTURE)
            next(more)
            assert magid.get(CAPTURE)["requests"] == []
