"""What makes the trees, as root, without a container."""

import os
import select
import signal
import subprocess
from pathlib import Path

import pytest

from tests.lab.layers import contained, remove
from tests.support.deadlines import DEADLINE_S

pytestmark = pytest.mark.slow

# As a bootstrap does: mounts below the folder, and goes on for minutes in processes of its own.
BUILD = 'mkdir "$1/proc" && mount -t proc proc "$1/proc" && echo mounted && sleep 1000 & wait'


def test_a_build_that_is_killed_leaves_no_mount_and_no_process(tmp_path: Path) -> None:
    """The folder could not be removed otherwise, and no later build could begin."""
    work = tmp_path / "work"
    work.mkdir()
    command = contained(["sh", "-c", BUILD, "sh", str(work)])
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as build:
        assert build.stdout is not None
        assert build.stdout.readline() == "mounted\n"
        assert not list((work / "proc").iterdir()), "nobody else sees the mount"
        build.send_signal(signal.SIGKILL)
        ready, _, _ = select.select([build.stdout], [], [], DEADLINE_S)
        assert ready, "a process holds the other end"
        assert os.read(build.stdout.fileno(), 1) == b""
    remove(work)
    assert not work.exists()
