"""What a token may ask of the gateway: the counts, and what its callers get to see."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from magid.auth import limits
from magid.auth.limits import Limiter, Limits
from magid.auth.origins import reading_headers
from magid.errors import RateLimited
from tests.support import fleets
from tests.support.deadlines import DEADLINE_S
from tests.support.magictl import Done, magictl
from tests.support.rest import Parts
from tests.support.running import Running

SPENT = 500  # tokens of today
ONE = Limits(requests_per_minute=1)


@pytest.fixture
def limiter() -> Limiter:
    return Limiter(lambda name: SPENT if name == "ci" else 0)


def enter(limiter: Limiter, given: Limits, ident: str = "1") -> None:
    limiter.enter("ci", ident, given)


def test_a_minute_is_counted_for_each_token_alone(limiter: Limiter) -> None:
    given = Limits(requests_per_minute=2)
    enter(limiter, given)
    enter(limiter, given)
    with pytest.raises(RateLimited, match="may send 2 requests a minute; try again in") as refused:
        enter(limiter, given)
    assert 1 <= refused.value.details["retryAfterSeconds"] <= 30
    enter(limiter, given, "2")


def test_the_minute_refills_evenly(limiter: Limiter) -> None:
    given = Limits(requests_per_minute=60_000)  # one each millisecond
    for _ in range(60_000):
        enter(limiter, given)
    while limiter.headers("ci", "1", given)["x-ratelimit-remaining-requests"] == "0":
        pass
    enter(limiter, given)


def test_a_request_under_way_holds_its_place(limiter: Limiter) -> None:
    given = Limits(requests_at_once=1)
    enter(limiter, given)
    with pytest.raises(RateLimited, match="has 1 request under way, and may have 1"):
        enter(limiter, given)
    limiter.leave("1")
    limiter.leave("1")
    enter(limiter, given)
    with pytest.raises(RateLimited):
        enter(limiter, given)


def test_the_tokens_of_a_day(limiter: Limiter) -> None:
    enter(limiter, Limits(tokens_per_day=SPENT + 1))
    with pytest.raises(RateLimited, match="has used 500 tokens today, and may use 500") as refused:
        enter(limiter, Limits(tokens_per_day=SPENT))
    assert 1 <= refused.value.details["retryAfterSeconds"] <= limits.DAY_S


def test_what_is_refused_counts_for_nothing(limiter: Limiter) -> None:
    given = Limits(requests_per_minute=2, tokens_per_day=SPENT)
    for _ in range(3):
        with pytest.raises(RateLimited):
            enter(limiter, given)
    headers = limiter.headers("ci", "1", given)
    assert headers.pop("x-ratelimit-reset-tokens").endswith("s")
    assert headers == {
        "x-ratelimit-limit-requests": "2",
        "x-ratelimit-remaining-requests": "2",
        "x-ratelimit-reset-requests": "0s",
        "x-ratelimit-limit-tokens": "500",
        "x-ratelimit-remaining-tokens": "0",
    }


def test_a_page_of_another_origin_may_read_them(limiter: Limiter) -> None:
    headers = limiter.headers("ci", "1", Limits(requests_per_minute=2, tokens_per_day=SPENT))
    exposed = reading_headers("app://obsidian.md")["Access-Control-Expose-Headers"].lower()
    assert {*headers, "retry-after"} <= set(exposed.split(", "))


def test_a_limit_that_is_changed_counts_at_once(limiter: Limiter) -> None:
    enter(limiter, ONE)
    with pytest.raises(RateLimited):
        enter(limiter, ONE)
    assert limiter.headers("ci", "1", Limits()) == {}
    enter(limiter, Limits())
    enter(limiter, ONE)  # once lifted, a new limit begins with a full minute
    with pytest.raises(RateLimited):
        enter(limiter, ONE)


@pytest.mark.parametrize(("now", "left"), [(0.0, 86_400), (86_399.5, 1), (86_400.0, 86_400)])
def test_days_end_at_midnight_utc(now: float, left: int) -> None:
    assert limits.seconds_of_day_left(now) == left


# -- over the wire -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def magid(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder: Path = tmp_path_factory.mktemp("limits")
    with fleets.fleet(parts, folder / "magid", fleets.write_conversations) as running:
        running.environment["MAGI_BIND"] += f",unix:{running.folder}/magid.sock"
        running.stop()
        words = ("token", "create", "--offline", "--name", "admin", "--scope", "admin")
        running.use_token(magictl(*words, **running.environment).stdout.strip())
        running.start()
        running.wait_ready()
        yield running


def typed(magid: Running, *words: str) -> Done:
    return magictl(*words, url=f"unix:{magid.folder}/magid.sock")


def key(magid: Running, name: str, *options: str) -> dict[str, str]:
    """The headers of a new token."""
    made = typed(magid, "token", "create", "--name", name, "--scope", "infer", *options)
    assert made.returncode == 0, made
    return {"Authorization": f"Bearer {made.stdout.strip()}"}


def chat(client: httpx.Client, headers: dict[str, str]) -> httpx.Response:
    body = fleets.chat(fleets.SMALL)
    return client.post("/v1/chat/completions", json=body, headers=headers)


@pytest.mark.slow
def test_a_client_is_told_its_limits_and_when_to_come_again(magid: Running) -> None:
    headers = key(magid, "minute", "--requests-per-minute", "2")
    with fleets.client(magid) as client:
        for _ in range(2):
            answer = chat(client, headers)
            assert answer.status_code == 200, answer.text
            assert answer.headers["x-ratelimit-limit-requests"] == "2"
        answer = chat(client, headers)
        while answer.status_code == 200:  # on a slow machine the minute refills meanwhile
            answer = chat(client, headers)
        assert answer.status_code == 429
        assert 1 <= int(answer.headers["retry-after"]) <= 30
        assert answer.headers["x-ratelimit-remaining-requests"] == "0"
        assert answer.json()["error"]["code"] == "rate_limit_exceeded"
        packed = {**headers, "Content-Encoding": "gzip", "Content-Type": "application/json"}
        unread = client.post("/v1/chat/completions", content=b"no gzip", headers=packed)
        assert unread.status_code == 429, "it is counted before its body is looked at"
        row = magid.get("/api/requests")["requests"][0]
        assert (row["id"], row["token"]) == (unread.headers["x-request-id"], "minute")
        assert (row["outcome"], row["code"], row["model"]) == ("refused", "RateLimited", "")
        assert "may send 2 requests a minute" in row["error"]
        models = client.get("/v1/models", headers=headers)
        assert models.status_code == 200, "no server is asked"
        lifted = typed(magid, "token", "limit", "minute")
        assert lifted.stdout == "Limits updated for token 'minute'\n"
        answer = chat(client, headers)
        assert answer.status_code == 200
        assert not [name for name in answer.headers if name.startswith("x-ratelimit")]


@pytest.mark.slow
def test_tokens_of_a_day_count_over_a_restart(magid: Running) -> None:
    headers = key(magid, "day", "--tokens-per-day", "1")
    with fleets.client(magid) as client:
        assert chat(client, headers).status_code == 200
        refused = client.post("/v1/messages", json=fleets.chat(fleets.SMALL), headers=headers)
        assert refused.status_code == 429
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert "00:00 UTC" in refused.json()["error"]["message"]
    magid.stop()
    magid.start()
    magid.wait_ready()
    with fleets.client(magid) as client:
        magid.wait_for("the count of before", lambda: chat(client, headers).status_code == 429)


@pytest.mark.slow
async def test_a_client_that_leaves_early_has_used_what_it_saw(magid: Running) -> None:
    """Else a client that reads no stream to its end would have no limit."""
    headers = key(magid, "leaves", "--tokens-per-day", "100")
    long = fleets.chat(fleets.MEDIUM, stream=True, ignore_eos=True) | {"max_tokens": 10_000}
    path = "/v1/chat/completions"
    async with httpx.AsyncClient(base_url=magid.url, headers=headers, timeout=DEADLINE_S) as client:
        async with client.stream("POST", path, json=long) as answer:
            lines = (line async for line in answer.aiter_lines() if line.startswith("data:"))
            for _ in range(101):
                assert await anext(lines)
        async with asyncio.timeout(DEADLINE_S):  # in which magid sees that the client has gone
            while (await client.post(path, json=fleets.chat(fleets.SMALL))).status_code != 429:
                pass
    used = json.loads(typed(magid, "usage", "--by", "token", "--json").stdout)
    (row,) = [row for row in used["rows"] if row["token"] == "leaves"]
    assert row["answerTokens"] >= 100


@pytest.mark.slow
async def test_one_at_once_and_a_client_that_leaves(magid: Running) -> None:
    headers = key(magid, "once", "--requests-at-once", "1")
    path, body = "/v1/chat/completions", fleets.chat(fleets.SMALL)
    long = fleets.chat(fleets.MEDIUM, stream=True, ignore_eos=True) | {"max_tokens": 10_000}
    async with httpx.AsyncClient(base_url=magid.url, headers=headers, timeout=DEADLINE_S) as client:
        async with client.stream("POST", path, json=long) as answer:
            assert answer.status_code == 200
            pieces = answer.aiter_bytes()  # which closes the answer when it is dropped
            assert await anext(pieces)
            second = await client.post(path, json=body)
            assert second.status_code == 429
            assert "under way" in second.json()["error"]["message"]
        async with asyncio.timeout(DEADLINE_S):  # in which magid sees that the client has gone
            while (await client.post(path, json=body)).status_code == 429:
                pass


@pytest.mark.slow
def test_limits_are_listed_and_checked(magid: Running) -> None:
    key(magid, "all", "--requests-per-minute", "60", "--requests-at-once", "4")
    typed(magid, "token", "limit", "all", "--tokens-per-day", "1000", "--requests-at-once", "2")
    listed = typed(magid, "token", "ls").stdout.splitlines()
    (row,) = [line for line in listed if line.startswith("all ")]
    assert row.endswith("2 at once, 1000 tokens/day")
    words = ("token", "create", "--name", "r", "--scope", "read", "--requests-at-once", "1")
    refused = typed(magid, *words)
    assert refused.returncode == 1
    assert "give it the scope infer" in refused.stderr
    assert typed(magid, "token", "limit", "all", "--requests-at-once", "0").returncode == 1
    assert typed(magid, "token", "limit", "nobody").returncode == 4
