"""No process can be made to read the model folders: the limit to raise is named."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# As a user of its own, who has this program alone: root has no limit of processes. One thread may
# be made, and no process; the two pipes of a process take four descriptors.
PROGRAM = """\
import os, resource, sys
from pathlib import Path
from magid.discovery.scanner import Scanner
from magid.discovery.tiers import Thresholds
from magid.errors import RescanFailed

limit, most, user = getattr(resource, "RLIMIT_" + sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
scanner = Scanner([Path("/")], Thresholds(), None)
if limit == resource.RLIMIT_NPROC:
    os.setgroups([])
    os.setresuid(user, user, user)
resource.setrlimit(limit, (most, most))
try:
    scanner.scan()
except RescanFailed as error:
    print(error.message)
"""


@pytest.mark.parametrize(
    ("limit", "most", "error", "which"),
    [
        ("NPROC", 2, errno.EAGAIN, "tasks is used up (TasksMax=, ulimit -u)"),
        ("NOFILE", 5, errno.EMFILE, "open files is used up (LimitNOFILE=, ulimit -n)"),
    ],
)
def test_the_limit_is_named(limit: str, most: int, error: int, which: str) -> None:
    user = 2_100_000_000 + os.getpid()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, limit, str(most), str(user)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == (
        "cannot read the model folders: cannot start a process of magid.discovery.header_workers: "
        f"{os.strerror(error)}: the limit of {which}\n"
    ), done.stderr
