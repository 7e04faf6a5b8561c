"""The script that runs llama-server until it has predicted its memory, with shell scripts as it."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from magid.gpus.memory_report import report_in
from magid.standalone import SCRIPTS, predict_memory
from tests.support.deadlines import DEADLINE_S

TABLE = "echo 'x | memory breakdown [MiB] |'; echo 'x |   - Host | 6 = 1 + 2 + 3 |'"
DONE = "echo 'x: fitting params to free memory took 0.1 seconds'"


@pytest.fixture
def begun(tmp_path: Path) -> Any:
    """Begins to run the script with this shell script in the place of llama-server."""
    program = tmp_path / "llama-server"
    scratch = tmp_path / "scratch"
    scratch.mkdir()

    def begin(
        script: str, seconds: float = DEADLINE_S, niceness: int = 0
    ) -> "subprocess.Popen[bytes]":
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        command = [
            str(SCRIPTS / "predict_memory.py"),
            f"{seconds:g}",
            f"{niceness}",
            "--",
            str(program),
            "-m",
            "x",
        ]
        return subprocess.Popen(
            [sys.executable, "-I", "-S", *command],
            stdout=subprocess.PIPE,
            env={"PATH": os.environ["PATH"], "TMPDIR": str(scratch)},
        )

    return begin


@pytest.fixture
def run(begun: Any, tmp_path: Path) -> Any:
    """Returns its report; nothing is left."""

    def run(script: str, seconds: float = DEADLINE_S, niceness: int = 0) -> dict[str, Any]:
        with begun(script, seconds, niceness) as process:
            output, _ = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0
        assert list((tmp_path / "scratch").iterdir()) == []
        assert report_in(output.decode()) is not None
        return dict(json.loads(output))

    return run


def test_it_is_killed_when_it_has_predicted(run: Any, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    report = run(f"echo $$ >{pid}; echo chatter; {TABLE}; {DONE}; exec sleep 1000")
    assert (report["why"], report["status"]) == ("done", -signal.SIGKILL)
    assert report["lines"] == ["x | memory breakdown [MiB] |", "x |   - Host | 6 = 1 + 2 + 3 |"]
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_it_is_killed_before_it_reads_the_weights(run: Any) -> None:
    report = run(f"{TABLE}; echo 'load_tensors: loading'; exec sleep 1000")
    assert report["why"] == "done"
    assert len(report["lines"]) == 2


def test_an_address_of_its_own(run: Any) -> None:
    report = run("echo \"error: $*\"; test -d ${4%/*} && echo 'error: a folder'")
    said, folder = report["lines"]
    assert said.startswith("error: -m x --host /")
    assert folder == "error: a folder"


def test_it_ends_by_itself(run: Any) -> None:
    report = run("echo 'x E cannot load it' >&2; exit 3")
    assert report == {"why": "ended", "status": 3, "lines": ["x E cannot load it"]}


def test_it_does_not_end(run: Any) -> None:
    assert run(f"{TABLE}; exec sleep 1000", 0.5)["why"] == "late"
    assert run("exec >&- 2>&-; exec sleep 1000", 0.5)["why"] == "late"


def test_what_came_in_time_is_kept() -> None:
    """Its time is over, and this is there: how long a program takes to print it is no matter."""
    reading, writing = os.pipe()
    lines: list[str] = []
    with os.fdopen(reading, "rb") as output, os.fdopen(writing, "wb", 0) as program:
        program.write(subprocess.check_output(["sh", "-c", TABLE]))
        assert predict_memory.collected(output, time.monotonic(), lines) == "late"
    assert lines == ["x | memory breakdown [MiB] |", "x |   - Host | 6 = 1 + 2 + 3 |"]


def test_it_prints_without_end(run: Any) -> None:
    report = run(f"{TABLE}; exec yes 'an error: \"\\\\'")
    assert report["why"] == "long"
    assert report["lines"][1] == "x |   - Host | 6 = 1 + 2 + 3 |"
    assert len(json.dumps(report)) < 45_000


def test_odd_bytes(run: Any) -> None:
    (line,) = run("printf 'error \\377\\000\\033 \\303\\244'")["lines"]
    assert line == "error \N{REPLACEMENT CHARACTER}?? ä"


def test_a_program_that_is_none(run: Any) -> None:
    assert run("exit 1")["lines"] == []


def test_llama_server_ends_with_the_script(begun: Any, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    with begun(f"echo $$ >{pid}.new; mv {pid}.new {pid}; exec sleep 1000") as process:
        end = time.monotonic() + DEADLINE_S
        while not pid.exists():
            assert time.monotonic() < end
        fd = os.pidfd_open(int(pid.read_text()))
        process.kill()
    process.wait(DEADLINE_S)
    assert _ended(fd)


def _ended(fd: int) -> bool:
    try:
        return bool(select.select([fd], [], [], DEADLINE_S)[0])
    finally:
        os.close(fd)


def test_the_niceness_is_that_of_the_caller(run: Any) -> None:
    for niceness in (0, 10):
        report = run('echo "error: $(nice)"', niceness=niceness)
        assert report["lines"] == [f"error: {os.nice(0) + niceness}"]


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ("", "5", "5 0 --", "5 0 program", "5 -- program"):
        assert predict_memory.main(words.split()) == 2
    assert "usage:" in capsys.readouterr().err
