"""A model folder on a mount that does not answer holds up nothing but itself."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from magid.discovery.found import Scan
from magid.discovery.scanner import Scanner
from magid.discovery.tiers import Thresholds
from magid.errors import Conflict
from tests.support import ggufs
from tests.support.mounts import Mounted, mounted
from tests.support.rest import Parts
from tests.support.running import Running
from tests.support.scanning import names, settle

LATE_S = 1.0
DEADLINE_S = 60.0
SOUND, SICK = "a-1B-F32.gguf", "b-2B-F32.gguf"


@pytest.fixture
def sick(tmp_path: Path) -> Iterator[tuple[Path, Mounted]]:
    """A folder with one model, on a mount that still answers."""
    folder = tmp_path / "sick"
    ggufs.write_chat_model(folder / SICK)
    settle(folder)
    with mounted(folder) as mount:
        yield folder, mount


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    ggufs.write_chat_model(tmp_path / "sound" / SOUND)
    settle(tmp_path / "sound")
    return tmp_path / "sound"


def scanner(*roots: Path, cache: Path | None = None) -> Scanner:
    return Scanner(roots, Thresholds(), cache, late_s=LATE_S)


def late(scan: Scan) -> list[str]:
    return [root.path for root in scan.unreadable_roots if root.is_late]


def until_news(one: Scanner) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not one.has_news:
        assert time.monotonic() < deadline
        time.sleep(0.05)  # between polls


def readers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if is_reader(child)]


def is_reader(process: psutil.Process) -> bool:
    """Not of one that has ended: those of the last test end when its mount does."""
    try:
        return "magid.discovery.header_workers" in process.cmdline()
    except psutil.NoSuchProcess:  # or a zombie
        return False


def test_other_folders_are_scanned_and_the_hung_one_is_named(
    sick: tuple[Path, Mounted], sound: Path
) -> None:
    folder, mount = sick
    mount.hang()
    with closing(scanner(folder, sound)) as one:
        found = one.scan()
        assert names(found) == [SOUND]
        assert late(found) == [str(folder)]
        assert found.unreadable_roots[0].reason == "has not answered for 1 s; magid keeps trying"
        assert [pending.filename for pending in one.first_listing()] == []


def test_it_is_taken_up_when_it_is_back(sick: tuple[Path, Mounted], sound: Path) -> None:
    folder, mount = sick
    mount.hang()
    with closing(scanner(folder, sound)) as one:
        one.scan()
        assert not one.has_news
        mount.thaw()
        until_news(one)
        found = one.scan()
        assert (names(found), late(found)) == ([SICK, SOUND], [])


def test_models_that_are_known_stay_known(
    tmp_path: Path, sick: tuple[Path, Mounted], sound: Path
) -> None:
    folder, mount = sick
    cache = tmp_path / "cache.json"
    with closing(scanner(folder, sound, cache=cache)) as one:
        before = one.scan()
        mount.hang()
        during = one.scan()
        assert (during.models, late(during)) == (before.models, [str(folder)])
    with closing(scanner(folder, sound, cache=cache)) as another:
        assert another.scan().models == before.models, "a new magid knows them too"
        count = len(readers())
        again = another.scan()
        assert (again.models, len(readers())) == (before.models, count), "it was queried again"


def test_a_root_that_is_a_link_into_it(tmp_path: Path, sick: tuple[Path, Mounted]) -> None:
    folder, mount = sick
    root, cache = tmp_path / "root", tmp_path / "cache.json"
    root.symlink_to(folder)
    with closing(scanner(root, cache=cache)) as one:
        before = one.scan()
    mount.hang()
    with closing(scanner(root, cache=cache)) as one:
        during = one.scan()
    assert (during.models, late(during)) == (before.models, [str(folder)])


def test_links_into_it_from_a_sound_root(sick: tuple[Path, Mounted], sound: Path) -> None:
    folder, mount = sick
    (sound / "0.gguf").symlink_to(folder / SICK)
    with closing(scanner(folder, sound)) as one:
        before = one.scan()
        mount.hang()
        during = one.scan()
        assert (during.models, late(during)) == (before.models, [str(folder)])


def test_a_link_that_hangs_hides_no_other_file(
    tmp_path: Path, sick: tuple[Path, Mounted], sound: Path
) -> None:
    """The mount is no root: nobody knows of it before."""
    folder, mount = sick
    (sound / "0.gguf").symlink_to(folder / SICK)
    (sound / "1.gguf").symlink_to(sound / SOUND)
    mount.hang()
    with closing(scanner(sound)) as one:
        counts = []
        for _ in range(2):
            found = one.scan()
            assert (names(found), late(found)) == ([SOUND], [])
            (broken,) = found.broken
            assert broken.reason == "is a link to a file system that does not answer"
            counts.append(len(readers()))
        assert counts[0] == counts[1], "it was followed again"


def test_a_root_within_another_one(tmp_path: Path, sick: tuple[Path, Mounted]) -> None:
    folder, mount = sick
    ggufs.write_chat_model(tmp_path / SOUND)
    mount.hang()
    with closing(scanner(tmp_path, folder)) as one:
        found = one.scan()
    assert (names(found), late(found)) == ([SOUND], [str(folder)])


def test_headers_that_cannot_be_read(sick: tuple[Path, Mounted], sound: Path) -> None:
    """It falls silent behind the walk: what is new there waits."""
    folder, mount = sick
    mount.mute()
    with closing(scanner(folder, sound)) as one:
        found = one.scan()
        assert (names(found), late(found)) == ([SOUND], [str(folder)])
        mount.thaw()
        until_news(one)
        assert names(one.scan()) == [SICK, SOUND]


def test_a_scan_under_way_ends_at_once_when_it_is_stopped(sick: tuple[Path, Mounted]) -> None:
    folder, mount = sick
    mount.hang()
    one = Scanner([folder], Thresholds(), None, late_s=DEADLINE_S)
    errors: list[Exception] = []

    def scan() -> None:
        try:
            one.scan()
        except Conflict as error:
            errors.append(error)

    thread = threading.Thread(target=scan)
    thread.start()
    deadline = time.monotonic() + DEADLINE_S
    while not readers():
        assert time.monotonic() < deadline
        os.sched_yield()
    one.stop()
    thread.join(DEADLINE_S)
    one.close()
    assert len(errors) == 1


# -- a whole magid ---------------------------------------------------------------------------


ALPHA, BETA = "alpha_0p0b_f16_balanced", "beta_0p0b_f16_balanced"


def write(folder: Path, name: str) -> None:
    ggufs.write_chat_model(folder / f"{name}-F16.gguf", quantization="F16")


@pytest.fixture
def magid(parts: Parts, tmp_path: Path) -> Iterator[tuple[Running, Mounted]]:
    """Alpha lies in a folder that answers always, Beta on a mount. Not started."""
    running = parts.daemon(tmp_path / "house")
    net = tmp_path / "net"
    write(running.models, "Alpha")
    write(net, "Beta")
    running.environment["MODEL_SCAN_PATH"] = f"{net}:{running.models}"
    (running.profiles / "test.yaml").write_text("name: Test\nenabled_models: ['*']\n")
    with mounted(net) as mount, running.client:
        yield running, mount
        mount.thaw()


def models(magid: Running) -> set[str]:
    return set(magid.get("/api/models/registry")["models"])


def reasons(magid: Running) -> str:
    return " ".join(magid.client.get("/readyz").json()["reasons"])


def test_nothing_else_waits_for_it(magid: tuple[Running, Mounted]) -> None:
    running, mount = magid
    with running:
        running.wait_ready()
        known = models(running)
        assert known == {ALPHA, BETA}
        mount.hang()
        scan = running.ask("POST", "/api/models/rescan")
        net = str(mount.folder)
        assert [broken["path"] for broken in scan["modelsBroken"]] == [net]
        assert (models(running), scan["removed"]) == (known, [])
        assert net in reasons(running)
        offered = {model["id"] for model in running.get("/v1/models")["data"]}
        assert known <= offered, "a server that runs is an offer still"
        running.ask("POST", f"/api/models/servers/{ALPHA}/restart?wait=60")
        assert running.complete(running.servers()[ALPHA]["port"])
        assert running.stop() == 0


def test_a_start_meanwhile_and_a_folder_that_comes_back(magid: tuple[Running, Mounted]) -> None:
    running, mount = magid
    with running:
        running.wait_ready()
        assert running.stop() == 0
    mount.hang()
    with running:
        running.wait_state(ALPHA, "ready")
        assert models(running) == {ALPHA, BETA}
        assert running.servers()[BETA]["state"] == "stopped", "others would wait for nothing"
        assert str(mount.folder) in reasons(running)
        mount.thaw()
        running.wait_state(BETA, "ready")
        running.wait_ready()


def test_a_folder_that_was_never_seen_before(magid: tuple[Running, Mounted]) -> None:
    running, mount = magid
    mount.hang()
    with running:
        running.wait_state(ALPHA, "ready")
        mount.thaw()
        running.wait_for(BETA, lambda: BETA in running.servers())
        running.wait_state(BETA, "ready")


def test_a_first_start_meanwhile(magid: tuple[Running, Mounted]) -> None:
    running, mount = magid
    mount.hang()
    with running:
        running.wait_state(ALPHA, "ready")
        assert models(running) == {ALPHA}
        assert running.stop() == 0, "with a walk that hangs"
