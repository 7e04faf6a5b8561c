"""One thread reads for all who ask, and a disk that hangs costs one caller the deadline."""

import asyncio
import queue
import threading

import pytest

from magid.host.shared_reads import SharedRead
from tests.support.deadlines import DEADLINE_S
from tests.support.threads import no_more_threads


class Disk:
    """Each read waits until the test says what it finds."""

    def __init__(self) -> None:
        self.begun: queue.Queue[None] = queue.Queue()
        self.found: queue.Queue[str | OSError] = queue.Queue()
        self.threads = 0

    def read(self) -> str:
        self.threads += 1
        self.begun.put(None)
        found = self.found.get(timeout=DEADLINE_S)
        self.threads -= 1
        if isinstance(found, OSError):
            raise found
        return found

    async def wait_begun(self) -> None:
        await asyncio.to_thread(self.begun.get, timeout=DEADLINE_S)


async def test_who_asks_meanwhile_shares_the_next_read() -> None:
    """One under way may have passed what was written just before they asked."""
    disk = Disk()
    shared = SharedRead(disk.read, DEADLINE_S)
    first = asyncio.create_task(shared.result())
    await disk.wait_begun()
    others = [asyncio.create_task(shared.result()) for _ in range(50)]
    disk.found.put("before")
    assert await first == "before"
    await disk.wait_begun()
    assert disk.threads == 1
    disk.found.put("after")
    assert set(await asyncio.gather(*others)) == {"after"}
    assert disk.begun.empty()


async def test_one_that_hangs_is_waited_for_once() -> None:
    disk = Disk()
    shared = SharedRead(disk.read, 0.1)
    threads = threading.active_count()
    found = await asyncio.gather(*(shared.result() for _ in range(50)), return_exceptions=True)
    assert {type(one) for one in found} == {TimeoutError}
    for _ in range(50):
        with pytest.raises(TimeoutError):
            await shared.result()
    assert threading.active_count() == threads + 1
    assert disk.begun.qsize() == 1
    disk.found.put("back")
    disk.found.put("back")
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                assert await shared.result() == "back"
                break
            except TimeoutError:
                await asyncio.sleep(0)


async def test_an_error_is_for_all_who_wait_and_the_next_read_is_another() -> None:
    disk = Disk()
    shared = SharedRead(disk.read, DEADLINE_S)
    asked = [asyncio.create_task(shared.result()) for _ in range(2)]
    await disk.wait_begun()
    disk.found.put(OSError("no"))
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(one) for one in found] == [OSError, OSError]
    disk.found.put("yes")
    assert await shared.result() == "yes"


async def test_a_caller_that_leaves_ends_no_read() -> None:
    disk = Disk()
    shared = SharedRead(disk.read, DEADLINE_S)
    leaves, stays = (asyncio.create_task(shared.result()) for _ in range(2))
    await disk.wait_begun()
    leaves.cancel()
    disk.found.put("here")
    assert await stays == "here"
    assert leaves.cancelled()


async def test_a_machine_that_allowed_no_thread_costs_that_call_alone() -> None:
    disk = Disk()
    shared = SharedRead(disk.read, DEADLINE_S)
    with no_more_threads(), pytest.raises(RuntimeError, match="can't start new thread"):
        await shared.result()
    disk.found.put("here")
    async with asyncio.timeout(DEADLINE_S / 2):
        assert await shared.result() == "here"
