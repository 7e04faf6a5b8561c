"""Long work in steps: others have their turn between them, and errors go to who asked."""

import asyncio
import itertools
import time
from collections.abc import Generator

import pytest

from magid.errors import InvalidInput
from magid.gateway.proxy.time_slices import SLICE_S, TimeSlices


def steps(name: str, count: int, seen: list[str]) -> Generator[None, None, str]:
    """Each longer than the slice of a turn."""
    for _ in range(count):
        end = time.monotonic() + SLICE_S
        while time.monotonic() < end:
            pass
        seen.append(name)
        yield
    return name


async def tick(seen: list[str]) -> None:
    while True:
        seen.append("tick")
        await asyncio.sleep(0)


def test_others_have_their_turn_between_two_steps() -> None:
    async def run() -> list[str]:
        seen: list[str] = []
        ticker = asyncio.create_task(tick(seen))
        assert await TimeSlices().run(steps("step", 5, seen)) == "step"
        ticker.cancel()
        return seen

    seen = asyncio.run(run())
    first, last = seen.index("step"), len(seen) - seen[::-1].index("step")
    between = "".join(name[0] for name in seen[first:last])
    assert "ss" not in between
    assert between.count("s") == 5


def test_many_jobs_take_one_slice_of_a_turn() -> None:
    async def run() -> list[str]:
        seen: list[str] = []
        slices = TimeSlices()
        ticker = asyncio.create_task(tick(seen))
        names = ["a", "b", "c"]
        found = await asyncio.gather(*(slices.run(steps(name, 3, seen)) for name in names))
        ticker.cancel()
        assert found == names
        return seen

    seen = asyncio.run(run())
    order = [name for name in seen if name != "tick"]
    assert order == ["a", "b", "c"] * 3
    for one, other in itertools.pairwise(seen):
        assert "tick" in (one, other)


def test_an_error_goes_to_who_asked_and_to_nobody_else() -> None:
    def broken() -> Generator[None, None, None]:
        yield
        raise InvalidInput("cannot do this")

    async def run() -> None:
        seen: list[str] = []
        slices = TimeSlices()
        done: list[object] = []
        slices.begin(broken(), done.append, lambda _error: 1 / 0)  # type: ignore[arg-type]  # a defect
        other = asyncio.create_task(slices.run(steps("other", 2, seen)))
        with pytest.raises(InvalidInput):
            await slices.run(broken())
        assert await other == "other"
        assert done == []

    asyncio.run(run())


def test_what_fails_behind_the_steps_is_told_too() -> None:
    async def run() -> None:
        failed: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        TimeSlices().begin(steps("one", 1, []), lambda _: 1 / 0, failed.set_result)  # type: ignore[arg-type]  # a defect
        assert isinstance(await failed, ZeroDivisionError)

    asyncio.run(run())


def test_what_was_cancelled_goes_no_further() -> None:
    async def run() -> None:
        seen: list[str] = []
        slices = TimeSlices()
        done: list[object] = []
        job = slices.begin(steps("gone", 50, seen), done.append, done.append)
        waiting = asyncio.create_task(slices.run(steps("gone too", 50, seen)))
        await slices.run(steps("other", 2, seen))
        job.cancel()
        waiting.cancel()
        await slices.run(steps("other", 3, seen))
        assert done == []
        assert seen.count("gone") + seen.count("gone too") < 10

    asyncio.run(run())
