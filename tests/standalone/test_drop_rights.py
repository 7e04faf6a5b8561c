"""A program that is run without root's rights. For root."""

import subprocess
import sys
from pathlib import Path

from magid.standalone import SCRIPTS
from magid.standalone.drop_rights import USER

SCRIPT = [sys.executable, "-I", "-S", str(SCRIPTS / "drop_rights.py")]


def test_nothing_of_root_is_left() -> None:
    done = subprocess.run([*SCRIPT, "/bin/cat", "/proc/self/status"], capture_output=True,
                          text=True, check=True)  # fmt: skip
    said = dict(line.split(":", 1) for line in done.stdout.splitlines())
    assert said["Uid"].split() == said["Gid"].split() == [str(USER)] * 4
    assert said["Groups"].split() == []
    assert {said[f"Cap{kind}"].strip("\t0") for kind in ("Prm", "Eff", "Amb")} == {""}
    assert said["NoNewPrivs"].strip() == "1"


def test_its_limits() -> None:
    done = subprocess.run([*SCRIPT, "/bin/sh", "-c", "ulimit -c; ulimit -t; pwd; umask"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout.split() == ["0", "30", "/", "0077"]


def test_without_the_right_to_change_the_user_nothing_runs(tmp_path: Path) -> None:
    plain = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups"]
    done = subprocess.run([*plain, *SCRIPT, "/bin/echo", "ran"], capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert (done.returncode, done.stdout) == (77, "")
    assert done.stderr.startswith("cannot run /bin/echo without root's rights: ")
    assert subprocess.run([*SCRIPT, f"{tmp_path}/none"], check=False).returncode == 127
    assert subprocess.run(SCRIPT, check=False).returncode == 2
