"""The durable document: no crash, bad file or full disk loses what was acknowledged."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from magid import __version__
from magid.errors import CannotWrite
from magid.files.document import Loaded, Store
from tests.support.documents import accept, load, names, saved

# -- the ordinary course -------------------------------------------------------------------------


def test_nothing_yet(path: Path) -> None:
    assert load(path) == Loaded(None, 0, ())
    assert names(path) == []


def test_what_is_saved_comes_back(path: Path) -> None:
    store = Store(path)
    assert store.load(accept).value is None
    assert [store.save({"n": number}) for number in (7, 8)] == [1, 2]
    assert load(path) == Loaded(8, 2, ())
    assert Store(path).load(lambda document: document).value == {"n": 8}
    assert path.stat().st_mode & 0o777 == 0o640


def test_the_file_is_for_people_too(path: Path) -> None:
    saved(path, 7)
    text = path.read_text(encoding="utf-8")
    assert text.endswith('  "registry": {\n    "n": 7\n  }\n}\n')
    document = json.loads(text)
    assert (document["format"], document["revision"]) == (1, 1)
    assert document["writtenBy"] == f"magid {__version__}"


def test_the_last_documents_are_kept(path: Path) -> None:
    saved(path, *range(1, 9))
    kept = [path, *(Path(f"{path}.{n}") for n in range(1, 6))]
    assert [json.loads(p.read_text())["registry"]["n"] for p in kept] == [8, 7, 6, 5, 4, 3]
    assert names(path) == ["", ".1", ".2", ".3", ".4", ".5"]


def test_numbers_go_on_after_a_restart(path: Path) -> None:
    saved(path, 1, 2)
    store = Store(path, ballast_bytes=0)
    store.load(accept)
    assert store.save({"n": 3}) == 3


def test_a_link_stays_a_link(path: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    path.symlink_to(elsewhere / "real.json")
    saved(path, 1, 2)
    assert path.is_symlink()
    assert load(elsewhere / "real.json").value == 2
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
    store = saved(path, 1)
    with pytest.raises(CannotWrite, match=r"^cannot write .* it cannot be put into JSON"):
        store.save(payload)
    assert load(path) == Loaded(1, 1, ())
    assert store.save({"n": 2}) == 3  # a number is never used again


def test_leftovers_of_a_killed_writer_go(path: Path) -> None:
    saved(path, 1)
    for name in (".model_registry.json.99.abcd.tmp", ".model_registry.json.tmp"):
        path.with_name(name).write_text("{")
    path.with_name(".model_registry.jsonish.99.abcd.tmp").write_text("not ours")
    assert load(path).value == 1
    assert names(path) == ["", ".model_registry.jsonish.99.abcd.tmp"]


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
    saved(path, 1, 2)
    path.write_bytes(content)
    store = Store(path, ballast_bytes=0)
    loaded = store.load(accept)
    assert loaded.value == 1
    assert loaded.revision > 2
    first, second = loaded.problems
    assert first.startswith(f"cannot use {path}: ")
    assert reason in first
    assert second == f"using the copy {path}.1 of revision 1 instead"
    assert names(path) == [".1", ".corrupt-*"]
    aside = next(path.parent.glob("*.corrupt-*"))
    assert aside.read_bytes() == content
    assert aside.name in first
    assert store.save({"n": 3}) > loaded.revision
    assert load(path).value == 3
    assert names(path) == ["", ".1", ".corrupt-*"]


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
    store = saved(path, 1, 2)
    path.unlink()
    make(path)
    loaded = store.load(accept)
    assert loaded.value == 1
    assert reason in loaded.problems[0]
    store.save({"n": 3})
    assert load(path).value == 3


def test_a_folder_that_comes_later_is_not_written_over(path: Path) -> None:
    store = saved(path, 1)
    path.unlink()
    (path / "kept").mkdir(parents=True)
    with pytest.raises(CannotWrite, match="a folder has this name: move it away"):
        store.save({"n": 2})
    assert names(path) == [""]


def test_all_copies_bad(path: Path) -> None:
    saved(path, 1, 2, 3)
    for copy in path.parent.iterdir():
        copy.write_text("{")
    loaded = load(path)
    assert loaded.value is None
    assert len(loaded.problems) == 4
    assert loaded.problems[-1] == f"cannot find a good copy of {path}; starting without one"
    assert names(path) == [".corrupt-*"] * 3


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
    loaded = store.load(accept)
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
    again = Store(path, generations=10, ballast_bytes=0).load(accept)
    assert (again.value, again.problems) == (50, ())
    assert _aside(path) == sorted(spoilt)


def test_of_ten_generations_none_is_sound(path: Path) -> None:
    generations = _generations(path)
    spoilt = _spoil(generations)
    store = Store(path, generations=10, ballast_bytes=0)
    loaded = store.load(accept)
    assert loaded.value is None
    assert len(loaded.problems) == 12
    assert loaded.problems[-1] == f"cannot find a good copy of {path}; starting without one"
    assert names(path) == [".corrupt-*"] * 11 + ["notes.txt"]
    assert _aside(path) == sorted(spoilt)
    said = " ".join(loaded.problems)
    assert all(name.name in said for name in path.parent.glob("*.corrupt-*"))
    store.save({"n": 50})
    assert load(path).value == 50


def test_all_files_of_one_accident_are_kept_and_earlier_ones_go(path: Path) -> None:
    store = Store(path, ballast_bytes=0)
    earlier = [path.with_name(f"{path.name}.corrupt-20200101T00000{n}Z-0000") for n in range(5)]
    for old in earlier:
        old.write_text("old")
    store.save({"n": 1})
    path.write_text("{")
    store.load(accept)
    assert [old.exists() for old in earlier] == [False, True, True, True, True]
    for number in range(2, 8):
        store.save({"n": number})
    spoilt = _spoil([path, *(path.with_name(f"{path.name}.{n}") for n in range(1, 6))])
    assert store.load(accept).value is None
    assert _aside(path) == sorted(spoilt)


def test_a_removed_file_is_replaced_by_its_copy(path: Path) -> None:
    saved(path, 1, 2)
    path.unlink()
    loaded = load(path)
    assert loaded.value == 1
    assert loaded.problems == (f"using the copy {path}.1 of revision 1 instead",)


def test_only_the_newest_bad_files_are_kept(path: Path) -> None:
    store = Store(path, ballast_bytes=0)
    for _ in range(8):
        store.save({"n": 1})
        path.write_text("{")
        store.load(accept)
    assert names(path).count(".corrupt-*") == 5


def test_truncation_at_every_length(path: Path) -> None:
    saved(path, 1, 2)
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        assert load(path).value == (2 if length == len(content) - 1 else 1)


@pytest.mark.parametrize("mask", [0x01, 0x04, 0x20, 0x80])
def test_a_changed_byte_never_passes_in_silence(path: Path, mask: int) -> None:
    saved(path, 1, 2)
    content = path.read_bytes()
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= mask
        path.write_bytes(changed)
        try:
            loaded = load(path)
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
    store = saved(path, 1, 2)
    path.write_text(path.read_text().replace('"n": 2', '"n": 20'))
    loaded = store.load(accept)
    assert (loaded.value, loaded.revision) == (20, 3)
    assert loaded.problems == (
        f"{path} was edited by hand: its checksum is wrong; using it as it is",
    )
    assert store.save({"n": 21}) == 4
    assert load(path) == Loaded(21, 4, ())


def test_another_layout_is_no_edit(path: Path) -> None:
    saved(path, 1)
    document = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(document.items()))))
    assert load(path) == Loaded(1, 1, ())


@pytest.mark.parametrize("name", ["", ".1"])
def test_a_newer_format_is_left_alone(path: Path, name: str) -> None:
    saved(path, 1, 2)
    newer = path.with_name(path.name + name)
    document = json.loads(newer.read_text()) | {"format": 2, "writtenBy": "magid 9.0"}
    newer.write_text(json.dumps(document))
    if name:
        path.unlink()
    before = {p.name: p.read_bytes() for p in path.parent.iterdir()}
    with pytest.raises(CannotWrite, match=r"it has format 2, written by magid 9\.0, and this"):
        load(path)
    assert {p.name: p.read_bytes() for p in path.parent.iterdir()} == before


def test_a_file_that_cannot_be_reached_is_not_taken_for_absent(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotWrite, match=r"cannot read .*: Not a directory"):
        load(tmp_path / "file" / "model_registry.json")


def test_a_defect_of_the_caller_costs_nothing(path: Path) -> None:
    saved(path, 1)

    def broken(_: Any) -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Store(path, ballast_bytes=0).load(broken)
    assert load(path) == Loaded(1, 1, ())
