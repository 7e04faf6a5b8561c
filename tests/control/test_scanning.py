"""What is taken up without a request for a scan."""

import pytest

from tests.support.daemons import House, until


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
    await until(daemon, lambda: "delta_9p0b_q4km_balanced" in daemon.snapshot.models)
    assert daemon.snapshot.disk.broken == ()
