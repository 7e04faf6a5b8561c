"""A llama-server on a mount that does not answer."""

import asyncio
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from magid.errors import LlamaServerMissing
from magid.llama.installed_program import InstalledProgram
from magid.llama.program_search import ProgramSearch
from tests.support import fake_llama
from tests.support.deadlines import DEADLINE_S
from tests.support.mounts import Mounted, mounted

LATE_S = 0.5  # nothing here is right or wrong by how long it takes


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mounted]:
    fake_llama.install(tmp_path / "net")
    with mounted(tmp_path / "net") as one:
        yield one
        one.thaw()


@pytest.fixture
def search() -> Iterator[ProgramSearch]:
    with closing(ProgramSearch(LATE_S)) as one:
        yield one


@pytest.fixture
def disk(mount: Mounted, tmp_path: Path) -> Iterator[Path]:
    """What the kernel calls a file system of this machine, and what hangs with the mount."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "disk").mkdir()
    layers = f"lowerdir={mount.folder}:{tmp_path / 'empty'}"
    command = ["mount", "-t", "overlay", "overlay", "-o", layers, str(tmp_path / "disk")]
    subprocess.run(command, check=True)
    # What holds the event loop would hold this test too, for ever.
    rescue = threading.Timer(DEADLINE_S, mount.thaw)
    rescue.start()
    try:
        yield tmp_path / "disk"
    finally:
        rescue.cancel()
        rescue.join()
        mount.thaw()
        subprocess.run(["umount", str(tmp_path / "disk")], check=True)


def answered(find: Callable[[], object]) -> None:
    """Returns once it works."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        with suppress(LlamaServerMissing):
            find()
            return
        time.sleep(0.01)
    raise AssertionError("it did not come back")


def test_it_is_named_and_taken_up_again(mount: Mounted, search: ProgramSearch) -> None:
    program = str(mount.folder / "llama-server")
    found = search.find(program, "")
    assert (str(found.path), found.real) == (program, found.path)
    mount.hang()
    for _ in range(3):
        with pytest.raises(
            LlamaServerMissing, match=rf"^cannot ask .*{mount.folder} does not answer"
        ):
            search.find(program, "")
    mount.thaw()
    answered(lambda: search.find(program, ""))
    assert search.find(program, "") == found


def test_a_link_to_it_and_the_search_path(
    mount: Mounted, search: ProgramSearch, tmp_path: Path
) -> None:
    """What hangs is passed over; only if there is no other is it the reason."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/llama-server").symlink_to(mount.folder / "llama-server")
    other = fake_llama.install(tmp_path / "other")
    mount.hang()
    with pytest.raises(LlamaServerMissing, match="does not answer"):
        search.find(str(tmp_path / "bin/llama-server"), "")
    usual = any(Path(folder, "llama-server").exists() for folder in ("/usr/local/bin", "/usr/bin"))
    if not usual:
        assert search.find(None, f"{mount.folder}:{other.parent}").path == other
        with pytest.raises(LlamaServerMissing, match="does not answer"):
            search.find(None, f"{mount.folder}:{tmp_path}")


def test_a_program_that_cannot_be_read(mount: Mounted) -> None:
    """Its file is there, and to start it waits."""
    with closing(ProgramSearch(LATE_S, run_s=0)) as search:
        mount.mute()
        program = mount.folder / "llama-server"
        with pytest.raises(LlamaServerMissing, match="does not answer"):
            search.probe(program)
        mount.thaw()
        answered(lambda: search.find(str(program), ""))


async def test_it_is_probed_once_whatever_happens(mount: Mounted, search: ProgramSearch) -> None:
    program = mount.folder / "llama-server"
    installed = InstalledProgram(str(program), "", search)
    known = await installed()
    assert (known.path, known.version) == (program, "1.2.3 (build 45, commit fake)")
    mount.hang()
    with pytest.raises(LlamaServerMissing, match="does not answer"):
        await installed()
    mount.thaw()
    await asyncio.to_thread(answered, lambda: search.find(str(program), ""))
    assert await installed() is known


async def test_a_disk_of_this_machine_that_hangs_does_not_hold_the_loop(
    mount: Mounted, disk: Path
) -> None:
    installed = InstalledProgram(str(disk / "llama-server"), "", late_s=LATE_S)
    known = await installed()
    mount.hang()
    for _ in range(3):
        with pytest.raises(LlamaServerMissing, match="its file system does not answer"):
            await installed()
    mount.thaw()
    async with asyncio.timeout(DEADLINE_S):
        while True:
            with suppress(LlamaServerMissing):
                assert await installed() is known
                return
            await asyncio.sleep(0.01)


async def test_who_leaves_meanwhile_leaves_the_look_to_the_next(mount: Mounted, disk: Path) -> None:
    installed = InstalledProgram(str(disk / "llama-server"), "")
    known = await installed()
    mount.hang()
    first = asyncio.create_task(installed())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait({first})
    second = asyncio.create_task(installed())
    await asyncio.sleep(0)
    mount.thaw()
    assert await second is known


async def test_what_waits_ends_with_the_daemon(mount: Mounted) -> None:
    installed = InstalledProgram(str(mount.folder / "llama-server"), "", ProgramSearch(10**6))
    mount.hang()
    waiting = asyncio.create_task(installed())
    await asyncio.sleep(0)
    installed.close()
    with pytest.raises(LlamaServerMissing):
        await waiting


def test_a_program_that_is_none(mount: Mounted, search: ProgramSearch, tmp_path: Path) -> None:
    with pytest.raises(LlamaServerMissing, match="not an executable program"):
        search.find(str(mount.folder / "absent"), "")
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    with pytest.raises(LlamaServerMissing, match="ended with 3"):
        search.probe(broken)
