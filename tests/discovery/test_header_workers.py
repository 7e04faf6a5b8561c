"""Headers read in processes of their own: the same readings, and an end in any case."""

import os
import resource
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import pytest

from magid.discovery.header_cache import Reading, Unusable, read_facts
from magid.discovery.roots import Roots
from magid.discovery.scanner import Scanner
from magid.discovery.tiers import Thresholds
from magid.discovery.walker import File
from magid.errors import RescanFailed
from tests.support import ggufs
from tests.support.scanning import names

MANY = 40


def write_files(folder: Path, count: int) -> None:
    """Models, and a broken file, under names that need escaping."""
    whole = ggufs.write_chat_model(folder / 'a\n"ä.gguf')
    (folder / "broken.gguf").write_bytes(whole.read_bytes()[:1000])
    for number in range(count - 2):
        (folder / f"x{number}.gguf").write_bytes(whole.read_bytes())


def readers_of_this_process() -> list[psutil.Process]:
    """Also those that have ended and are not collected yet."""
    return [child for child in psutil.Process().children() if is_reader(child)]


def is_reader(child: psutil.Process) -> bool:
    try:
        return "magid.discovery.header_workers" in child.cmdline()
    except psutil.ZombieProcess:
        return True


def read(roots: Roots, files: list[File]) -> list[Reading]:
    with closing(roots.read(files)) as readings:
        return [reading for _, reading in readings]


@pytest.mark.parametrize("count", [3, MANY])
def test_the_readings_are_those_of_this_process_in_order(tmp_path: Path, count: int) -> None:
    write_files(tmp_path, count)
    with closing(Roots([tmp_path])) as roots:
        files = roots.listing().files
        files.append(File(f"{tmp_path}/missing.gguf", f"{tmp_path}/missing.gguf", (0, 0, 0, 0, 0)))
        assert len(files) == count + 1
        assert read(roots, files) == [read_facts(file.path) for file in files]
    assert not readers_of_this_process()


def test_a_reader_that_is_killed_leaves_the_rest_for_the_next_time(tmp_path: Path) -> None:
    path = str(ggufs.write_chat_model(tmp_path / "x.gguf"))
    with closing(Roots([tmp_path])) as roots:
        (file,) = roots.listing().files
        readings = roots.read([file] * MANY * 200)  # more than a pipe holds
        assert next(readings) == (file, read_facts(path))
        for process in readers_of_this_process():
            os.kill(process.pid, 9)
        rest = [reading for _, reading in readings]
        assert len(rest) == MANY * 200 - 1
        assert rest[-1] == Unusable("cannot be read: its reader ended", is_lasting=False)
        assert len(roots.listing().files) == 1, "another one takes its place"
    assert not readers_of_this_process()


def test_closing_early_ends_the_processes_and_mixes_nothing_up(tmp_path: Path) -> None:
    write_files(tmp_path, 4)
    with closing(Roots([tmp_path])) as roots:
        files = roots.listing().files
        with closing(roots.read(files)) as readings:
            next(readings)
            assert readers_of_this_process()
        assert read(roots, files) == [read_facts(file.path) for file in files]
    assert not readers_of_this_process()


@contextmanager
def limited(which: int, soft: int) -> Iterator[None]:
    before = resource.getrlimit(which)
    resource.setrlimit(which, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(which, before)


def test_without_descriptors_it_is_refused_and_works_later(tmp_path: Path) -> None:
    ggufs.write_chat_model(tmp_path / "a-1B-F32.gguf")
    with closing(Scanner([tmp_path], Thresholds(), None)) as scanner:
        few = len(list(Path("/proc/self/fd").iterdir())) - 1
        refused = pytest.raises(RescanFailed, match="limit of open files")
        with limited(resource.RLIMIT_NOFILE, few), refused:
            scanner.scan()
        assert names(scanner.scan()) == ["a-1B-F32.gguf"]


def test_no_temporary_file_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path, MANY)
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")  # full, read-only or gone
    with closing(Scanner([tmp_path], Thresholds(), None)) as scanner:
        assert len(scanner.scan().models) == MANY - 1
