"""A model folder that hangs, as the launcher meets it."""

import time
from contextlib import closing, suppress
from pathlib import Path

import psutil
import pytest
from msgspec import structs

from magid.errors import (
    LlamaServerMissing,
    MagidError,
    ServerFailed,
)
from magid.launcher.model_files import (
    Examiner,
    examine,
)
from magid.launcher.policy import authorize, covers
from magid.llama.program_search import ProgramSearch
from tests.support.deadlines import DEADLINE_S
from tests.support.launcher_house import House
from tests.support.mounts import mounted


def test_only_the_folder_of_that_file_is_waited_for(house: House, tmp_path: Path) -> None:
    net = tmp_path / "data" / "net"
    net.mkdir(parents=True)
    (net / "b.gguf").write_bytes(b"GGUF")
    settings = structs.replace(house.settings, model_paths=(net, house.models))
    with mounted(net) as mount, closing(Examiner(late_s=1.0)) as examiner:
        before = authorize(house.order(), settings, examiner)
        assert before.roots == (str(house.models), str(net))
        mount.hang()
        during = authorize(house.order(), settings, examiner)
        assert during.files == before.files
        assert during.roots == (str(house.models), str(net.parent)), "hidden by what it is in"
        with pytest.raises(ServerFailed, match=r"b\.gguf: /.*/net does not answer"):
            authorize(house.order(model_path=f"{net}/b.gguf"), settings, examiner)
        assert len(stuck()) == 1, "those behind it wait for the one that waits already"
        mount.thaw()
        deadline = time.monotonic() + 60
        while authorize(house.order(), settings, examiner).roots != before.roots:
            assert time.monotonic() < deadline


def test_a_program_on_a_mount_that_hangs(house: House, tmp_path: Path) -> None:
    net = tmp_path / "net"
    net.mkdir()
    house.program.rename(net / "llama-server")
    house.program.symlink_to(net / "llama-server")
    with mounted(net) as mount, closing(ProgramSearch(late_s=1.0)) as programs:
        before = authorize(house.order(), house.settings, find=programs.find)
        assert before.argv[0] == str(house.program)
        assert str(net) in before.program_folders
        mount.hang()
        with pytest.raises(LlamaServerMissing, match=rf"{net} does not answer"):
            authorize(house.order(), house.settings, find=programs.find)
        mount.thaw()
        deadline = time.monotonic() + DEADLINE_S
        while not is_found(programs, house):
            assert time.monotonic() < deadline


def is_found(programs: ProgramSearch, house: House) -> bool:
    with suppress(LlamaServerMissing):
        authorize(house.order(), house.settings, find=programs.find)
        return True
    return False


def stuck() -> list[psutil.Process]:
    waiting = (psutil.STATUS_DISK_SLEEP, psutil.STATUS_SLEEPING)
    living = [child for child in psutil.Process().children() if child.status() in waiting]
    return [child for child in living if "magid.launcher.model_files" in " ".join(child.cmdline())]


@pytest.mark.parametrize(
    ("points", "root", "hidden"),
    [
        (["/", "/data/nas"], "/data/nas/models", ("/data",)),
        (["/", "/data", "/data/nas"], "/data/nas", ("/data",)),
        (["/", "/nas"], "/nas/models", ()),  # the whole system is beside it
        (["/", "/usr/nas"], "/usr/nas", ()),
        (["/", "/opt/nas"], "/opt/nas", ()),  # llama-server is there
    ],
)
def test_what_hides_a_folder_that_hangs(
    points: list[str], root: str, hidden: tuple[str, ...]
) -> None:
    assert covers([root], points, ["/opt/llama.cpp"]) == hidden


def test_examining_in_a_worker_says_the_same(house: House) -> None:
    with closing(Examiner()) as examiner:
        for name in ("a.gguf", "notes.txt", "link.gguf", "pipe.gguf", "none.gguf"):
            path = str(house.models / name)
            told = []
            for look in (examine, examiner):
                try:
                    told.append(repr(look([path], house.settings.model_paths)))
                except MagidError as error:
                    told.append(repr((error.code, error.message)))
            assert told[0] == told[1]
