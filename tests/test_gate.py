"""gate.py as the unit runs it: the program starts only if the files are the checked ones."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deadlines import DEADLINE_S

GATE = Path(__file__).parent.parent / "magid" / "gate.py"


def gate(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", "-S", str(GATE), *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def checked(path: Path) -> str:
    status = path.lstat()
    return f"{status.st_dev}:{status.st_ino}:{path}"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "a model: 1.gguf"
    path.write_bytes(b"GGUF")
    return path


def test_the_program_takes_its_place(model: Path) -> None:
    done = gate(checked(model), "--", "/bin/echo", "--", "a b", "$HOME")
    assert (done.returncode, done.stdout, done.stderr) == (0, "-- a b $HOME\n", "")


def test_all_files_are_looked_at(model: Path, tmp_path: Path) -> None:
    absent = tmp_path / "absent.gguf"
    done = gate(checked(model), f"1:1:{absent}", "--", "/bin/echo")
    assert (done.returncode, done.stdout) == (66, "")
    assert done.stderr == f"error: cannot use the model file {absent}: No such file or directory\n"


@pytest.mark.parametrize("how", ["another file", "a link", "a folder", "a pipe"])
def test_what_was_put_in_its_place(model: Path, how: str) -> None:
    seen = checked(model)
    kept = model.rename(model.with_suffix(".kept"))  # so that its inode is not given again
    match how:
        case "another file":
            model.write_bytes(kept.read_bytes())
        case "a link":
            model.symlink_to(kept)
        case "a folder":
            model.mkdir()
        case _:
            os.mkfifo(model)
    done = gate(seen, "--", "/bin/echo", "started")
    assert (done.returncode, done.stdout) == (66, "")
    assert f"cannot use the model file {model}" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--",),
        ("--", "/bin/echo"),
        ("/bin/echo",),
        ("1:2:/x",),
        ("/x", "--", "/bin/echo"),
        ("1:2:x", "--", "/bin/echo"),
        ("--hand-on", "--", "/bin/echo"),
    ],
    ids=repr,
)
def test_bad_usage(arguments: tuple[str, ...]) -> None:
    done = gate(*arguments)
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.startswith("error: cannot start: ")


def test_no_program(model: Path) -> None:
    done = gate(checked(model), "--", "/nonexistent")
    assert (done.returncode, "cannot execute /nonexistent" in done.stderr) == (1, True)
