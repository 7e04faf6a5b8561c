"""The launcher's references on stopped units: a launcher that has ended is woken."""

import asyncio

import pytest

from magid.launcher.protocol import LauncherReply, Ping, Request
from tests.support.deadlines import PATIENCE_S
from tests.support.fake_systemd import STOPPED, ready
from tests.support.systemd_world import World


class Pings:
    """The launcher's answers from now on: refusals as many as `refused`, then it is well."""

    def __init__(self, world: World, refused: int = 0) -> None:
        self._refused = refused
        self._heard = asyncio.Semaphore(0)
        world.answers.append(self._answer)

    async def _answer(self, request: Request) -> LauncherReply:
        assert request == Ping()
        self._heard.release()
        self._refused -= 1
        return (
            LauncherReply("InternalError", "cannot do it")
            if self._refused >= 0
            else LauncherReply()
        )

    async def next(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await self._heard.acquire()


@pytest.mark.parametrize("state", ["inactive", "failed"])
async def test_a_launcher_that_has_ended_is_woken(world: World, state: str) -> None:
    """Also for a unit that is stopped: without a reference systemd would forget it."""
    pings = Pings(world)
    world.systemd.load(ready(world.spec()) | STOPPED)
    await world.launcher.open()
    world.systemd.launcher_became("deactivating")
    world.systemd.launcher_became(state)
    await pings.next()
    world.systemd.launcher_became("active")
    world.systemd.launcher_became(state)
    await pings.next()


async def test_one_that_had_ended_before_magid_came(world: World) -> None:
    pings = Pings(world)
    world.systemd.launcher = "inactive"
    world.systemd.load(ready(world.spec()))
    await world.launcher.open()
    await pings.next()


async def test_a_launcher_is_left_alone_where_there_is_nothing_to_hold(world: World) -> None:
    """It ends when it is idle. Nor is it asked while it lives."""
    pings = Pings(world)
    await world.launcher.open()
    world.systemd.launcher_became("inactive")
    await world.launcher.command(world.spec())
    assert world.asked == []
    world.systemd.load(ready(spec := world.spec()))
    await pings.next()
    world.systemd.launcher_became("active")
    for state in ("active", "inactive"):  # one ping for the two
        world.systemd.change(spec.port, StatusText=f"ready, {state}")
        world.systemd.launcher_became(state)
    await pings.next()
    assert world.asked == [Ping(), Ping()]


async def test_a_launcher_that_cannot_be_woken_is_tried_again(world: World) -> None:
    """Its socket may have been stopped too, or its service masked."""
    pings = Pings(world, refused=2)
    world.systemd.load(ready(world.spec()))
    await world.launcher.open()
    world.systemd.launcher_became("failed")
    for _ in range(3):
        await pings.next()
