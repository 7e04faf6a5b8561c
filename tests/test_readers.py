"""Headers read in processes of their own: the same readings, and an end in any case."""

import os
from contextlib import closing
from pathlib import Path

import psutil

from magid.headercache import Unusable, read_facts
from magid.readers import read_all
from tests import ggufs

MANY = 40


def paths_in(folder: Path) -> list[str]:
    """Models, a broken file, and one that is not there, under names that need escaping."""
    whole = ggufs.write_chat_model(folder / 'a\n"ä.gguf')
    paths = [str(whole)] * (MANY - 2)
    broken = folder / "broken.gguf"
    broken.write_bytes(whole.read_bytes()[:1000])
    return [*paths, str(broken), str(folder / "missing.gguf")]


def readers_of_this_process() -> list[psutil.Process]:
    """Also those that have ended and are not collected yet."""
    return [child for child in psutil.Process().children() if is_reader(child)]


def is_reader(child: psutil.Process) -> bool:
    try:
        return "magid.readers" in child.cmdline()
    except psutil.ZombieProcess:
        return True


def test_the_readings_are_those_of_this_process_in_order(tmp_path: Path) -> None:
    paths = paths_in(tmp_path)
    paths = [*paths[20:], *paths[:20]]
    assert list(read_all(paths)) == [read_facts(path) for path in paths]
    assert not readers_of_this_process()


def test_few_files_need_no_process(tmp_path: Path) -> None:
    paths = paths_in(tmp_path)[-3:]
    with closing(read_all(paths)) as readings:
        assert next(readings) == read_facts(paths[0])
        assert not readers_of_this_process()


def test_a_reader_that_is_killed_leaves_the_rest_for_the_next_time(tmp_path: Path) -> None:
    model = str(ggufs.write_chat_model(tmp_path / "x.gguf"))
    readings = read_all([model] * MANY * 200)  # more than a pipe holds
    assert next(readings) == read_facts(model)
    for process in readers_of_this_process():
        os.kill(process.pid, 9)
    rest = list(readings)
    assert len(rest) == MANY * 200 - 1
    assert rest[-1] == Unusable("cannot be read: its reader ended", is_lasting=False)
    assert not readers_of_this_process()


def test_closing_ends_the_processes(tmp_path: Path) -> None:
    with closing(read_all(paths_in(tmp_path))) as readings:
        next(readings)
        assert readers_of_this_process()
    assert not readers_of_this_process()
