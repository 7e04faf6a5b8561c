"""What each caller has used: sums, the files of the days, and that nothing is lost on the way."""

import asyncio
import json
import time
from datetime import date
from pathlib import Path

import httpx
import pytest

from magid.errors import CannotWrite, InvalidInput
from magid.gateway.accounting import token_usage
from magid.gateway.accounting.request_log import Usage
from magid.gateway.accounting.token_usage import (
    MAX_ROWS,
    MAX_SUMS,
    OTHER,
    SumKey,
    UsageCounts,
    UsageStore,
)
from tests.support import fleets
from tests.support.magictl import magictl
from tests.support.rest import Parts

DAY, NEXT = "2026-11-29", "2026-11-30"
AT = 1_795_996_799.0  # one second before NEXT, UTC
USAGE = Usage(prompt_tokens=100, cached_tokens=60, answer_tokens=20)
COUNTS = UsageCounts(1, 100, 60, 20)
TWO = {(DAY, "ci", "m"): UsageCounts(2, 200, 120, 40)}


async def sums(store: UsageStore, *by: str) -> dict[SumKey, UsageCounts]:
    return (await store.read([DAY, NEXT], by)).counts


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "usage"


def test_days_are_those_of_utc() -> None:
    assert (token_usage.day_of(AT), token_usage.day_of(AT + 1)) == (DAY, NEXT)
    assert token_usage.last_days(3, "2026-03-01") == ["2026-02-27", "2026-02-28", "2026-03-01"]


async def test_counts_are_summed_by_day_caller_and_model(folder: Path) -> None:
    store = UsageStore(folder)
    for token, model, at in [("ci", "m", AT), ("ci", "m", AT), ("", "m", AT), ("ci", "n", AT + 1)]:
        store.count(at, token, model, USAGE)
    assert await sums(store, "day", "token", "model") == {
        (DAY, "ci", "m"): UsageCounts(2, 200, 120, 40),
        (DAY, "", "m"): COUNTS,
        (NEXT, "ci", "n"): COUNTS,
    }
    assert await sums(store, "token") == {
        ("", "ci", ""): UsageCounts(3, 300, 180, 60),
        ("", "", ""): COUNTS,
    }
    assert await sums(store) == {("", "", ""): UsageCounts(4, 400, 240, 80)}
    assert store.by_token == {"ci": UsageCounts(3, 300, 180, 60), "": COUNTS}


async def test_a_request_without_figures_counts_as_one(folder: Path) -> None:
    store = UsageStore(folder)
    store.count(AT, "ci", "m", None)
    store.count(AT, "ci", "m", Usage())
    assert await sums(store, "token") == {("", "ci", ""): UsageCounts(2)}


async def test_what_is_written_is_added_to_what_was_there(folder: Path) -> None:
    for _ in range(2):
        store = UsageStore(folder)
        store.count(AT, "ci", "m", USAGE)
        await store.flush()
        await store.flush()
    assert await sums(UsageStore(folder), *token_usage.GROUPS) == TWO


def test_a_file_has_rows_and_is_the_services_own(folder: Path) -> None:
    token_usage.add_to_file(folder / f"{DAY}.json", {("ci", "m"): COUNTS})
    (file,) = folder.iterdir()
    assert (file.stat().st_mode & 0o777, folder.stat().st_mode & 0o777) == (0o600, 0o700)
    assert json.loads(file.read_text()) == {
        "format": 1,
        "rows": [
            {
                "token": "ci", "model": "m", "requests": 1, "promptTokens": 100,
                "cachedTokens": 60, "answerTokens": 20,
            }
        ],
    }  # fmt: skip


async def test_what_cannot_be_written_is_kept(tmp_path: Path) -> None:
    above = tmp_path / "state"
    store = UsageStore(above / "usage")
    store.count(AT, "ci", "m", USAGE)
    with pytest.raises(CannotWrite):
        await store.flush()
    store.count(AT, "ci", "m", USAGE)
    await asyncio.to_thread(above.mkdir)
    await store.flush()
    assert await sums(UsageStore(above / "usage"), *token_usage.GROUPS) == TWO


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[" * 100_000, b'{"format":2,"rows":[]}', b'{"format":1,"rows":[{"token":1}]}',
        b"\xff", b" " * (token_usage.MAX_BYTES + 1),
    ],
)  # fmt: skip
async def test_content_that_cannot_be_used_is_set_aside(folder: Path, content: bytes) -> None:
    file = folder / f"{DAY}.json"
    await asyncio.to_thread(put, file, content)
    store = UsageStore(folder)
    found = await store.read([DAY], ())
    assert (found.counts, len(found.problems)) == ({}, 1)
    assert str(file) in found.problems[0]
    assert await asyncio.to_thread(file.read_bytes) == content, "to look changes nothing"
    store.count(AT, "ci", "m", USAGE)
    await store.flush()
    assert await sums(store, "token") == {("", "ci", ""): COUNTS}
    assert await asyncio.to_thread(file.with_suffix(token_usage.UNUSABLE).read_bytes) == content


def put(file: Path, content: bytes) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)


async def test_a_file_that_cannot_be_read_now_stays_where_it_is(folder: Path) -> None:
    """Out of descriptors, a disk that fails for a moment: the next flush may find it well."""
    file = folder / f"{DAY}.json"
    await asyncio.to_thread(file.mkdir, parents=True)  # to open it fails
    store = UsageStore(folder)
    store.count(AT, "ci", "m", USAGE)
    with pytest.raises(CannotWrite):
        await store.flush()
    await asyncio.to_thread(file.rmdir)
    await asyncio.to_thread(token_usage.add_to_file, file, {("ci", "m"): COUNTS})
    await store.flush()
    assert await sums(store, *token_usage.GROUPS) == TWO


async def test_an_answer_is_bounded(folder: Path) -> None:
    store = UsageStore(folder)
    for number in range(MAX_SUMS + 1):
        store.count(AT, f"t{number}", "m", None)
    for _ in range(2):  # in memory, then in the file
        with pytest.raises(InvalidInput, match="fewer days"):
            await store.read([DAY], ["token"])
        assert (await store.read([DAY], ["model"])).counts == {
            ("", "", "m"): UsageCounts(MAX_SUMS + 1)
        }
        await store.flush()


async def test_tokens_of_today_are_those_of_before_and_since(folder: Path) -> None:
    today = token_usage.day_of(time.time())
    await asyncio.to_thread(
        token_usage.add_to_file, folder / f"{today}.json", {("ci", "m"): COUNTS}
    )
    store = UsageStore(folder)
    await store.load_today()
    store.count(time.time(), "ci", "m", USAGE)
    assert (store.used_today("ci"), store.used_today("other")) == (240, 0)


async def test_a_day_is_bounded(folder: Path) -> None:
    store = UsageStore(folder)
    for number in range(MAX_ROWS + 10):
        store.count(AT, f"t{number}", "m", None)
    await store.flush()
    day = token_usage.read_file(folder / f"{DAY}.json")
    assert len(day) <= MAX_ROWS + 1
    assert day[OTHER, OTHER].requests == 10
    assert len(store.by_token) <= MAX_ROWS + 1


def test_old_files_go_and_others_stay(folder: Path) -> None:
    folder.mkdir()
    stay = ["2024-01-01.txt", "2025-01-02.json", "2026-01-01.json", "notes.json"]
    for name in [*stay, "2025-01-01.json"]:
        (folder / name).touch()
    token_usage.remove_before(folder, "2025-01-02")
    assert sorted(path.name for path in folder.iterdir()) == stay
    token_usage.remove_before(folder / "none", "2025-01-02")


@pytest.mark.slow
def test_usage_over_a_restart(parts: Parts, tmp_path: Path) -> None:
    with fleets.fleet(parts, tmp_path / "magid", fleets.write_small) as magid:
        path = magid.folder / "magid.sock"
        magid.environment["MAGI_BIND"] += f",unix:{path}"
        magid.stop()
        magid.start()
        magid.wait_ready()
        local = f"unix:{path}"
        made = magictl(
            "token", "create", "--name", "ci", "--scope", "infer", "--scope", "read", url=local
        )
        magid.use_token(made.stdout.strip())
        with fleets.client(magid) as client:
            headers = {"Authorization": f"Bearer {made.stdout.strip()}"}
            for is_stream in (False, True):
                body = fleets.chat(fleets.SMALL, stream=is_stream)
                answer = client.post("/v1/chat/completions", json=body, headers=headers)
                assert answer.status_code == 200, answer.text
        before = magid.get("/api/usage?by=token,model")
        (row,) = before["rows"]
        assert (row["day"], row["token"], row["model"]) == (None, "ci", fleets.SMALL)
        assert (row["requests"], row["answerTokens"]) == (2, 8)
        assert row["promptTokens"] > 0
        magid.stop()
        magid.start()
        magid.wait_ready()
        assert magid.get("/api/usage?by=token,model")["rows"] == before["rows"]
        lines = [line.split() for line in magictl("usage", url=local).stdout.splitlines()]
        assert lines == [
            ["TOKEN", "MODEL", "REQUESTS", "PROMPT", "CACHED", "ANSWER"],
            [
                "ci",
                fleets.SMALL,
                "2",
                *(str(row[k]) for k in ("promptTokens", "cachedTokens")),
                "8",
            ],
        ]
        assert date.fromisoformat(before["to"]) >= date.fromisoformat(before["from"])
        refused = magid.client.get("/api/usage?by=colour")
        assert refused.status_code == httpx.codes.BAD_REQUEST
        assert "day, token, model" in refused.json()["message"]
