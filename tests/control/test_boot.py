"""Which starts of magid start servers: those of a boot, until it is finished, and no other."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from magid.control import boot
from magid.control.daemon import Daemon
from magid.control.planner import BootRecord, Due
from magid.errors import CannotWrite
from magid.servers.backend import ServerState
from tests.support.daemons import ALPHA, BETA, GAMMA, ONLY_FAST, House, states, until, warnings
from tests.support.deadlines import PATIENCE_S
from tests.support.recording_backend import all_quiet

S = ServerState
ALL_READY = {ALPHA: S.READY, BETA: S.READY, GAMMA: S.READY}


def record(house: House) -> Any:
    return json.loads((house.state / boot.NAME).read_text())


async def booted(house: House) -> Daemon:
    """All models run, and their starts are forgotten."""
    daemon = await house.running()
    assert states(daemon) == ALL_READY
    house.launcher.calls.clear()
    return daemon


async def interrupted(house: House) -> None:
    """Ends magid while Alpha loads, and Beta and Gamma wait for their turn."""
    house.launcher.prompt = False
    first = house.daemon()
    await first.open()
    await house.launcher.until(("start", 9000))
    await first.close()
    house.launcher.show(9000, S.READY)
    house.launcher.prompt = True
    house.launcher.calls.clear()


# -- a restart ---------------------------------------------------------------------------------


async def more_slots(daemon: Daemon, _: House) -> None:
    await daemon.set_settings(ALPHA, {"parallel": 3})


async def disable(daemon: Daemon, _: House) -> None:
    await daemon.set_enabled(BETA, enabled=False)


async def other_port(daemon: Daemon, _: House) -> None:
    await daemon.set_port(GAMMA, 9005)


async def edited_profile(_: Daemon, house: House) -> None:
    house.write_profile("test", ONLY_FAST)


async def fresh_model(_: Daemon, house: House) -> None:
    house.add("Delta", 2)


async def file_gone(_: Daemon, house: House) -> None:
    house.path_of("Gamma").unlink()


Change = Callable[[Daemon, House], Awaitable[None]]


@pytest.mark.parametrize(
    ("change", "stops", "starts"),
    [
        (more_slots, 1, 1),
        (disable, 1, 0),
        (other_port, 1, 1),
        (edited_profile, 2, 0),
        (fresh_model, 0, 1),
        (file_gone, 1, 0),
    ],
)
async def test_a_restart_leaves_pending_what_is_pending(
    house: House, change: Change, stops: int, starts: int
) -> None:
    first = await booted(house)
    await change(first, house)
    await first.close()
    second = await house.running()
    await second.rescan()
    await all_quiet()
    assert house.launcher.calls == []
    assert states(second) == ALL_READY
    plan = second.apply()
    assert (len(plan.stop), len(plan.start)) == (stops, starts)


async def test_a_restart_starts_nothing_that_was_stopped_or_failed(house: House) -> None:
    first = await booted(house)
    await first.finished(ALPHA, first.stop(ALPHA), PATIENCE_S)
    house.launcher.show(9001, S.FAILED)
    await first.close()
    house.launcher.calls.clear()
    second = await house.running()
    await all_quiet()
    assert house.launcher.calls == []
    assert states(second) == {ALPHA: S.STOPPED, BETA: S.FAILED, GAMMA: S.READY}


async def test_a_boot_of_the_machine_starts_what_is_wanted(house: House) -> None:
    first = await booted(house)
    await more_slots(first, house)
    await disable(first, house)
    await first.finished(GAMMA, first.stop(GAMMA), PATIENCE_S)
    await first.close()
    house.launcher.reboot()
    second = await house.running()
    assert house.launcher.calls == [("start", 9000), ("start", 9002)]
    assert states(second) == {ALPHA: S.READY, GAMMA: S.READY}
    assert house.launcher.specs[9000].parallel == 3
    assert record(house) == {"boot": house.launcher.boot, "due": [], "folders": []}


# -- a boot that was interrupted ---------------------------------------------------------------


async def test_a_boot_that_was_interrupted_is_finished(house: House) -> None:
    await interrupted(house)
    assert record(house)["due"] == [ALPHA, BETA, GAMMA]
    second = await house.running()
    assert house.launcher.calls == [("start", 9001), ("start", 9002)]
    assert record(house)["due"] == []
    assert states(second) == ALL_READY


async def test_what_became_pending_during_a_boot_stays_pending(house: House) -> None:
    """The boot that is finished is the one that was interrupted, not a new one."""
    await interrupted(house)
    house.launcher.adopt(replace(house.launcher.specs[9000], ctx_size=7), S.READY)
    house.add("Delta", 2)
    house.write_profile("test", "name: Test\nenabled_models: ['alpha*', 'delta*', 'gamma*']\n")
    second = await house.running()
    assert house.launcher.calls == [("start", 9002)]
    pending = second.make_plan()
    assert [line.port for line in pending.stop] == [9000]
    assert [line.spec.model_id for line in pending.start] == [ALPHA, "delta_2p0b_q4km_fast"]


async def test_a_user_who_stops_a_model_takes_it_off_the_boot(house: House) -> None:
    house.launcher.prompt = False
    first = house.daemon()
    await first.open()
    await house.launcher.until(("start", 9000))
    await asyncio.wait([first.stop(BETA)])
    await first.close()
    assert record(house)["due"] == [ALPHA, GAMMA]


async def test_stop_all_before_the_first_scan_leaves_nothing_to_start(house: House) -> None:
    daemon = await house.in_first_scan()
    daemon.stop_all()
    house.scans.open()
    await until(daemon, lambda: daemon.phase == "serving")
    assert house.launcher.calls == []


# -- a disk that comes late --------------------------------------------------------------------


async def test_a_disk_that_is_mounted_after_the_boot_has_its_models_started(house: House) -> None:
    """Also by the magid that follows; and what was not known before waits for `apply`."""
    disk, away = house.models / "disk", house.folder / "unmounted"
    disk.mkdir()
    for name in ("Beta", "Gamma"):
        house.path_of(name).rename(disk / house.path_of(name).name)
    await (await booted(house)).close()
    house.launcher.reboot()
    disk.rename(away)
    disk.mkdir()
    first = await house.running()
    assert states(first) == {ALPHA: S.READY}
    assert record(house)["due"] == [BETA, GAMMA]
    assert f"{disk} has none of the models" in warnings(first)[0]
    await first.close()
    house.launcher.calls.clear()
    second = await house.running()
    assert house.launcher.calls == []
    disk.rmdir()
    away.rename(disk)
    house.add("Delta", 2)
    await second.rescan()
    await until(second, lambda: states(second) == ALL_READY)
    assert house.launcher.calls == [("start", 9001), ("start", 9002)]


async def test_apply_stops_no_server_whose_disk_is_away(house: House) -> None:
    """Neither after a restart without the disk, nor before the folders are read."""
    await (await booted(house)).close()
    house.launcher.calls.clear()
    house.models.rename(house.folder / "unmounted")
    house.models.mkdir()
    daemon = await house.in_first_scan()
    assert daemon.make_plan().is_empty
    house.scans.open()
    await until(daemon, lambda: daemon.phase == "serving")
    assert f"{house.models} has none of the models" in warnings(daemon)[0]
    assert daemon.apply().is_empty
    await daemon.wait_idle()
    assert (house.launcher.calls, states(daemon)) == ([], ALL_READY)


async def test_a_model_whose_file_was_removed_is_not_due(house: House) -> None:
    await (await booted(house)).close()
    house.launcher.reboot()
    file = house.path_of("Gamma")
    file.rename(house.folder / file.name)
    daemon = await house.running()
    assert record(house)["due"] == []
    (house.folder / file.name).rename(file)
    await daemon.rescan()
    await all_quiet()
    assert GAMMA not in states(daemon)


# -- the record --------------------------------------------------------------------------------


def test_the_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    kept = BootRecord("this one", Due(frozenset({"b", "a"}), frozenset({"/net"})))
    boot.write(tmp_path / boot.NAME, kept)
    assert boot.read(tmp_path / boot.NAME) == kept
    assert [path.name for path in tmp_path.iterdir()] == [boot.NAME]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"boot": "x"}', b'{"due": 1}'])
def test_a_record_that_cannot_be_used_counts_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / boot.NAME).write_bytes(content)
    assert boot.read(tmp_path / boot.NAME) is None
    assert boot.read(tmp_path / "none") is None


def test_a_record_that_cannot_be_written_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / boot.NAME).mkdir()
    with pytest.raises(CannotWrite, match=r"cannot write .*boot\.json"):
        boot.write(tmp_path / boot.NAME, BootRecord("x", Due()))
    assert [path.name for path in tmp_path.iterdir()] == [boot.NAME]


async def test_a_boot_whose_record_cannot_be_written_starts_models(house: House) -> None:
    (house.state / boot.NAME).mkdir()
    assert states(await house.running()) == ALL_READY
