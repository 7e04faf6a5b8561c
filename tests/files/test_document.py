"""The durable document: no crash, bad file or full disk loses what was acknowledged."""

import errno
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from magid import __version__
from magid.errors import AlreadyRunning, CannotWrite
from magid.files.atomic import REAL, FileSystem
from magid.files.document import Loaded, Store
from magid.files.lock import lock
from tests.support.deadlines import DEADLINE_S

_REPOSITORY = Path(__file__).resolve().parents[2]


def _accept(document: Any) -> int:
    """The tests' documents are {"n": number}, at times with ballast."""
    if not isinstance(document, dict) or type(document.get("n")) is not int:
        raise ValueError("n: has to be a whole number")
    return int(document["n"])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model_registry.json"


def _load(path: Path) -> Loaded[int]:
    return Store(path, ballast_bytes=0).load(_accept)


def _saved(path: Path, *numbers: int) -> Store:
    store = Store(path, ballast_bytes=0)
    for number in numbers:
        store.save({"n": number})
    return store


def _names(path: Path) -> list[str]:
    """What lies around the document, in short: "", ".1", ".corrupt-*", and temporary files."""
    names = (entry.name.removeprefix(path.name) for entry in path.parent.iterdir())
    return sorted(re.sub(r"corrupt-.*", "corrupt-*", name) for name in names)


# -- the ordinary course -------------------------------------------------------------------------


def test_nothing_yet(path: Path) -> None:
    assert _load(path) == Loaded(None, 0, ())
    assert _names(path) == []


def test_what_is_saved_comes_back(path: Path) -> None:
    store = Store(path)
    assert store.load(_accept).value is None
    assert [store.save({"n": number}) for number in (7, 8)] == [1, 2]
    assert _load(path) == Loaded(8, 2, ())
    assert Store(path).load(lambda document: document).value == {"n": 8}
    assert path.stat().st_mode & 0o777 == 0o640


def test_the_file_is_for_people_too(path: Path) -> None:
    _saved(path, 7)
    text = path.read_text(encoding="utf-8")
    assert text.endswith('  "registry": {\n    "n": 7\n  }\n}\n')
    document = json.loads(text)
    assert (document["format"], document["revision"]) == (1, 1)
    assert document["writtenBy"] == f"magid {__version__}"


def test_the_last_documents_are_kept(path: Path) -> None:
    _saved(path, *range(1, 9))
    kept = [path, *(Path(f"{path}.{n}") for n in range(1, 6))]
    assert [json.loads(p.read_text())["registry"]["n"] for p in kept] == [8, 7, 6, 5, 4, 3]
    assert _names(path) == ["", ".1", ".2", ".3", ".4", ".5"]


def test_numbers_go_on_after_a_restart(path: Path) -> None:
    _saved(path, 1, 2)
    store = Store(path, ballast_bytes=0)
    store.load(_accept)
    assert store.save({"n": 3}) == 3


def test_a_link_stays_a_link(path: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    path.symlink_to(elsewhere / "real.json")
    _saved(path, 1, 2)
    assert path.is_symlink()
    assert _load(elsewhere / "real.json").value == 2
    assert sorted(p.name for p in elsewhere.iterdir()) == ["real.json", "real.json.1"]


@pytest.mark.parametrize(
    "payload",
    [
        {"n": math.nan},
        {"n": math.inf},
        {"n": object()},
        {"n": {1}},
        {1: "n"},
        {"n": 1, 2: 3},
        {"n": (1, 2)},
        {"n": "\ud800"},
    ],
)
def test_what_json_cannot_keep_is_refused(path: Path, payload: Any) -> None:
    store = _saved(path, 1)
    with pytest.raises(CannotWrite, match=r"^cannot write .* it cannot be put into JSON"):
        store.save(payload)
    assert _load(path) == Loaded(1, 1, ())
    assert store.save({"n": 2}) == 3  # a number is never used again


def test_leftovers_of_a_killed_writer_go(path: Path) -> None:
    _saved(path, 1)
    for name in (".model_registry.json.99.abcd.tmp", ".model_registry.json.tmp"):
        path.with_name(name).write_text("{")
    path.with_name(".model_registry.jsonish.99.abcd.tmp").write_text("not ours")
    assert _load(path).value == 1
    assert _names(path) == ["", ".model_registry.jsonish.99.abcd.tmp"]


# -- bad files -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is not valid JSON"),
        (b"{", "it is not valid JSON"),
        (b"\xff\xfe", "it is not valid JSON"),
        (b"\0" * 300, "it is not valid JSON"),
        (b"[" * 100_000, "it is not valid JSON"),
        (b"9" * 5000, "it is not valid JSON"),
        (b"[]", "it has no format number"),
        (b"{}", "it has no format number"),
        (b'{"format": "1"}', "it has no format number"),
        (b'{"format": 1}', "its revision or content is missing"),
        (b'{"format": 1, "revision": 3}', "its revision or content is missing"),
        (b'{"format": 1, "revision": -1, "registry": {"n": 1}}', "its revision or content is"),
        (b'{"format": 1, "revision": true, "registry": {"n": 1}}', "its revision or content is"),
        (b'{"format": 1, "format": 1}', "it is not valid JSON: a key is given twice"),
        (b'{"format": 1, "revision": 3, "registry": {"n": NaN}}', "NaN is not a number"),
        (b'{"format": 1, "revision": 3, "registry": {"n": "7"}}', "n: has to be a whole number"),
    ],
)
def test_a_bad_file_is_set_aside_and_the_last_good_one_taken(
    path: Path, content: bytes, reason: str
) -> None:
    _saved(path, 1, 2)
    path.write_bytes(content)
    store = Store(path, ballast_bytes=0)
    loaded = store.load(_accept)
    assert loaded.value == 1
    assert loaded.revision > 2
    first, second = loaded.problems
    assert first.startswith(f"cannot use {path}: ")
    assert reason in first
    assert second == f"using the copy {path}.1 of revision 1 instead"
    assert _names(path) == [".1", ".corrupt-*"]
    aside = next(path.parent.glob("*.corrupt-*"))
    assert aside.read_bytes() == content
    assert aside.name in first
    assert store.save({"n": 3}) > loaded.revision
    assert _load(path).value == 3
    assert _names(path) == ["", ".1", ".corrupt-*"]


def _make_fifo(path: Path) -> None:
    os.mkfifo(path)


def _make_large(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**40)  # a hole


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Path.mkdir, "it is not a regular file"),
        (_make_fifo, "it is not a regular file"),
        (_make_large, "it is larger than 67108864 bytes"),
    ],
)
def test_something_else_in_its_place(path: Path, make: Callable[[Path], None], reason: str) -> None:
    store = _saved(path, 1, 2)
    path.unlink()
    make(path)
    loaded = store.load(_accept)
    assert loaded.value == 1
    assert reason in loaded.problems[0]
    store.save({"n": 3})
    assert _load(path).value == 3


def test_a_folder_that_comes_later_is_not_written_over(path: Path) -> None:
    store = _saved(path, 1)
    path.unlink()
    (path / "kept").mkdir(parents=True)
    with pytest.raises(CannotWrite, match="a folder has this name: move it away"):
        store.save({"n": 2})
    assert _names(path) == [""]


def test_all_copies_bad(path: Path) -> None:
    _saved(path, 1, 2, 3)
    for copy in path.parent.iterdir():
        copy.write_text("{")
    loaded = _load(path)
    assert loaded.value is None
    assert len(loaded.problems) == 4
    assert loaded.problems[-1] == f"cannot find a good copy of {path}; starting without one"
    assert _names(path) == [".corrupt-*"] * 3


# Ten ways in which a document can be spoilt, each with what is said of it.
_SPOILT: tuple[tuple[Callable[[bytes], bytes], str], ...] = (
    (lambda _: b"", "it is not valid JSON"),
    (lambda good: good[: len(good) // 2], "it is not valid JSON"),
    (lambda good: bytes(len(good)), "it is not valid JSON"),  # as XFS leaves it after a power cut
    (lambda good: good[:50] + b"\xff" + good[50:], "it is not valid JSON"),
    (lambda good: good + good, "it is not valid JSON"),
    (lambda good: b"[" * 100_000 + good, "it is not valid JSON"),
    (lambda good: good.replace(b'"registry"', b'"revision"'), "a key is given twice"),
    (lambda good: good.replace(b'"format": 1', b'"format": "1"'), "it has no format number"),
    (lambda good: good.replace(b'"registry"', b'"register"'), "its revision or content is missing"),
    (lambda good: good.replace(b'"n":', b'"m":'), "n: has to be a whole number"),
)


def _generations(path: Path) -> list[Path]:
    """A document and its ten copies, the newest first; each one a number less: 11 to 1."""
    store = Store(path, generations=10, ballast_bytes=0)
    for number in range(1, 12):
        store.save({"n": number})
    (path.parent / "notes.txt").write_text("not ours")
    return [path, *(path.with_name(f"{path.name}.{n}") for n in range(1, 11))]


def _spoil(paths: list[Path]) -> list[bytes]:
    """One after another in another way; what they hold now."""
    for number, path in enumerate(paths):
        path.write_bytes(_SPOILT[number % len(_SPOILT)][0](path.read_bytes()))
    return [path.read_bytes() for path in paths]


def _aside(path: Path) -> list[bytes]:
    return sorted(found.read_bytes() for found in path.parent.glob(f"{path.name}.corrupt-*"))


@pytest.mark.parametrize("bad", range(1, 11))
def test_of_ten_generations_the_newest_sound_one_is_taken(path: Path, bad: int) -> None:
    """The `bad` newest ones are spoilt, and the oldest one where there is one below the sound."""
    generations = _generations(path)
    spoilt = _spoil(generations[:bad])
    if bad < 10:
        generations[-1].write_text("{")
    before = {name: name.read_bytes() for name in generations[bad:]}
    store = Store(path, generations=10, ballast_bytes=0)
    loaded = store.load(_accept)
    assert loaded.value == 11 - bad
    assert loaded.revision > 11, "a number that a lost document had"
    *reasons, last = loaded.problems
    assert len(reasons) == bad
    for name, reason, (_, expected) in zip(generations, reasons, _SPOILT, strict=False):
        assert reason.startswith(f"cannot use {name}: ")
        assert expected in reason
    assert last == f"using the copy {generations[bad]} of revision {11 - bad} instead"
    assert _aside(path) == sorted(spoilt), "what may be of use to a person was thrown away"
    assert {name: name.read_bytes() for name in before} == before
    assert (path.parent / "notes.txt").read_text() == "not ours"
    store.save({"n": 50})
    again = Store(path, generations=10, ballast_bytes=0).load(_accept)
    assert (again.value, again.problems) == (50, ())
    assert _aside(path) == sorted(spoilt)


def test_of_ten_generations_none_is_sound(path: Path) -> None:
    generations = _generations(path)
    spoilt = _spoil(generations)
    store = Store(path, generations=10, ballast_bytes=0)
    loaded = store.load(_accept)
    assert loaded.value is None
    assert len(loaded.problems) == 12
    assert loaded.problems[-1] == f"cannot find a good copy of {path}; starting without one"
    assert _names(path) == [".corrupt-*"] * 11 + ["notes.txt"]
    assert _aside(path) == sorted(spoilt)
    said = " ".join(loaded.problems)
    assert all(name.name in said for name in path.parent.glob("*.corrupt-*"))
    store.save({"n": 50})
    assert _load(path).value == 50


def test_all_files_of_one_accident_are_kept_and_earlier_ones_go(path: Path) -> None:
    store = Store(path, ballast_bytes=0)
    earlier = [path.with_name(f"{path.name}.corrupt-20200101T00000{n}Z-0000") for n in range(5)]
    for old in earlier:
        old.write_text("old")
    store.save({"n": 1})
    path.write_text("{")
    store.load(_accept)
    assert [old.exists() for old in earlier] == [False, True, True, True, True]
    for number in range(2, 8):
        store.save({"n": number})
    spoilt = _spoil([path, *(path.with_name(f"{path.name}.{n}") for n in range(1, 6))])
    assert store.load(_accept).value is None
    assert _aside(path) == sorted(spoilt)


def test_a_removed_file_is_replaced_by_its_copy(path: Path) -> None:
    _saved(path, 1, 2)
    path.unlink()
    loaded = _load(path)
    assert loaded.value == 1
    assert loaded.problems == (f"using the copy {path}.1 of revision 1 instead",)


def test_only_the_newest_bad_files_are_kept(path: Path) -> None:
    store = Store(path, ballast_bytes=0)
    for _ in range(8):
        store.save({"n": 1})
        path.write_text("{")
        store.load(_accept)
    assert _names(path).count(".corrupt-*") == 5


def test_truncation_at_every_length(path: Path) -> None:
    _saved(path, 1, 2)
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        assert _load(path).value == (2 if length == len(content) - 1 else 1)


@pytest.mark.parametrize("mask", [0x01, 0x04, 0x20, 0x80])
def test_a_changed_byte_never_passes_in_silence(path: Path, mask: int) -> None:
    _saved(path, 1, 2)
    content = path.read_bytes()
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= mask
        path.write_bytes(changed)
        try:
            loaded = _load(path)
        except CannotWrite as error:  # it looks like a newer format
            assert "it has format" in error.message  # noqa: PT017  # either outcome is right
            continue
        assert loaded.value is not None
        harmless = loaded.value == 2 and _is_about_the_writer(bytes(changed))
        assert loaded.problems or harmless, changed


def _is_about_the_writer(content: bytes) -> bool:
    """Whether what was changed is the note of who wrote it, or space between tokens."""
    document = json.loads(content)
    return bool(document["registry"] == {"n": 2} and document["revision"] == 2)


def test_an_edit_by_hand_is_accepted_with_a_note(path: Path) -> None:
    store = _saved(path, 1, 2)
    path.write_text(path.read_text().replace('"n": 2', '"n": 20'))
    loaded = store.load(_accept)
    assert (loaded.value, loaded.revision) == (20, 3)
    assert loaded.problems == (
        f"{path} was edited by hand: its checksum is wrong; using it as it is",
    )
    assert store.save({"n": 21}) == 4
    assert _load(path) == Loaded(21, 4, ())


def test_another_layout_is_no_edit(path: Path) -> None:
    _saved(path, 1)
    document = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(document.items()))))
    assert _load(path) == Loaded(1, 1, ())


@pytest.mark.parametrize("name", ["", ".1"])
def test_a_newer_format_is_left_alone(path: Path, name: str) -> None:
    _saved(path, 1, 2)
    newer = path.with_name(path.name + name)
    document = json.loads(newer.read_text()) | {"format": 2, "writtenBy": "magid 9.0"}
    newer.write_text(json.dumps(document))
    if name:
        path.unlink()
    before = {p.name: p.read_bytes() for p in path.parent.iterdir()}
    with pytest.raises(CannotWrite, match=r"it has format 2, written by magid 9\.0, and this"):
        _load(path)
    assert {p.name: p.read_bytes() for p in path.parent.iterdir()} == before


def test_a_file_that_cannot_be_reached_is_not_taken_for_absent(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotWrite, match=r"cannot read .*: Not a directory"):
        _load(tmp_path / "file" / "model_registry.json")


def test_a_defect_of_the_caller_costs_nothing(path: Path) -> None:
    _saved(path, 1)

    def broken(_: Any) -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Store(path, ballast_bytes=0).load(broken)
    assert _load(path) == Loaded(1, 1, ())


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
    _saved(path, *range(1, 8))
    files = _breaking(at, lambda: OSError(number, os.strerror(number)))
    store = Store(path, ballast_bytes=0, files=files)
    store.load(_accept)
    try:
        acknowledged = store.save({"n": 8}) == 8
    except CannotWrite as error:
        assert os.strerror(number) in error.message  # noqa: PT017  # either outcome is right
        acknowledged = False
    loaded = _load(path)
    assert loaded.value == (8 if acknowledged else 7)
    assert loaded.problems == ()
    assert not any("tmp" in name for name in _names(path))
    assert store.save({"n": 9}) == 9
    assert _load(path) == Loaded(9, 9, ())


@pytest.mark.parametrize("at", range(1, 9))
def test_a_first_document_that_was_refused_does_not_come_back(path: Path, at: int) -> None:
    store = Store(path, ballast_bytes=0, files=_breaking(at, lambda: OSError(errno.EIO, "no")))
    try:
        store.save({"n": 1})
    except CannotWrite:
        assert _load(path).value is None
    else:
        assert at == 8, "of the eight calls the last one is none"
        assert _load(path).value == 1


@pytest.mark.parametrize("at", range(1, _calls_of_a_save() + 1))
def test_a_crash_at_each_call_leaves_the_old_or_the_new(path: Path, at: int) -> None:
    _saved(path, *range(1, 8))
    store = Store(path, ballast_bytes=0, files=_breaking(at, _Crash, last=10_000))
    store.load(_accept)
    with pytest.raises(_Crash):
        store.save({"n": 8})
    del store
    loaded = _load(path)
    assert loaded.value in (7, 8)
    assert loaded.problems == ()
    assert not any("tmp" in name for name in _names(path))
    path.write_text("{")  # what a crash left as copies is good too
    assert _load(path).value in (6, 7)


def test_the_number_of_calls_is_what_the_tests_above_take_it_for(path: Path) -> None:
    _saved(path, *range(1, 8))
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
    assert _load(path) == Loaded(1, 1, ())


def test_failing_saves_do_not_push_good_copies_out(path: Path) -> None:
    _saved(path, *range(1, 8))

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
    assert _names(path) == ["", ".1", ".2"]


def test_a_bad_file_that_cannot_be_moved_never_becomes_a_copy(path: Path) -> None:
    _saved(path, 1, 2)
    path.write_text("{")

    busy = [True]

    def rename(old: Path, new: Path) -> None:
        if busy[0]:
            raise OSError(errno.EBUSY, "Device or resource busy")
        old.rename(new)

    store = Store(path, ballast_bytes=0, files=replace(REAL, rename=rename))
    loaded = store.load(_accept)
    assert loaded.value == 1
    assert "it could not be renamed (Device or resource busy)" in loaded.problems[0]
    busy[0] = False
    store.save({"n": 3})
    assert _load(path).value == 3
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
    store.load(_accept)
    store.save({"n": 1})
    assert ".ballast" in _names(path)

    capacity[0] = sum(p.stat().st_size for p in path.parent.iterdir()) + 10  # full from here on
    assert store.save({"n": 2, "fill": "x" * 2000}) == 2
    assert ".ballast" not in _names(path)
    with pytest.raises(CannotWrite, match="No space left on device; free some space") as caught:
        store.save({"n": 3, "fill": "x" * 8000})
    assert caught.value.details == {"path": str(path), "errno": "ENOSPC"}
    assert _load(path) == Loaded(2, 2, ())
    assert not any("tmp" in name for name in _names(path))

    capacity[0] = 100_000
    assert store.save({"n": 4}) == 4
    assert ".ballast" in _names(path)


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
    assert _load(path) == Loaded(3, 3, ())
    assert _names(path) == ["", ".1"]


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
        loaded = _load(path)
        assert loaded.problems == ()
        assert (loaded.revision, loaded.value) >= acknowledged
        assert not any("tmp" in name for name in _names(path))


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


# -- one writer ----------------------------------------------------------------------------------


def test_the_error_for_a_second_lock_names_the_first_process(tmp_path: Path) -> None:
    held = lock(tmp_path / "state" / "deep")
    with pytest.raises(AlreadyRunning, match=f"magid with pid {os.getpid()} is using it") as caught:
        lock(tmp_path / "state" / "deep")
    assert caught.value.details == {"pid": os.getpid()}
    held.release()
    held.release()
    lock(tmp_path / "state" / "deep").release()


_HOLDER = """
import subprocess, sys
from pathlib import Path
from magid.files.lock import lock
held = lock(Path(sys.argv[1]))
child = "import sys; print('held', flush=True); sys.stdin.read()"
subprocess.run([sys.executable, "-c", child], close_fds=False)
"""


def test_a_killed_holder_holds_nothing_even_if_its_child_lives_on(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(tmp_path)],
        cwd=_REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"  # says the child
        with pytest.raises(AlreadyRunning) as caught:
            lock(tmp_path)
        assert caught.value.details == {"pid": holder.pid}
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        lock(tmp_path).release()
        holder.stdin.close()  # the child was alive up to here: now it ends
        assert holder.stdout.read() == ""


def test_where_no_lock_can_be_had(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "magid.lock").symlink_to("file")
    for place in (tmp_path, tmp_path / "file", Path("/proc/magid")):
        with pytest.raises(CannotWrite, match=r"^cannot write .*magid\.lock: "):
            lock(place)
    assert (tmp_path / "file").read_text() == ""
