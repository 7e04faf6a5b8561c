"""The lock on a state directory: one magid at a time."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from magid.errors import AlreadyRunning, CannotWrite
from magid.files.lock import lock
from tests.support.deadlines import DEADLINE_S

_REPOSITORY = Path(__file__).resolve().parents[2]


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
        holder.wait(DEADLINE_S)
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
