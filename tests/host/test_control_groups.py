"""The controllers of control groups, of both versions."""

from pathlib import Path

from magid.host.control_groups import controllers

FIRST = """\
#subsys_name\thierarchy\tnum_cgroups\tenabled
cpu\t2\t10\t1
memory\t0\t10\t0
pids\t8\t10\t1
devices\t0\t1\t1
"""


def test_of_version_2(tmp_path: Path) -> None:
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cgroup.controllers").write_text("cpu memory pids\n")
    assert controllers(tmp_path) == {"cpu", "memory", "pids"}


def test_of_version_1(tmp_path: Path) -> None:
    """One that is switched off at boot, or not mounted, is none."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cgroups").write_text(FIRST)
    assert controllers(tmp_path) == {"cpu", "pids"}


def test_of_neither(tmp_path: Path) -> None:
    assert controllers(tmp_path) == frozenset()
