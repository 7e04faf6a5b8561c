"""Logs of one unit: what is matched, which entries come, and how news of further ones arrives."""

import asyncio
from collections.abc import Iterator

import pytest

from magid.errors import InvalidInput, NotReady
from magid.systemd.journal import Journal, check_cursor, is_behind, matches_of, matches_of_run
from tests.support.deadlines import PATIENCE_S
from tests.support.fake_journal import FakeJournal, cursor

UNIT = "llama-server@8080.service"
OTHER = "b" + "a" * 31


@pytest.fixture
def fake() -> FakeJournal:
    return FakeJournal()


@pytest.fixture
def journal(fake: FakeJournal) -> Iterator[Journal]:
    journal = Journal(fake.open)
    yield journal
    journal.close()


def test_matches_are_those_of_journalctl() -> None:
    own, coredump, manager, root = matches_of(UNIT)
    assert own == (f"_SYSTEMD_UNIT={UNIT}",)
    assert coredump[1:] == ("_UID=0", f"COREDUMP_UNIT={UNIT}")
    assert manager == ("_PID=1", f"UNIT={UNIT}")
    assert root == ("_UID=0", f"OBJECT_SYSTEMD_UNIT={UNIT}")


@pytest.mark.parametrize(
    "text",
    ["", "x", "x; rm -rf /", "1", cursor(1) + "\n", cursor(1).upper(), "s=1;i=1", "a" * 9999],
)
def test_what_is_no_cursor(text: str) -> None:
    with pytest.raises(InvalidInput, match="cursor"):
        check_cursor(text)


def test_what_is_a_cursor() -> None:
    check_cursor(None)
    check_cursor(cursor(0x123))


@pytest.mark.parametrize(
    ("this", "that", "behind"),
    [
        (cursor(2), cursor(1), True),
        (cursor(1), cursor(1), False),
        (cursor(1), cursor(2), False),
        (cursor(0x10), cursor(0xF), True),  # numbers, not text
        (cursor(2, at=1), cursor(1, at=9), True),  # the clock was set back
        (cursor(1, at=9), cursor(2, at=1, sequence=OTHER), True),  # another journal
        (cursor(9, at=1), cursor(2, at=2, sequence=OTHER), False),
        (cursor(1), None, True),
        ("odd", cursor(1), True),
        ("odd", "odd", False),
    ],
)
def test_is_behind(this: str, that: str | None, behind: bool) -> None:
    assert is_behind(this, that) is behind


async def test_the_last_lines(journal: Journal, fake: FakeJournal) -> None:
    for number in range(5):
        fake.add(f"line {number}", _SYSTEMD_UNIT=UNIT, _PID="7")
        fake.add("of another", _SYSTEMD_UNIT="other.service")
    fake.add("Started it", _PID="1", UNIT=UNIT)
    fake.add("a forgery", _PID="9", UNIT=UNIT)
    entries = await journal.last(matches_of(UNIT), 3)
    assert [(e.text, e.pid) for e in entries] == [("line 3", 7), ("line 4", 7), ("Started it", 1)]
    assert await journal.last(matches_of(UNIT), 0) == []
    everything = await journal.last(matches_of(UNIT), 1_000_000)
    assert len(everything) == 6
    after = await journal.last(matches_of(UNIT), 100, everything[2].cursor)
    assert after == everything[3:]
    assert await journal.last(matches_of(UNIT), 1, everything[2].cursor) == everything[-1:]
    assert await journal.last(matches_of(UNIT), 100, everything[-1].cursor) == []
    assert not any(reader.is_open for reader in fake.readers)


async def test_a_journal_that_keeps_nothing_says_so(fake: FakeJournal) -> None:
    """Where it would be silent: its last lines, and news of further ones."""
    journal = Journal(fake.open, storage=lambda: "none")
    for asked in (journal.last(matches_of(UNIT), 10), journal.wait(matches_of(UNIT), None)):
        with pytest.raises(NotReady, match="Storage=none in "):
            await asked
    journal.close()


async def test_one_run_of_a_unit(journal: Journal, fake: FakeJournal) -> None:
    fake.add("before", _SYSTEMD_UNIT=UNIT, _SYSTEMD_INVOCATION_ID="a1")
    fake.add("now", _SYSTEMD_UNIT=UNIT, _SYSTEMD_INVOCATION_ID="b2")
    fake.add("Failed", _PID="1", INVOCATION_ID="b2")
    assert [e.text for e in await journal.last(matches_of_run("b2"), 10)] == ["now", "Failed"]


async def test_odd_entries(journal: Journal, fake: FakeJournal) -> None:
    fake.add("x", _SYSTEMD_UNIT=UNIT, _PID="none")
    fake.add("x", _SYSTEMD_UNIT=UNIT)
    fake.entries[0]["MESSAGE"] = b"\xff\xfe"
    del fake.entries[1]["MESSAGE"]
    entries = await journal.last(matches_of(UNIT), 10)
    assert [(e.text, e.pid) for e in entries] == [("\ufffd\ufffd", 0), ("", 0)]


async def test_waiting(journal: Journal, fake: FakeJournal) -> None:
    first = fake.add("first", _SYSTEMD_UNIT=UNIT)
    async with asyncio.timeout(PATIENCE_S):
        await journal.wait(matches_of(UNIT), None)
        waiting = asyncio.create_task(journal.wait(matches_of(UNIT), first))
        fake.add("of another", _SYSTEMD_UNIT="other.service")
        await journal.last(matches_of(UNIT), 1)  # behind whatever the wait has looked at
        assert not waiting.done()
        fake.add("second", _SYSTEMD_UNIT=UNIT)
        await waiting


async def test_a_wait_that_is_given_up(journal: Journal, fake: FakeJournal) -> None:
    last = fake.add("x", _SYSTEMD_UNIT=UNIT)
    waiting = asyncio.create_task(journal.wait(matches_of(UNIT), last))
    await journal.last(matches_of(UNIT), 1)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await journal.last(matches_of(UNIT), 1)
    assert not any(reader.is_open for reader in fake.readers)


async def test_no_cursor_is_refused_before_anything_is_opened(
    journal: Journal, fake: FakeJournal
) -> None:
    with pytest.raises(InvalidInput):
        await journal.last(matches_of(UNIT), 5, "nonsense")
    with pytest.raises(InvalidInput):
        await journal.wait(matches_of(UNIT), "nonsense")
    assert fake.readers == []


async def test_a_journal_that_may_not_be_read() -> None:
    def refuse() -> None:
        raise PermissionError(13, "Permission denied")

    journal = Journal(refuse)
    with pytest.raises(NotReady, match="systemd-journal"):
        await journal.last(matches_of(UNIT), 1)
    journal.close()
