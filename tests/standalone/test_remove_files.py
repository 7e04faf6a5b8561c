"""Removal of files in folders that other users may write to: nothing outside, and no other file."""

import ctypes
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from magid.standalone import SCRIPTS
from magid.standalone.remove_files import main, removed

AT_FDCWD, RENAME_EXCHANGE = -100, 2


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "library"
    (made / "org").mkdir(parents=True)
    (made / "keep.txt").write_text("x")
    return made


def write(path: Path, content: bytes = b"GGUF") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def identity(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino


def remove(root: Path, path: Path | str, seen: tuple[int, int] | None = None) -> dict[str, Any]:
    return removed(str(root), str(path), seen or identity(Path(path)))


def test_a_file_goes_and_its_empty_folders_with_it(root: Path) -> None:
    file = write(root / "org/repo/Q4\nK/a b.GGUF", b"x" * 10_000)
    write(file.with_name(f".{file.name}.origin.json"))
    neighbour = write(root / "org/other/b.gguf")
    answer = remove(root, file)
    assert answer == {"path": str(file), "freed": answer["freed"], "links": 0, "problem": ""}
    assert answer["freed"] >= 10_000
    assert not (root / "org/repo").exists()
    assert neighbour.exists()
    remove(root, neighbour)
    assert [path.name for path in root.iterdir()] == ["keep.txt"]


def test_a_link_goes_and_not_what_it_leads_to(root: Path, tmp_path: Path) -> None:
    target = write(tmp_path / "elsewhere.gguf")
    link = root / "org/a.gguf"
    link.symlink_to(target)
    assert remove(root, link) == {"path": str(link), "freed": 0, "links": 0, "problem": ""}
    assert target.exists()


def test_a_file_of_two_names_frees_nothing(root: Path) -> None:
    file = write(root / "a.gguf")
    (root / "b.gguf").hardlink_to(file)
    assert (remove(root, file)["links"], (root / "b.gguf").read_bytes()) == (1, b"GGUF")


def test_what_is_outside_stays(root: Path, tmp_path: Path) -> None:
    outside = write(tmp_path / "outside/a.gguf")
    (root / "away").symlink_to(outside.parent)
    (root / "up.gguf").mkdir()
    seen = identity(outside)
    for path in (
        outside,
        root / "away/a.gguf",
        f"{root}/../outside/a.gguf",
        f"{root}/./../outside/a.gguf",
        f"{root}//a.gguf",
        f"{root}",
        f"{root}-x/a.gguf",
    ):
        assert removed(str(root), str(path), seen)["problem"], path
        assert outside.exists()
    assert remove(root, root / "up.gguf")["problem"] == "it is no file"


@pytest.mark.parametrize("name", ["notes.txt", "gguf", "a.gguf.part", "b" * 41, "passwd"])
def test_only_files_with_a_models_name_go(root: Path, name: str) -> None:
    assert remove(root, write(root / name))["problem"] == "it has not the name of a model file"
    assert (root / name).exists()


@pytest.mark.parametrize("name", ["0a" * 20, "0a" * 32, "sha256-" + "0a" * 32])
def test_blobs_go(root: Path, name: str) -> None:
    assert not remove(root, write(root / "blobs" / name))["problem"]


def test_another_file_of_that_name_stays(root: Path) -> None:
    file = write(root / "a.gguf")
    seen = identity(file)
    file.rename(root / "b.gguf")
    write(file, b"new")
    assert remove(root, file, seen)["problem"] == "it was replaced by another file meanwhile"
    assert file.read_bytes() == b"new"
    assert not [path for path in root.iterdir() if path.name.startswith(".removing")]


def test_a_file_that_is_swapped_all_the_time(root: Path) -> None:
    """Whatever the moment: the file that was seen goes, or none; the other one is never lost."""
    one, two = write(root / "org/a.gguf", b"one"), write(root / "org/b.gguf", b"two")
    exchange = ctypes.CDLL(None).renameat2
    names = os.fsencode(one), os.fsencode(two)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            exchange(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE)

    swapper = threading.Thread(target=swap)
    seen, other = identity(one), identity(two)
    swapper.start()
    try:
        answers = [remove(root, one, seen) for _ in range(200)]
    finally:
        stop.set()
        swapper.join()
    assert sum(not answer["problem"] for answer in answers) <= 1
    assert other in {identity(path) for path in (root / "org").iterdir()}


@pytest.mark.parametrize("kind", ["link", "folder"])
def test_what_is_put_in_the_place_of_a_file_gets_its_name_back(root: Path, kind: str) -> None:
    """Without CAP_FOWNER, as in the unit, no second name is to be had for another user's link."""
    file, other = write(root / "org/a.gguf"), root / "org/b.gguf"
    other.mkdir() if kind == "folder" else other.symlink_to("/nowhere")
    os.lchown(other, 12345, 12345)
    words = [str(root), *["{}:{}:{}".format(*identity(file), file)] * 300]
    script = ["setpriv", "--bounding-set=-fowner", sys.executable, "-I", "-S"]
    stop = threading.Event()

    def swap() -> None:
        exchange = ctypes.CDLL(None).renameat2
        names = os.fsencode(file), os.fsencode(other)
        while not stop.is_set():
            exchange(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE)

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        subprocess.run([*script, str(SCRIPTS / "remove_files.py"), *words], check=True)
    finally:
        stop.set()
        swapper.join()
    left = [path for path in (root / "org").iterdir() if path.name.startswith(".removing")]
    assert not [path for path in left if not _was_taken(path)]


def _was_taken(path: Path) -> bool:
    """Whether both names were there when this one was to get its own back."""
    return {"a.gguf", "b.gguf"} <= {one.name for one in path.parent.iterdir()}


def test_a_file_on_a_mount_below_stays(root: Path) -> None:
    below = root / "disk"
    below.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "none", str(below)], check=False)
    assert mounted.returncode == 0, "this test needs root"
    try:
        file = write(below / "a.gguf")
        assert "another file system" in remove(root, file)["problem"]
        assert file.exists()
    finally:
        subprocess.run(["umount", str(below)], check=True)


def test_another_folder_in_the_place_of_the_library(root: Path, tmp_path: Path) -> None:
    """As when a link was put there before systemd has bound it."""
    seen = identity(root)
    root.rename(tmp_path / "moved")
    file = write(root / "a.gguf")
    answer = removed(str(root), str(file), identity(file), seen)
    assert answer["problem"] == f"{root} was replaced by another folder meanwhile"
    assert file.exists()
    script = [sys.executable, "-I", "-S", str(SCRIPTS / "remove_files.py")]
    words = ["{}:{}:{}".format(*identity(path), path) for path in (root, file)]
    done = subprocess.run([*script, *words], capture_output=True, check=True)
    assert json.loads(done.stdout)[0]["problem"] == ""
    assert not file.exists()


def test_the_program(root: Path) -> None:
    one, gone = write(root / "a.gguf"), write(root / "b.gguf")
    files = ["{}:{}:{}".format(*identity(path), path) for path in (one, gone)]
    gone.unlink()
    script = [sys.executable, "-I", "-S", str(SCRIPTS / "remove_files.py")]
    done = subprocess.run([*script, str(root), *files], capture_output=True, check=True)
    first, second = json.loads(done.stdout)
    assert (first["problem"], second["problem"]) == ("", "No such file or directory")
    assert main([str(root)]) == 2
    assert main(["library", files[0]]) == 2
    assert main([str(root), "1:2"]) == 2
