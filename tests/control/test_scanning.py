"""What is taken up without a request for a scan."""

import asyncio

import pytest

from magid.control.conditions import Code
from magid.control.daemon import Daemon
from magid.control.transitions import Rescan, joined
from tests.support.daemons import ALPHA, House, until

DELTA = "delta_9p0b_q4km_balanced"


@pytest.mark.slow
async def test_a_finished_download_is_taken_up_by_itself(house: House) -> None:
    house.add("Delta", 9)
    (path,) = house.models.glob("Delta*")
    mark = path.with_name(f"{path.name}.aria2")
    mark.touch()
    daemon = await house.running()
    (broken,) = daemon.snapshot.disk.broken
    assert (broken.path, "is still being downloaded" in broken.reason) == (str(path), True)
    mark.unlink()
    await until(daemon, lambda: DELTA in daemon.snapshot.models)
    assert daemon.snapshot.disk.broken == ()


async def test_a_rescan_during_the_first_scan_counts_what_that_one_finds(house: House) -> None:
    daemon = await restarted_in_first_scan(house)
    rescan = asyncio.create_task(daemon.rescan())
    house.scans.open()
    result = await rescan
    assert (result.found, result.added, result.removed) == (3, (DELTA,), (ALPHA,))
    assert house.scans.at_once == 1
    assert pending(daemon) == [DELTA]


async def test_a_rescan_does_not_overtake_the_first_scan(house: House) -> None:
    """What is pending is known when it is answered, as `magictl rescan` shows it."""
    await (await house.running()).close()
    house.add("Delta", 9)
    daemon = house.daemon()
    await daemon.open()
    result = await daemon.rescan()  # before the task of the first scan has run at all
    assert (result.added, pending(daemon)) == ((DELTA,), [DELTA])


async def test_a_rescan_after_the_first_scan_counts_what_it_finds_itself(house: House) -> None:
    daemon = await restarted_in_first_scan(house)
    house.scans.open()
    await until(daemon, lambda: pending(daemon) == [DELTA])
    assert (await daemon.rescan()).added == ()


async def restarted_in_first_scan(house: House) -> Daemon:
    """One model was added and one removed while magid did not run."""
    await (await house.running()).close()
    house.add("Delta", 9)
    house.path_of("Alpha").unlink()
    return await house.in_first_scan()


def pending(daemon: Daemon) -> list[str]:
    found = (one for one in daemon.conditions() if one.code is Code.CHANGES_PENDING)
    return [name for one in found for name in one.model_ids if name != ALPHA]


def test_two_scans_as_one() -> None:
    first = Rescan(3, ("a", "b"), ("c", "d"), (), 1.0)
    then = Rescan(4, ("c", "e"), ("a",), (), 0.5)
    assert joined(first, then) == Rescan(4, ("b", "c", "e"), ("d", "a"), (), 0.5)
