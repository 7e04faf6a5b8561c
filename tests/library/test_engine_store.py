"""Engines: what is added counts only when it was tried, and nothing in use goes."""

import fcntl
import hashlib
import multiprocessing
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from magid.errors import CannotWrite, Conflict, InvalidConfig, InvalidInput, MagidError, NotFound
from magid.library import engine_store, unpacking
from magid.library.engine_store import Tried
from magid.llama import engines
from tests.support.deadlines import DEADLINE_S

PROBLEM = "`--version` ended with 127"


def good(program: Path) -> Tried:
    """A trial that checks that the program is where it will run, before the engine counts."""
    assert program.is_file()
    assert not program.parents[1].joinpath("llama-server").is_symlink()
    return Tried("9000", ("Vulkan0",))


def bad(_program: Path) -> Tried:
    return Tried(problem=PROBLEM)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path.chmod(0o755)
    return tmp_path / "engines"


@pytest.fixture
def build(tmp_path: Path) -> Path:
    made = tmp_path / "build"
    made.mkdir()
    (made / "llama-server").write_text("#!/bin/sh\n")
    (made / "llama-server").chmod(0o755)
    return made


def test_a_folder_an_archive_and_a_program(folder: Path, build: Path, tmp_path: Path) -> None:
    packed = tmp_path / "x.tar.xz"
    with tarfile.open(packed, "w:xz") as tar:
        tar.add(build, "llama-b9000/bin")
    alone = tmp_path / "alone"
    shutil.copy("/bin/sleep", alone)
    digest = hashlib.sha256(packed.read_bytes()).hexdigest()
    engine_store.add(folder, "folder", build, good)
    made = engine_store.add(folder, "archive", packed, good, digest.upper())
    engine_store.add(folder, "alone", alone, lambda _: Tried("1"))
    assert (made.sha256, made.program) == (digest, "files/llama-b9000/bin/llama-server")
    assert [one.name for one in engine_store.listed(folder)] == ["alone", "archive", "folder"]
    assert made.gpus == ("Vulkan0",)
    for name in ("folder", "archive", "alone"):
        program = folder / name / "llama-server"
        assert os.access(program, os.X_OK)
        assert program.resolve().is_relative_to(folder / name / "files")
        assert (folder / name).stat().st_mode & 0o777 == 0o755


def test_what_cannot_be_added_leaves_nothing(folder: Path, build: Path, tmp_path: Path) -> None:
    packed = tmp_path / "x.tar"
    with tarfile.open(packed, "w") as tar:
        tar.add(build / "llama-server", "other-name")
    for name, source, sha256, try_it, said in (
        ("a", build, "", bad, PROBLEM),
        ("a", packed, "0" * 64, good, "its SHA-256 is "),
        ("a", packed, "", good, "cannot find an executable llama-server in it"),
        ("a", build, "0" * 64, good, "--sha256 is for an archive"),
        ("a", tmp_path / "none", "", good, "No such file"),
        ("default", build, "", good, "as the name of an engine"),
        ("../x", build, "", good, "as the name of an engine"),
        ("x\n", build, "", good, "as the name of an engine"),
        ("", build, "", good, "as the name of an engine"),
    ):
        with pytest.raises(InvalidInput) as caught:
            engine_store.add(folder, name, source, try_it, sha256)
        assert said in str(caught.value)
        assert not folder.exists() or not names_in(folder)
    with pytest.raises(RuntimeError):
        engine_store.add(folder, "a", build, lambda _: (_ for _ in ()).throw(RuntimeError()))
    assert not names_in(folder)


def test_another_engine_is_one_link(folder: Path, build: Path) -> None:
    for name in ("old", "new"):
        engine_store.add(folder, name, build, good)
    assert engines.default_program(folder) is None
    engine_store.use(folder, "old")
    engine_store.use(folder, "new")
    assert engines.default_program(folder) == folder / "new/llama-server"
    assert [one.name for one in engine_store.listed(folder)] == ["new", "old"]
    assert engines.chosen_at(folder / "new/llama-server") > 0
    assert engines.chosen_at(folder / "old/llama-server") == 0
    engine_store.use(folder, None)
    engine_store.use(folder, None)
    assert engines.default_program(folder) is None
    with pytest.raises(NotFound):
        engine_store.use(folder, "none-such")
    for target in ("../../etc", "/etc", "a\nb"):  # whatever else would make such a link
        (folder / "default").symlink_to(target)
        found = engines.default_program(folder)
        assert found in (None, folder / "etc/llama-server")
        (folder / "default").unlink()


def test_what_is_used_stays(folder: Path, build: Path, tmp_path: Path) -> None:
    program = tmp_path / "sleeper"
    shutil.copy("/bin/sleep", program)
    engine_store.add(folder, "runs", program, lambda _: Tried("1"))
    engine_store.add(folder, "chosen", build, good)
    engine_store.use(folder, "chosen")
    with pytest.raises(Conflict, match="it is the one in use"):
        engine_store.remove(folder, "chosen")
    with pytest.raises(Conflict, match="there is one"):
        engine_store.add(folder, "chosen", build, good)
    with subprocess.Popen([folder / "runs/llama-server", "1000"]) as process:
        try:
            with pytest.raises(Conflict, match=f"running as process {process.pid}"):
                engine_store.remove(folder, "runs")
        finally:
            process.kill()
    with pytest.raises(Conflict, match="it is set for alpha, beta; `magictl engine use default al"):
        engine_store.remove(folder, "runs", ["alpha", "beta"])
    engine_store.remove(folder, "runs")
    with pytest.raises(NotFound):
        engine_store.remove(folder, "runs")
    assert names_in(folder) == ["chosen", "default"]


def test_a_folder_that_others_may_write_to(folder: Path, build: Path) -> None:
    folder.mkdir(0o755)
    for place, mode, owner in (
        (folder, 0o775, -1),
        (folder.parent, 0o757, -1),
        (folder, 0o755, 12345),
    ):
        place.chmod(mode)
        os.chown(place, owner, -1)
        with pytest.raises((InvalidConfig, CannotWrite)):
            engine_store.add(folder, "a", build, good)
        with pytest.raises(MagidError, match="may write to"):
            engines.check_owned(folder, os.geteuid())
        os.chown(place, os.geteuid(), -1)
        place.chmod(0o755)
    engine_store.add(folder, "a", build, good)


def killed_in(step: str, folder: Path, build: Path) -> None:
    """Ends in the middle of `add` or `remove`, as by SIGKILL."""
    if step == "trial":
        engine_store.add(folder, "half", build, lambda _: os._exit(9))
    elif step == "copy":
        with Path(build / "endless").open("wb") as file:
            file.truncate(unpacking.MAX_BYTES + 1)
        engine_store.add(folder, "half", build, good)


@pytest.mark.parametrize("step", ["trial", "copy"])
def test_what_a_killed_add_has_left_goes(folder: Path, build: Path, step: str) -> None:
    engine_store.add(folder, "whole", build, good)
    process = multiprocessing.get_context("fork").Process(
        target=killed_in, args=(step, folder, build)
    )
    process.start()
    while step == "copy" and not list(folder.glob(".adding-*/files/endless")):
        assert process.is_alive()
    engine_store.use(folder, "whole")
    assert step == "trial" or list(folder.glob(".adding-*")), "one that is being added stays"
    process.kill() if step == "copy" else None
    process.join()
    (folder / ".removing-gone-1").mkdir()
    (folder / ".default-1").symlink_to("gone")
    (build / "endless").unlink(missing_ok=True)
    engine_store.add(folder, "half", build, good)
    assert names_in(folder) == ["default", "half", "whole"]


def test_the_lock_of_another_user_holds_nothing_up(folder: Path, build: Path) -> None:
    """Who may read a folder may lock it: a model's process, and any user of the machine."""
    engine_store.add(folder, "a", build, good)
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        process = multiprocessing.get_context("fork").Process(
            target=engine_store.use, args=(folder, "a"), daemon=True
        )
        process.start()
        process.join(DEADLINE_S)
        assert process.exitcode == 0
    finally:
        os.close(held)
        process.kill()
        process.join()
    assert (folder / ".lock").stat().st_mode & 0o777 == 0o600


def test_an_engine_that_is_a_link_goes_and_not_what_it_leads_to(
    folder: Path, build: Path, tmp_path: Path
) -> None:
    engine_store.add(folder, "moved", build, good)
    (folder / "moved").rename(tmp_path / "elsewhere")
    (folder / "moved").symlink_to(tmp_path / "elsewhere")
    engine_store.remove(folder, "moved")
    assert not names_in(folder)
    assert (tmp_path / "elsewhere/llama-server").exists()
