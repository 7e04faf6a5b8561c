"""A child is tied to magid, by either way, before its program runs."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from magid.servers.processes.death_signal import are_usable, setpriv_here, tied, tied_by_python
from tests.support.deadlines import DEADLINE_S

Tie = Callable[[Sequence[str], int], list[str]]


def by_setpriv(argv: Sequence[str], parent: int) -> list[str]:
    return tied(argv, parent, Path("/usr/bin/setpriv"))


def by_python(argv: Sequence[str], parent: int) -> list[str]:
    return tied(argv, parent, None)


def run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


async def test_this_machine_has_the_faster_way() -> None:
    assert str(await setpriv_here()) == by_setpriv(["/bin/true"], 1)[0]
    assert by_python(["/bin/true"], 1) == tied_by_python(["/bin/true"], 1)


@pytest.mark.parametrize("tie", [by_setpriv, by_python])
def test_a_tie_without_its_parent_runs_nothing(tie: Tie, tmp_path: Path) -> None:
    """The parent ended before the tie was made: its number is not our parent's."""
    done = run(tie(["/bin/touch", str(tmp_path / "ran")], 1))
    assert (done.returncode, done.stderr) == (127, "cannot start /bin/touch: magid has ended\n")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("tie", [by_setpriv, by_python])
def test_arguments_arrive_as_they_are(tie: Tie) -> None:
    words = ["", "a b", "$HOME", "`id`", "-n", "--", "\\n", "'\"*"]
    done = run(tie(["/usr/bin/printf", "<%s>", *words], os.getpid()))
    assert (done.returncode, done.stdout) == (0, "".join(f"<{word}>" for word in words))


@pytest.mark.parametrize("tie", [by_setpriv, by_python])
def test_a_program_that_cannot_be_run(tie: Tie, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    for path, why in ((tmp_path / "none", "No such file or directory"), (plain, "Permission")):
        done = run(tie([str(path)], os.getpid()))
        assert done.returncode == 127
        assert done.stderr.startswith(f"error: cannot run {path}: {why}")
        plain.write_text("no program")


@pytest.mark.parametrize("tie", [by_setpriv, by_python])
def test_an_empty_program_is_no_script(tie: Tie, tmp_path: Path) -> None:
    """A shell would run it as one, and nothing would say why the server has ended."""
    (program := tmp_path / "llama-server").touch(0o755)
    done = run(tie([str(program)], os.getpid()))
    assert done.returncode == 127
    assert done.stderr.strip() == f"error: cannot run {program}: Exec format error"


@pytest.mark.parametrize("tie", [by_setpriv, by_python])
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_a_program_of_zeros_is_no_script(tie: Tie, size: int, tmp_path: Path) -> None:
    """A power cut may leave a file so; setpriv alone would have a shell run it, with success."""
    (program := tmp_path / "llama-server").write_bytes(bytes(size))
    program.chmod(0o755)
    done = run(tie([str(program)], os.getpid()))
    assert done.returncode in (126, 127)
    assert done.stderr.endswith(f" {program}: Exec format error\n")


async def test_a_setpriv_that_is_late_holds_nothing_up_and_is_asked_again(tmp_path: Path) -> None:
    (setpriv := tmp_path / "setpriv").write_text(f"""\
#!/bin/sh
[ ! -e {tmp_path}/late ] || exec sleep 1000
read -r _ < {tmp_path}/answer
exec /usr/bin/setpriv "$@"
""")
    setpriv.chmod(0o755)
    (tmp_path / "late").touch()
    assert await setpriv_here(setpriv, 0.1) is None
    (tmp_path / "late").unlink()
    os.mkfifo(tmp_path / "answer")
    answer = os.open(tmp_path / "answer", os.O_RDWR)
    asked = asyncio.create_task(setpriv_here(setpriv, DEADLINE_S))
    await asyncio.sleep(0)
    os.write(answer, b"\n")
    assert await asked == setpriv
    os.close(answer)


async def test_a_setpriv_that_cannot_tie(tmp_path: Path) -> None:
    assert await setpriv_here(tmp_path / "none") is None
    assert await setpriv_here(Path("/bin/false")) is None


DAEMON = """
import asyncio, os, subprocess, sys
from pathlib import Path
from magid.servers.processes.death_signal import setpriv_here, tied
setpriv = asyncio.run(setpriv_here()) if sys.argv[1] == "setpriv" else None
with subprocess.Popen(
    tied(["/bin/sh", "-c", "echo $$; exec sleep 1000"], os.getpid(), setpriv)
) as child:
    pass
"""


@pytest.mark.parametrize("way", ["setpriv", "python"])
def test_a_child_ends_with_its_parent(way: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", DAEMON, way],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as daemon:
        assert daemon.stdout
        pid = int(daemon.stdout.readline())
        assert pid != daemon.pid
        daemon.send_signal(signal.SIGKILL)
        daemon.wait()
        assert daemon.stdout.read() == "", "the child holds the pipe until it ends"


async def test_files_that_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("")
    assert await are_usable(())
    assert await are_usable([str(tmp_path / "model")])
    assert not await are_usable([str(tmp_path / "model"), str(tmp_path / "none")])
    assert not await are_usable([str(tmp_path)])
