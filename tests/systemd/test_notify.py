"""What is told to the service manager."""

import asyncio
from collections.abc import Mapping

import pytest

from magid.__main__ import beside, reload_on
from magid.errors import RescanFailed
from magid.systemd.notify import keep_alive, watchdog_interval_s
from tests.support.deadlines import PATIENCE_S


@pytest.mark.parametrize(
    ("env", "interval"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "60000000"}, 30.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "42"}, 30.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "43"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_PID": "42"}, None),
    ],
)
def test_watchdog_interval(env: Mapping[str, str], interval: float | None) -> None:
    assert watchdog_interval_s(env, 42) == interval


class Manager:
    """Hears what it is told."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[str] = asyncio.Queue()

    async def next(self) -> str:
        async with asyncio.timeout(PATIENCE_S):
            return await self.heard.get()


async def test_it_lives_as_long_as_the_loop_turns() -> None:
    manager = Manager()
    async with beside(keep_alive(manager.heard.put_nowait, 0.001)):
        assert [await manager.next() for _ in range(3)] == ["WATCHDOG=1"] * 3


async def test_nobody_wants_to_hear_it() -> None:
    manager = Manager()
    await keep_alive(manager.heard.put_nowait, None)
    assert manager.heard.empty()


@pytest.mark.parametrize("error", [None, RescanFailed("cannot read"), RuntimeError("a mistake")])
async def test_reload(error: Exception | None) -> None:
    manager, asked = Manager(), asyncio.Event()
    rescans = 0

    async def rescan() -> None:
        nonlocal rescans
        rescans += 1
        if error:
            raise error

    async with beside(reload_on(asked, manager.heard.put_nowait, rescan)):
        for number in (1, 2):
            asked.set()
            begins = (await manager.next()).split("\n")
            assert begins[0] == "RELOADING=1"
            assert begins[1].removeprefix("MONOTONIC_USEC=").isdigit()
            assert await manager.next() == "READY=1"
            assert rescans == number


async def test_it_ends_with_its_block() -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with beside(work()):
        await asyncio.sleep(0)
    assert ended.is_set()
