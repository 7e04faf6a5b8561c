"""The daemon's owner of downloads: what it resumes by itself, and what it leaves alone."""

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from magid.config.settings import Config, DownloadSettings
from magid.errors import NotReady, ServerFailed
from magid.library.downloads.owner import Downloads
from magid.library.downloads.resuming import NAME as BOOT_RECORD
from magid.library.downloads.starting import ChildDownloads
from magid.library.job import STATUS, JobStatus, jobs_folder
from magid.library.source import ModelSource
from tests.support.deadlines import PATIENCE_S
from tests.support.hub import HubFault, HubRepository, ModelHub, running_hub
from tests.support.mounts import mounted
from tests.support.transfers import Transfers

SOURCE = ModelSource("org/Plain")
CONTENT = bytes(range(256)) * 4000


@pytest.fixture
def hub() -> Iterator[ModelHub]:
    with running_hub({"org/Plain": HubRepository({"m-Q4_K_M.gguf": CONTENT})}) as hub:
        yield hub


@pytest.fixture
def library(tmp_path: Path) -> Path:
    made = tmp_path / "models"
    made.mkdir()
    return made


class SlowLists(ChildDownloads):
    """Lists that take until `over` is set."""

    def __init__(self, settings: Config) -> None:
        super().__init__(settings)
        self.asked: asyncio.Queue[str] = asyncio.Queue()
        self.over = asyncio.Event()

    async def ask(self, question: str, source: ModelSource) -> str:
        self.asked.put_nowait(source.repository)
        await self.over.wait()
        return '{"variants": []}'


@asynccontextmanager
async def owner(
    library: Path,
    hub: ModelHub,
    boot: str,
    starting: Callable[[Config], ChildDownloads] = ChildDownloads,
    listener: Callable[[JobStatus], None] = lambda _status: None,
) -> AsyncIterator[Downloads]:
    """As of a magid that starts in this boot."""
    config = Config(
        model_paths=(library,), library_path=library, state_dir=library.parent,
        downloads=DownloadSettings(endpoint=hub.url, reserve=0),
    )  # fmt: skip

    async def rescan() -> None:
        """Of nothing."""

    made = Downloads(config, starting(config), rescan, lambda: boot)
    made.subscribe(listener)
    made.open()
    try:
        yield made
    finally:
        await made.close()


async def until(downloads: Downloads, is_so: Callable[[JobStatus], bool]) -> None:
    news = asyncio.Event()
    unsubscribe = downloads.subscribe(lambda _status: news.set())
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not any(map(is_so, downloads.seen.values())):
                await news.wait()
                news.clear()
    finally:
        unsubscribe()


def stopped(library: Path, hub: ModelHub, source: ModelSource = SOURCE) -> None:
    """A download that was stopped under way, as by a shutdown."""
    transfers = Transfers(library, hub)
    hub.faults += [HubFault("stall", 500_000)]
    with transfers.running(source) as process:
        transfers.wait_for(source, "downloading", 500_000)
        transfers.stop(process)
    assert transfers.status(source).state == "paused"


async def test_a_boot_resumes_what_a_shutdown_has_stopped(library: Path, hub: ModelHub) -> None:
    await asyncio.to_thread(stopped, library, hub)
    hub.asked.clear()
    async with owner(library, hub, "second") as downloads:
        await until(downloads, lambda status: status.state == "done")
    assert hub.requests_of("files")[0][1]["Range"] == "bytes=500000-"
    record = json.loads((library.parent / BOOT_RECORD).read_text())
    assert (record["boot"], record["jobs"]) == ("second", [SOURCE.job_id])


async def test_a_library_that_answers_late_is_waited_for(
    library: Path, hub: ModelHub, tmp_path: Path
) -> None:
    """As a mount soon after a boot."""
    net, link = tmp_path / "net", tmp_path / "late/models"
    for made in (net, link.parent):
        made.mkdir()
    await asyncio.to_thread(stopped, library, hub)
    hub.asked.clear()
    link.symlink_to(net)
    with mounted(net) as mount:
        mount.hang()
        async with owner(link, hub, "second") as downloads:
            with pytest.raises(NotReady):
                await downloads.listed()
            assert not hub.asked
            link.unlink()
            link.symlink_to(library)
            mount.thaw()
            await until(downloads, lambda status: status.state == "done")
    assert hub.requests_of("files")[0][1]["Range"] == "bytes=500000-"


async def recorded(library: Path) -> None:
    """Until what the first turn has seen is written."""

    def wait() -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not (library.parent / BOOT_RECORD).exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    await asyncio.to_thread(wait)


async def test_a_mount_that_comes_late_is_waited_for(library: Path, hub: ModelHub) -> None:
    """Over a restart of magid too; and what goes on there does so once."""
    await asyncio.to_thread(stopped, library, hub)
    hub.asked.clear()
    jobs, aside = jobs_folder(library), library.parent / "aside"
    jobs.rename(aside)  # as at an empty mount point
    async with owner(library, hub, "second") as downloads:
        await recorded(library)
        assert await downloads.listed() == []
    async with owner(library, hub, "second") as downloads:
        assert await downloads.listed() == []
        aside.rename(jobs)
        downloads.look_again()
        await until(downloads, lambda status: status.state == "done")
    assert [head["Range"] for _, head in hub.requests_of("files")] == ["bytes=500000-"]


async def test_a_folder_that_cannot_be_read_yet_is_waited_for(library: Path, hub: ModelHub) -> None:
    await asyncio.to_thread(stopped, library, hub)
    hub.asked.clear()
    jobs, aside = jobs_folder(library), library.parent / "aside"
    jobs.rename(aside)
    jobs.symlink_to(jobs)  # root may not open it either
    async with owner(library, hub, "second") as downloads:
        with pytest.raises(NotReady, match="symbolic links"):
            await downloads.listed()
        assert not hub.asked
        whole = library / "whole"
        whole.symlink_to(aside)
        whole.replace(jobs)  # at no time there is no folder, which a scan would have to tell of
        await until(downloads, lambda status: status.state == "done")
    assert hub.requests_of("files")[0][1]["Range"] == "bytes=500000-"


async def test_a_status_that_cannot_be_read_yet_is_waited_for(library: Path, hub: ModelHub) -> None:
    await asyncio.to_thread(stopped, library, hub)
    hub.asked.clear()
    status = jobs_folder(library) / SOURCE.job_id / STATUS
    aside = status.rename(library.parent / "aside")
    status.symlink_to("/proc/self/mem")  # EIO at its beginning
    async with owner(library, hub, "second") as downloads:
        await recorded(library)
        assert await downloads.listed() == []
        aside.replace(status)
        await until(downloads, lambda status: status.state == "done")
    assert hub.requests_of("files")[0][1]["Range"] == "bytes=500000-"


async def test_a_folder_is_read_for_the_first_time_once_in_a_boot(
    library: Path, hub: ModelHub, tmp_path: Path
) -> None:
    """What a boot has seen stays as a person has left it, wherever it turns up again."""
    async with owner(library, hub, "second"):
        await recorded(library)
    await asyncio.to_thread(stopped, library, hub)
    jobs, aside = jobs_folder(library), tmp_path / "aside"
    record = {"boot": "second", "folders": [], "jobs": [SOURCE.job_id]}
    (library.parent / BOOT_RECORD).write_text(json.dumps(record))
    hub.asked.clear()
    async with owner(library, hub, "second") as downloads:
        assert [status.state for status in await downloads.listed()] == ["paused"]
        jobs.rename(aside)
        assert await downloads.listed() == []
        shutil.copytree(aside, jobs)  # another folder
        assert [status.state for status in await downloads.listed()] == ["paused"]
    assert not hub.asked


async def test_what_comes_late_does_not_resume_another_folder_again(
    library: Path, hub: ModelHub, tmp_path: Path
) -> None:
    """A folder of jobs lies below the mount point, and one on the disk that is mounted there."""
    disk, link = tmp_path / "disk", tmp_path / "link/models"
    for made in (disk, link.parent):
        made.mkdir()
    await asyncio.to_thread(stopped, disk, hub)
    hub.repositories["org/Other"] = hub.repositories["org/Plain"]
    other = ModelSource("org/Other")
    await asyncio.to_thread(stopped, library, hub, other)
    hub.asked.clear()
    link.symlink_to(library)
    async with owner(link, hub, "second") as downloads:
        await until(downloads, lambda status: (status.source, status.state) == (other, "done"))
        link.unlink()
        link.symlink_to(disk)
        downloads.look_again()
        await until(downloads, lambda status: (status.source, status.state) == (SOURCE, "done"))
    assert [head["Range"] for _, head in hub.requests_of("files")] == ["bytes=500000-"] * 2


class RefusingOnce(ChildDownloads):
    """Refuses the first start."""

    has_refused = False

    async def run(self, source: ModelSource) -> None:
        if not self.has_refused:
            self.has_refused = True
            raise ServerFailed("cannot start it")
        await super().run(source)


async def test_a_start_that_is_refused_is_tried_again(library: Path, hub: ModelHub) -> None:
    await asyncio.to_thread(stopped, library, hub)
    async with owner(library, hub, "second", RefusingOnce) as downloads:
        await until(downloads, lambda status: status.state == "done")


async def test_a_restart_of_magid_leaves_it_stopped(library: Path, hub: ModelHub) -> None:
    (library.parent / BOOT_RECORD).write_text('{"boot": "first"}')
    await asyncio.to_thread(stopped, library, hub)
    hub.asked.clear()
    async with owner(library, hub, "first") as downloads:
        (status,) = await downloads.listed()
        assert (status.state, status.was_stopped) == ("paused", True)
    assert not hub.asked


async def test_what_a_person_has_paused_stays_so_over_a_boot(library: Path, hub: ModelHub) -> None:
    await asyncio.to_thread(stopped, library, hub)
    transfers = Transfers(library, hub)
    await asyncio.to_thread(transfers.act, "pause", SOURCE)
    hub.asked.clear()
    async with owner(library, hub, "second") as downloads:
        (status,) = await downloads.listed()
        assert (status.state, status.was_stopped) == ("paused", False)
    assert not hub.asked


async def test_a_process_that_was_killed_is_started_again(library: Path, hub: ModelHub) -> None:
    transfers = Transfers(library, hub)
    hub.faults += [HubFault("stall", 500_000)]

    def kill() -> None:
        with transfers.running(SOURCE):
            transfers.wait_for(SOURCE, "downloading", 500_000)

    await asyncio.to_thread(kill)
    (library.parent / BOOT_RECORD).write_text('{"boot": "first"}')
    async with owner(library, hub, "first") as downloads:
        await until(downloads, lambda status: status.state == "done")
    assert transfers.models["org/Plain/m-Q4_K_M.gguf"] == CONTENT


class DeafOnce(ChildDownloads):
    """Takes the first request for one that runs already, as while a process is ending."""

    is_deaf = True

    async def run(self, source: ModelSource) -> None:
        if not self.is_deaf:
            await super().run(source)
        self.is_deaf = False


async def test_a_pull_while_a_process_of_before_is_ending(library: Path, hub: ModelHub) -> None:
    transfers = Transfers(library, hub)
    hub.api_faults += [HubFault("status", status=404)]
    assert (await asyncio.to_thread(transfers.run, SOURCE)).state == "failed"
    async with owner(library, hub, "first", DeafOnce) as downloads:
        await downloads.listed()
        await downloads.pull(SOURCE)
        await until(downloads, lambda status: status.state == "done")


async def test_clients_that_hang_up_start_no_second_list(library: Path, hub: ModelHub) -> None:
    """The launcher answers a few at once, and a start of a model is to be one of them."""
    starters: list[SlowLists] = []

    def starting(config: Config) -> ChildDownloads:
        starters.append(SlowLists(config))
        return starters[0]

    async with owner(library, hub, "first", starting) as downloads, asyncio.timeout(PATIENCE_S):
        lists = [
            asyncio.create_task(downloads.ask("list", ModelSource(f"org/{name}")))
            for name in "abcd"
        ]
        assert await starters[0].asked.get() == "org/a"
        for one in lists[:2]:
            one.cancel()
        await asyncio.wait(lists[:2])
        assert starters[0].asked.empty()
        starters[0].over.set()
        assert await asyncio.gather(*lists[2:]) == [{"variants": []}] * 2
        assert [starters[0].asked.get_nowait() for _ in range(2)] == ["org/c", "org/d"]
        assert starters[0].asked.empty()


async def test_a_defect_at_the_first_look_does_not_end_the_following(
    library: Path, hub: ModelHub
) -> None:
    await asyncio.to_thread(stopped, library, hub)
    has_looked = asyncio.Event()

    def listener(_status: JobStatus) -> None:
        if not has_looked.is_set():
            has_looked.set()
            raise RuntimeError("a defect")

    async with owner(library, hub, "second", listener=listener) as downloads:
        async with asyncio.timeout(PATIENCE_S):
            await has_looked.wait()
        await downloads.resume(SOURCE.job_id)
        await until(downloads, lambda status: status.state == "done")
