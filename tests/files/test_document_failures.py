"""The durable document when system calls fail, disks are full and writers are killed."""

import errno
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from magid.errors import CannotWrite
from magid.files.atomic import REAL, FileSystem
from magid.files.document import Loaded, Store
from tests.support.deadlines import DEADLINE_S
from tests.support.documents import accept, load, names, saved

_REPOSITORY = Path(__file__).resolve().parents[2]


# -- failing system calls ------------------------------------------------------------------------


class _Crash(BaseException):
    """The process is gone: no handler gets to do anything any more."""


def _breaking(at: int, failure: Callable[[], BaseException], *, last: int = 0) -> FileSystem:
    """The real system, whose calls number `at` up to `last` (counted from 1) fail."""
    count = 0

    def wrap(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            nonlocal count
            count += 1
            if at <= count <= max(at, last):
                if call is os.close:
                    call(*arguments)  # a failed close has closed the file
                raise failure()
            return call(*arguments)

        return counted

    changes: dict[str, Any] = {
        name: wrap(getattr(REAL, name)) for name in FileSystem.__struct_fields__
    }
    return replace(REAL, **changes)


def _calls_of_a_save() -> int:
    # temporary: open write fsync close; copy: unlink link rename*5; rename; sync: open fsync close
    return 4 + 7 + 1 + 3


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize("at", range(1, _calls_of_a_save() + 1))
def test_what_a_failing_call_refused_does_not_come_back(path: Path, at: int, number: int) -> None:
    saved(path, *range(1, 8))
    files = _breaking(at, lambda: OSError(number, os.strerror(number)))
    store = Store(path, ballast_bytes=0, files=files)
    store.load(accept)
    try:
        acknowledged = store.save({"n": 8}) == 8
    except CannotWrite as error:
        assert os.strerror(number) in error.message  # noqa: PT017  # either outcome is right
        acknowledged = False
    loaded = load(path)
    assert loaded.value == (8 if acknowledged else 7)
    assert loaded.problems == ()
    assert not any("tmp" in name for name in names(path))
    assert store.save({"n": 9}) == 9
    assert load(path) == Loaded(9, 9, ())


@pytest.mark.parametrize("at", range(1, 9))
def test_a_first_document_that_was_refused_does_not_come_back(path: Path, at: int) -> None:
    store = Store(path, ballast_bytes=0, files=_breaking(at, lambda: OSError(errno.EIO, "no")))
    try:
        store.save({"n": 1})
    except CannotWrite:
        assert load(path).value is None
    else:
        assert at == 8, "of the eight calls the last one is none"
        assert load(path).value == 1


@pytest.mark.parametrize("at", range(1, _calls_of_a_save() + 1))
def test_a_crash_at_each_call_leaves_the_old_or_the_new(path: Path, at: int) -> None:
    saved(path, *range(1, 8))
    store = Store(path, ballast_bytes=0, files=_breaking(at, _Crash, last=10_000))
    store.load(accept)
    with pytest.raises(_Crash):
        store.save({"n": 8})
    del store
    loaded = load(path)
    assert loaded.value in (7, 8)
    assert loaded.problems == ()
    assert not any("tmp" in name for name in names(path))
    path.write_text("{")  # what a crash left as copies is good too
    assert load(path).value in (6, 7)


def test_the_number_of_calls_is_what_the_tests_above_take_it_for(path: Path) -> None:
    saved(path, *range(1, 8))
    within = Store(path, ballast_bytes=0, files=_breaking(_calls_of_a_save(), _Crash))
    with pytest.raises(_Crash):
        within.save({"n": 8})
    beyond = Store(path, ballast_bytes=0, files=_breaking(_calls_of_a_save() + 1, _Crash))
    beyond.save({"n": 9})


def test_interrupted_and_short_writes_go_on(path: Path) -> None:
    interruptions = iter([True, False] * 10_000)

    def write(descriptor: int, content: bytes | memoryview) -> int:
        if next(interruptions):
            raise InterruptedError
        return os.write(descriptor, content[:3])

    store = Store(path, ballast_bytes=0, files=replace(REAL, write=write))
    store.save({"n": 1})
    assert load(path) == Loaded(1, 1, ())


def test_failing_saves_do_not_push_good_copies_out(path: Path) -> None:
    saved(path, *range(1, 8))

    def rename(old: Path, new: Path) -> None:
        if new == path:
            raise OSError(errno.EIO, "Input/output error")
        old.rename(new)

    store = Store(path, ballast_bytes=0, files=replace(REAL, rename=rename))
    for _ in range(10):
        with pytest.raises(CannotWrite):
            store.save({"n": 99})
    kept = [json.loads(Path(f"{path}.{n}").read_text())["registry"]["n"] for n in range(1, 6)]
    assert kept == [7, 6, 5, 4, 3]  # the present one once, not ten times


def test_without_hard_links_copies_are_made(path: Path) -> None:
    def link(_old: Path, _new: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    store = Store(path, ballast_bytes=0, files=replace(REAL, link=link))
    for number in (1, 2, 3):
        store.save({"n": number})
    assert json.loads(Path(f"{path}.2").read_text())["registry"]["n"] == 1
    assert names(path) == ["", ".1", ".2"]


def test_a_bad_file_that_cannot_be_moved_never_becomes_a_copy(path: Path) -> None:
    saved(path, 1, 2)
    path.write_text("{")

    busy = [True]

    def rename(old: Path, new: Path) -> None:
        if busy[0]:
            raise OSError(errno.EBUSY, "Device or resource busy")
        old.rename(new)

    store = Store(path, ballast_bytes=0, files=replace(REAL, rename=rename))
    loaded = store.load(accept)
    assert loaded.value == 1
    assert "it could not be renamed (Device or resource busy)" in loaded.problems[0]
    busy[0] = False
    store.save({"n": 3})
    assert load(path).value == 3
    assert json.loads(Path(f"{path}.1").read_text())["registry"]["n"] == 1


# -- full and read-only disks --------------------------------------------------------------------


def _small_disk(folder: Path, capacity: list[int]) -> FileSystem:
    """The real system with room for `capacity[0]` bytes in this folder."""

    def write(descriptor: int, content: bytes | memoryview) -> int:
        sizes = {s.st_ino: s.st_size for s in map(Path.stat, folder.iterdir())}
        room = capacity[0] - sum(sizes.values())
        if room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.write(descriptor, content[:room])

    return replace(REAL, write=write)


def test_a_full_disk_takes_one_more_change(path: Path) -> None:
    capacity = [100_000]
    files = _small_disk(path.parent, capacity)
    store = Store(path, generations=1, ballast_bytes=4096, files=files)
    store.load(accept)
    store.save({"n": 1})
    assert ".ballast" in names(path)

    capacity[0] = sum(p.stat().st_size for p in path.parent.iterdir()) + 10  # full from here on
    assert store.save({"n": 2, "fill": "x" * 2000}) == 2
    assert ".ballast" not in names(path)
    with pytest.raises(CannotWrite, match="No space left on device; free some space") as caught:
        store.save({"n": 3, "fill": "x" * 8000})
    assert caught.value.details == {"path": str(path), "errno": "ENOSPC"}
    assert load(path) == Loaded(2, 2, ())
    assert not any("tmp" in name for name in names(path))

    capacity[0] = 100_000
    assert store.save({"n": 4}) == 4
    assert ".ballast" in names(path)


_LIMITED = """
import resource, sys
from pathlib import Path
from magid.errors import CannotWrite
from magid.files.document import Store
store = Store(Path(sys.argv[1]), ballast_bytes=0)
store.load(lambda document: document)
store.save({"n": 1})
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    store.save({"n": 2, "fill": "x" * 10_000})
except CannotWrite as error:
    print(error.details["errno"])
print(store.save({"n": 3}))
"""


def test_a_write_that_the_kernel_refuses_half_way(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED, str(path)],
        cwd=_REPOSITORY,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    )
    assert done.stdout.split() == ["EFBIG", "3"]
    assert load(path) == Loaded(3, 3, ())
    assert names(path) == ["", ".1"]


@pytest.mark.parametrize("folder", ["/proc", "/dev/null", "/nowhere/at/all"])
def test_a_place_that_takes_no_files(folder: str) -> None:
    with pytest.raises(CannotWrite, match=rf"^cannot write {folder}/x\.json: [A-Z].*; \w+"):
        Store(Path(folder) / "x.json").save({"n": 1})


# -- kill -9 -------------------------------------------------------------------------------------

_WRITER = """
import sys
from pathlib import Path
from magid.files.document import Store; from magid.files.lock import lock
path = Path(sys.argv[1])
held = lock(path.parent)
store = Store(path, ballast_bytes=0)
n = store.load(lambda document: document["n"]).value or 0
while True:
    n += 1
    revision = store.save({"n": n, "fill": "x" * (n * 997 % 30_000)})
    print(revision, n, flush=True)
"""


@pytest.mark.slow
def test_kill_9_loses_nothing_that_was_acknowledged(path: Path) -> None:
    dice = random.Random(2)
    for _ in range(30):
        acknowledged = _write_until_killed(path, dice)
        loaded = load(path)
        assert loaded.problems == ()
        assert (loaded.revision, loaded.value) >= acknowledged
        assert not any("tmp" in name for name in names(path))


def _write_until_killed(path: Path, dice: random.Random) -> tuple[int, int]:
    """The last acknowledged (revision, number) of a writer killed at some moment."""
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(path)],
        cwd=_REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    ) as writer:
        assert writer.stdout is not None
        try:
            lines = [writer.stdout.readline() for _ in range(dice.randint(1, 10))]
            time.sleep(dice.uniform(0, 0.01))  # waits for nothing: the kill comes at any moment
        finally:
            writer.kill()
        lines += writer.stdout.readlines()
    revision, number = next(line for line in reversed(lines) if line.endswith("\n")).split()
    return int(revision), int(number)
