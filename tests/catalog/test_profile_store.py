"""The folder of profiles: reading, writing, shipped profiles, edits by hand."""

import errno
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from magid.catalog.profile import Profile, parse
from magid.catalog.profile_store import ProfileDir
from magid.errors import (
    CannotWrite,
    Conflict,
    InvalidProfile,
    ProfileExists,
    ProfileNotFound,
    StaleRevision,
    TooLarge,
)
from magid.files.atomic import REAL
from tests.support.deadlines import PATIENCE_S


@pytest.fixture
def folder(tmp_path: Path) -> ProfileDir:
    (tmp_path / "profiles").mkdir()
    return ProfileDir(tmp_path / "profiles")


def _names(folder: ProfileDir) -> list[str]:
    return sorted(path.name for path in folder.path.iterdir())


def test_create_get_replace_delete(folder: ProfileDir) -> None:
    first = Profile(name="Fast Only", description="grün: 'ja'", enabled_models=("tier:fast",))
    name, path = folder.create(first)
    assert (name, path) == ("fast-only", folder.path / "fast-only.yaml")
    assert folder.get(name) == first
    assert "enabled_models:\n- tier:fast\n" in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o644

    before = folder.revision(name)
    second = replace(first, name="Renamed")
    folder.replace(name, second, before)
    assert folder.get(name) == second
    assert folder.revision(name) != before
    assert folder.list() == ["fast-only"]

    folder.delete(name)
    assert folder.revision(name) == ""
    assert _names(folder) == []
    for call in (folder.get, folder.delete):
        with pytest.raises(ProfileNotFound, match="cannot find profile 'fast-only'"):
            call(name)
    with pytest.raises(ProfileNotFound):
        folder.replace(name, first, None)


TEXT = "# nights\nname: Night\nenabled_models: [a_8b]\n"


def test_what_was_written_is_not_parsed_again(folder: ProfileDir) -> None:
    """The event loop is the first to see the new file, and 64 KiB of YAML take it a second."""
    made = parse(TEXT.encode(), "the text")
    name, _ = folder.create(made, TEXT)
    assert folder.get(name) is made
    changed = replace(made, enabled_models=("tier:fast",))
    folder.replace(name, changed, folder.revision(name))
    assert folder.get(name) is changed
    (folder.path / f"{name}.yaml").write_text(TEXT)  # by hand
    assert folder.get(name) == made
    assert folder.get(name) is not made


def _read(folder: ProfileDir, name: str) -> None:
    assert folder.get(name).name == "Night"
    (folder.path / f"{name}.yaml").write_text("name: Day\n")
    assert folder.get(name).name == "Day"


@pytest.mark.parametrize(
    "leave", [_read, lambda folder, name: folder.delete(name)], ids=["read", "deleted"]
)
def test_what_was_written_is_kept_no_longer_than_it_is_needed(
    folder: ProfileDir, leave: Callable[[ProfileDir, str], None]
) -> None:
    made = parse(TEXT.encode(), "the text")
    name, path = folder.create(made, TEXT)
    leave(folder, name)
    path.write_text(TEXT)
    assert folder.get(name) == made
    assert folder.get(name) is not made


# -- shipped ones --------------------------------------------------------------------------------

SHIPPED = "name: Shipped\nenabled_models: ['tier:fast']\n"


@pytest.fixture
def layered(folder: ProfileDir, tmp_path: Path) -> ProfileDir:
    """A folder above one that has `everything` and `fast-only`."""
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    for name in ("everything", "fast-only"):
        (shipped / f"{name}.yaml").write_text(SHIPPED)
    shipped.chmod(0o555)
    return ProfileDir(folder.path, shipped)


def test_shipped_profiles_are_there_until_there_are_others(layered: ProfileDir) -> None:
    name, _ = layered.create(Profile(name="Mine"))
    assert layered.list() == ["everything", "fast-only", "mine"]
    assert layered.get("everything").name == "Shipped"
    before = layered.revision("everything")

    layered.replace("everything", Profile(name="Replaced"), before)
    assert layered.get("everything").name == "Replaced"
    assert _names(layered) == ["everything.yaml", f"{name}.yaml"]
    with pytest.raises(StaleRevision):
        layered.replace("everything", Profile(name="Again"), before)

    layered.delete("everything")
    assert (layered.get("everything").name, layered.revision("everything")) == ("Shipped", before)


def test_shipped_profiles_stay_as_they_are(layered: ProfileDir) -> None:
    with pytest.raises(Conflict, match="cannot delete profile 'fast-only': it comes with magid"):
        layered.delete("fast-only")
    with pytest.raises(ProfileExists, match=r"shipped/fast-only\.yaml exists already"):
        layered.create(Profile(name="Fast Only"))
    assert _names(layered) == []


def test_create_never_replaces(folder: ProfileDir) -> None:
    folder.create(Profile(name="A", description="first"))
    with pytest.raises(ProfileExists, match="cannot create profile 'a'"):
        folder.create(Profile(name="a", description="second"))
    assert folder.get("a").description == "first"
    assert _names(folder) == ["a.yaml"]


def test_create_is_won_by_one_of_many(folder: ProfileDir) -> None:
    start, won = threading.Barrier(8), list[int]()

    def create(number: int) -> None:
        start.wait(PATIENCE_S)
        try:
            folder.create(Profile(name="A", description=str(number)))
            won.append(number)
        except ProfileExists:
            pass

    threads = [threading.Thread(target=create, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len(won) == 1
    assert folder.get("a").description == str(won[0])
    assert _names(folder) == ["a.yaml"]


def test_replace_finds_out_about_an_edit_by_hand(folder: ProfileDir) -> None:
    _, path = folder.create(Profile(name="A"))
    before = folder.revision("a")
    path.write_text("name: edited\n")
    with pytest.raises(StaleRevision, match="it has changed since you read it"):
        folder.replace("a", Profile(name="B"), before)
    assert folder.get("a").name == "edited"
    folder.replace("a", Profile(name="B"), None)
    assert folder.get("a").name == "B"


def test_edits_are_seen_however_fast_they_come(folder: ProfileDir) -> None:
    path = folder.path / "a.yaml"
    for number in range(100, 300):  # all of one size, within few ticks of the clock
        path.write_text(f"name: p{number}\n")
        assert folder.get("a").name == f"p{number}"


@pytest.mark.slow
def test_edits_are_seen_after_the_file_was_left_alone(folder: ProfileDir) -> None:
    path = folder.path / "a.yaml"
    path.write_text("name: p1\n")
    stamp = path.stat()
    while time.time_ns() - stamp.st_ctime_ns < 2_100_000_000:  # until its times are trusted
        time.sleep(0.05)
    assert folder.get("a").name == "p1"
    path.write_text("name: p2\n")
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert folder.get("a").name == "p2"


def test_a_broken_file_is_listed_and_explained_and_can_be_mended(folder: ProfileDir) -> None:
    path = folder.path / "a.yaml"
    path.write_text("name: x\nnamee: y\n")
    assert folder.list() == ["a"]
    broken = folder.revision("a")
    for _ in range(2):
        with pytest.raises(InvalidProfile, match=r"a\.yaml: line 2: namee is not known") as caught:
            folder.get("a")
        assert caught.value.details == {"profileName": "a"}
    folder.replace("a", Profile(name="mended"), broken)
    assert folder.get("a").name == "mended"


def test_what_else_lies_in_the_folder(folder: ProfileDir) -> None:
    folder.create(Profile(name="Good"))
    for name in ("Upper.yaml", "a_b.yaml", ".hidden.yaml", "x.yml", "x.yaml~", ".yaml"):
        (folder.path / name).write_text("name: x\n")
    (folder.path / "directory.yaml").mkdir()
    (folder.path / "dangling.yaml").symlink_to("nowhere")
    (folder.path / "loop.yaml").symlink_to("loop.yaml")
    os.mkfifo(folder.path / "fifo.yaml")
    assert folder.list() == ["good"]
    with pytest.raises(InvalidProfile, match="it is not a regular file"):
        folder.get("fifo")
    with pytest.raises(InvalidProfile, match="it is not a regular file"):
        folder.get("directory")
    with pytest.raises(InvalidProfile, match="symbolic links"):
        folder.get("loop")
    with pytest.raises(ProfileNotFound):
        folder.get("dangling")


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    folder = ProfileDir(tmp_path / "absent")
    assert folder.list() == []
    assert folder.revision("a") == ""
    with pytest.raises(ProfileNotFound):
        folder.get("a")
    with pytest.raises(CannotWrite, match="create its folder"):
        folder.create(Profile(name="a"))


def test_links_are_read_but_not_written_through(folder: ProfileDir, tmp_path: Path) -> None:
    target = tmp_path / "target.yaml"
    target.write_text("name: target\n")
    (folder.path / "a.yaml").symlink_to(target)
    assert folder.list() == ["a"]
    assert folder.get("a").name == "target"
    with pytest.raises(CannotWrite, match="it is a symbolic link; edit the file"):
        folder.replace("a", Profile(name="x"), None)
    with pytest.raises(ProfileExists):
        folder.create(Profile(name="a"))
    folder.delete("a")
    assert target.read_text() == "name: target\n"


def test_too_large_a_profile_is_not_written(folder: ProfileDir) -> None:
    selectors = tuple(f"{'x' * 190}{n}" for n in range(400))
    with pytest.raises(TooLarge, match="cannot write profile 'A': it is larger than 65536 bytes"):
        folder.create(Profile(name="A", enabled_models=selectors))
    assert _names(folder) == []


def _refusing(folder: ProfileDir, failing: str, number: int) -> ProfileDir:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    changes: dict[str, Any] = {failing: refuse}
    return ProfileDir(folder.path, files=replace(REAL, **changes))


_WRITES: dict[str, Callable[[ProfileDir], object]] = {
    "create": lambda folder: folder.create(Profile(name="New")),
    "replace": lambda folder: folder.replace("old", Profile(name="Other"), None),
    "delete": lambda folder: folder.delete("old"),
}


@pytest.mark.parametrize(
    ("verb", "failing"),
    [(verb, call) for verb in ("create", "replace") for call in ("open", "write", "fsync", "close")]
    + [("create", "link"), ("replace", "rename"), ("delete", "unlink")],
)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_refused_write_changes_nothing(
    folder: ProfileDir, verb: str, failing: str, number: int
) -> None:
    folder.create(Profile(name="Old"))
    with pytest.raises(CannotWrite, match=re.escape(os.strerror(number))) as caught:
        _WRITES[verb](_refusing(folder, failing, number))
    assert caught.value.message.startswith(f"cannot write {folder.path}")
    assert caught.value.details["errno"] == errno.errorcode[number]
    assert _names(folder) == ["old.yaml"]
    assert folder.get("old").name == "Old"


def test_what_could_not_be_written_is_not_kept(folder: ProfileDir) -> None:
    made = parse(TEXT.encode(), "the text")
    refusing = _refusing(folder, "link", errno.ENOSPC)
    with pytest.raises(CannotWrite):
        refusing.create(made, TEXT)
    (folder.path / "night.yaml").write_text(TEXT)
    assert refusing.get("night") == made
    assert refusing.get("night") is not made


def test_what_a_killed_writer_left_goes_with_the_next_write(folder: ProfileDir) -> None:
    folder.create(Profile(name="One"))
    left = [folder.path / f".one.yaml.{pid}.0123abcd.tmp" for pid in (1, 22_222_222)]
    others = [folder.path / name for name in (".one.yaml.swp", ".notes.tmp", ".one.yaml.1.tmp")]
    for path in (*left, *others):
        path.write_text("name: Half")
    folder.replace("one", Profile(name="One", description="two"), None)
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in others)
    assert folder.list() == ["one"]
