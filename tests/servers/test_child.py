"""One child process, and the lines that are kept of it."""

import asyncio
import sys
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from sys import getsizeof

import pytest

from magid.errors import InvalidInput
from magid.log.buffer import MAX_LINE_BYTES, MAX_LINES, MAX_LOG_LINES, LogRing
from magid.servers.processes.child import Child
from tests.support.deadlines import PATIENCE_S

BOUND = MAX_LINE_BYTES


async def output_of(*words: str) -> tuple[list[str], int | None]:
    lines: list[str] = []
    child = await Child.spawn(words, {"PATH": "/usr/bin:/bin"}, lines.append)
    async with asyncio.timeout(PATIENCE_S):
        await child.wait()
    await child.end(0)
    return lines, child.returncode


@pytest.mark.parametrize(
    ("script", "lines"),
    [
        ("printf 'one\\ntwo\\n'", ["one", "two"]),
        ("printf 'one\\r\\n\\ntwo'", ["one", "", "two"]),
        ("printf '\\033[31mred\\t\\000\\n'", ["\x1b[31mred\t\0"]),
        ("printf '\\377\\n'", ["\ufffd"]),
        ("echo out; echo err >&2", ["out", "err"]),
        (
            f"head -c {2 * BOUND + 5} /dev/zero | tr '\\0' x; echo; echo end",
            ["x" * BOUND, "x" * BOUND, "x" * 5, "end"],
        ),
        *(
            (f"head -c {BOUND} /dev/zero | tr '\\0' x; printf '{end}end'", ["x" * BOUND, "end"])
            for end in ("\\n", "\\r\\n")
        ),
        (
            f"head -c {BOUND + 1} /dev/zero | tr '\\0' x; printf '\\nend'",
            ["x" * BOUND, "x", "end"],
        ),
        ("exit 0", []),
    ],
)
async def test_lines(script: str, lines: list[str]) -> None:
    assert await output_of("/bin/sh", "-c", script) == (lines, 0)


@pytest.mark.parametrize(
    ("script", "returncode"), [("exit 3", 3), ("kill -SEGV $$", -11), ("kill -TERM $$", -15)]
)
async def test_exit(script: str, returncode: int) -> None:
    assert (await output_of("/bin/sh", "-c", script))[1] == returncode


async def test_a_program_that_is_not_there() -> None:
    lines, returncode = await output_of("/nonexistent/program")
    assert returncode == 127
    assert lines == ["error: cannot run /nonexistent/program: No such file or directory"]


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["model"], None),
        (["model", "absent"], (1, "open", "No such file or directory")),
        (["folder"], (0, "read", "check its permissions")),
    ],
)
async def test_a_program_runs_with_its_files_only(
    tmp_path: Path, names: list[str], problem: tuple[int, str, str] | None
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "model").write_text("")
    (tmp_path / "program").write_text("#!/bin/sh\necho ran; ls /proc/self/fd | wc -l")
    (tmp_path / "program").chmod(0o755)
    lines: list[str] = []
    files = [str(tmp_path / name) for name in names]
    environment = {"PATH": "/usr/bin:/bin"}
    child = await Child.spawn([str(tmp_path / "program")], environment, lines.append, files=files)
    assert await child.problem_of_files(PATIENCE_S) == problem
    async with asyncio.timeout(PATIENCE_S):
        await child.wait()
    await child.end(0)
    assert lines == (["ran", "4"] if problem is None else [])


async def test_files_that_were_looked_at_are_not_looked_at_again(tmp_path: Path) -> None:
    lines: list[str] = []
    files = [str(tmp_path / "absent")]
    command = ["/bin/echo", "ran"]
    child = await Child.spawn(command, {}, lines.append, files=files, are_usable=True)
    assert await child.problem_of_files(PATIENCE_S) is None
    async with asyncio.timeout(PATIENCE_S):
        await child.wait()
    await child.end(0)
    assert lines == ["ran"]


async def test_a_stranger_who_keeps_the_pipe_is_not_waited_for() -> None:
    """A process that left the group holds our pipe open; it ends by itself."""
    lines, _ = await output_of("/bin/sh", "-c", "setsid sleep 3 & echo said")
    assert lines == ["said"]


async def test_a_wait_ends_with_the_news_or_with_the_child() -> None:
    news = asyncio.Event()
    child = await Child.spawn(["/bin/sleep", "1000"], {}, lambda _: None)
    async with asyncio.timeout(PATIENCE_S):
        assert not await child.wait_or(news, 0)
        news.set()
        assert not await child.wait_or(news, 3600)
        assert not news.is_set()
        waits = asyncio.create_task(child.wait_or(news, 3600))
        await child.end(PATIENCE_S)
        assert await waits


async def test_end_is_idempotent() -> None:
    child = await Child.spawn(["/bin/sleep", "1000"], {}, lambda _: None)
    await asyncio.gather(child.end(10), child.end(10))
    await child.end(10)
    assert child.has_exited
    assert child.returncode == -15


async def test_the_session_is_its_own() -> None:
    lines, _ = await output_of("/bin/sh", "-c", "ps -o pid=,pgid=,sid= -p $$")
    assert len(set(lines[0].split())) == 1


def ring_of(count: int, capacity: int = 5) -> LogRing:
    ring = LogRing(capacity)
    for number in range(count):
        ring.add(str(number))
    return ring


@pytest.mark.parametrize(
    ("count", "lines", "expected"),
    [
        (0, 3, ""),
        (3, 2, "12"),
        (3, 9, "012"),
        (8, 9, "34567"),
        (8, 0, ""),
        (8, -1, ""),
    ],
)
async def test_last_lines(count: int, lines: int, expected: str) -> None:
    assert "".join(line.text for line in ring_of(count).last(lines)) == expected


@pytest.mark.parametrize("text", ["x" * 5000, "\ufffd" * 5000, "\U0001f600" * 5000, ""])
async def test_lines_take_bounded_memory(text: str) -> None:
    """A character takes one to four bytes."""
    ring = LogRing(1000, most_bytes=100_000)
    for _ in range(2000):
        ring.add(text)
    kept = ring.last(2000)
    assert 1 <= len(kept) <= 1000
    assert sum(getsizeof(line.text) for line in kept) <= 100_000
    assert ring.last(1)[0].cursor.endswith("2000")


async def test_many_lines_at_once_take_turns() -> None:
    """A child that floods does not hold the loop: others get their turns in between."""
    count, seen = 100 * MAX_LINES, 0
    turns: list[int] = []

    def add(_line: str) -> None:
        nonlocal seen
        seen += 1

    script = f"head -c {count} /dev/zero | tr '\\0' '\\n'"
    child = await Child.spawn(["/bin/sh", "-c", script], {"PATH": "/usr/bin:/bin"}, add)
    async with asyncio.timeout(60):
        while seen < count:
            turns.append(seen)
            await asyncio.sleep(0)
    await child.end(0)
    assert max(after - before for before, after in pairwise(turns)) <= MAX_LINES


async def test_lines_that_wait_are_not_split_yet() -> None:
    """A pipe full of empty lines costs its bytes, and no list with a place for each.

    Those that still wait when the child has been gone for a second have no turns any more: only
    so many are added then as a log keeps.
    """
    size, seen, most_at_once = 65_536, 0, 0

    def add(_line: str) -> None:
        nonlocal seen
        seen += 1

    async def look() -> None:
        nonlocal most_at_once
        while True:
            before = seen
            await asyncio.sleep(0)
            most_at_once = max(most_at_once, seen - before)

    program = [sys.executable, "-I", "-S", "-c", f"import os; os.write(1, b'\\n' * {size})"]
    child = await Child.spawn(program, {}, add)
    looking = asyncio.create_task(look())
    tracemalloc.start()
    try:
        await child.wait(PATIENCE_S)
        await child.end(0)
        _, peak = tracemalloc.get_traced_memory()
        await asyncio.sleep(0)  # it sees the last ones
    finally:
        tracemalloc.stop()
        looking.cancel()
    assert MAX_LOG_LINES <= seen <= size
    assert most_at_once <= MAX_LOG_LINES
    assert peak < 5 * size


@pytest.mark.parametrize(
    ("behind", "lines", "expected"),
    [(9, 9, ""), (7, 9, "89"), (7, 1, "9"), (5, 9, "6789"), (4, 9, "56789")],
)
async def test_lines_behind_a_cursor(behind: int, lines: int, expected: str) -> None:
    """A cursor works on after its own line is no longer kept."""
    ring = LogRing(5)
    cursors = []
    for number in range(10):
        ring.add(str(number))
        cursors.append(ring.last(1)[0].cursor)
    assert cursors == sorted(cursors)
    assert "".join(line.text for line in ring.last(lines, cursors[behind])) == expected


async def test_a_cursor_of_an_earlier_magid() -> None:
    old = ring_of(9).last(1)[0].cursor
    ring = ring_of(3)
    assert len(ring.last(9, old)) == 3
    assert ring.last(1)[0].cursor > old


@pytest.mark.parametrize("cursor", ["", "x", "1", "1.", "1.-2", "1.\u0661", "a." + "1" * 100])
async def test_no_cursor(cursor: str) -> None:
    with pytest.raises(InvalidInput, match="not a cursor"):
        ring_of(3).last(1, cursor)


@pytest.mark.parametrize(
    "cursor_of", [lambda _: None, lambda ring: ring.last(1)[0].cursor], ids=["none", "last"]
)
async def test_waiting(cursor_of: Callable[[LogRing], str | None]) -> None:
    ring = LogRing()
    cursor = cursor_of(ring) if cursor_of(ring_of(1)) is None else cursor_of(_primed(ring))
    waiting = asyncio.create_task(ring.wait(cursor))
    await asyncio.sleep(0)
    assert not waiting.done()
    ring.add("new")
    async with asyncio.timeout(PATIENCE_S):
        await waiting
        await ring.wait(cursor)


def _primed(ring: LogRing) -> LogRing:
    ring.add("first")
    return ring
