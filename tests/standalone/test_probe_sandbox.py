"""The probe of a sandbox, run as its own program."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from magid.standalone import probe_sandbox
from tests.support.deadlines import DEADLINE_S


def probed(*words: str) -> Any:
    argv = [sys.executable, "-I", "-S", probe_sandbox.__file__, *words]
    done = subprocess.run(argv, capture_output=True, timeout=DEADLINE_S, check=True)
    return json.loads(done.stdout)


def test_the_probe_reaches_what_is_open(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    missing = str(tmp_path / "none/x")
    answer = probed("reach", str(tmp_path), missing)
    assert answer[str(tmp_path)] == []
    assert answer[missing] == [[str(tmp_path / "none"), "No such file or directory"]]


def test_the_probe_leaves_nothing(tmp_path: Path) -> None:
    assert probed("write", str(tmp_path)) == ""
    assert os.listdir(tmp_path) == []  # noqa: PTH208
    assert probed("write", str(tmp_path / "none")) == "No such file or directory"


def test_the_probe_in_a_box(tmp_path: Path) -> None:
    program, file = tmp_path / "program", tmp_path / "a.gguf"
    program.write_text("#!/bin/sh\necho $1; exit 3\n")
    program.chmod(0o755)
    file.write_text("x")
    answer = probed("box", str(program), str(file), str(tmp_path))
    assert answer["files"] == {str(file): "", str(tmp_path): "it is not a regular file"}
    assert answer["runs"]["--version"] == {"status": 3, "output": "--version\n"}
    assert probed("box", str(file))["runs"]["--help"]["output"] == "Permission denied"
