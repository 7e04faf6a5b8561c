"""What control groups leave of the machine's memory, in trees of a test's own, and here."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from magid.host.memory_limits import beside, groups_in, memory_within
from magid.host.usage import machine_memory

MIB = 1 << 20
NONE = "9223372036854771712"  # of version 1
STAT = "anon 9\nactive_file {}\ninactive_file {}\nslab_reclaimable 0\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "proc/self").mkdir(parents=True)
    return tmp_path


def group(root: Path, path: str, files: Mapping[str, str]) -> None:
    folder = root / "sys/fs/cgroup" / path
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)


def second(most: str, used: int, file: int = 0) -> dict[str, str]:
    stat = STAT.format(file // 2, file - file // 2)
    return {"memory.max": f"{most}\n", "memory.current": f"{used}\n", "memory.stat": stat}


def test_a_container_of_version_2(root: Path) -> None:
    """Pages of files, as those of a model, are given back before anything is killed."""
    (root / "proc/self/cgroup").write_text("0::/\n")
    group(root, "", second(str(500 * MIB), 400 * MIB, 300 * MIB))
    assert memory_within(root=root) == {"total": 500 * MIB, "available": 400 * MIB}


def test_of_several_groups_the_narrowest_counts(root: Path) -> None:
    (root / "proc/self/cgroup").write_text("0::/user.slice/magid.service\n")
    group(root, "user.slice", second(str(300 * MIB), 250 * MIB))
    group(root, "user.slice/magid.service", second("max", 10 * MIB) | {"memory.high": "99999999"})
    assert memory_within(root=root) == {"total": 99_999_999, "available": 50 * MIB}


def test_servers_are_in_a_slice_of_their_own(root: Path) -> None:
    """What magid itself may use says nothing of them."""
    (root / "proc/self/cgroup").write_text("0::/machine/system.slice/magid.service\n")
    group(root, "machine/system.slice/magid.service", second(str(64 * MIB), 0))
    group(root, "machine/magi.slice", second(str(700 * MIB), 300 * MIB))
    found = memory_within("magi.slice", root)
    assert found == {"total": 700 * MIB, "available": 400 * MIB}


def test_a_container_of_version_1(root: Path) -> None:
    """It is told of its group by a path that its mount does not show."""
    (root / "proc/self/cgroup").write_text("4:cpu,memory:/docker/0a1b\n0::/\n")
    stat = f"total_active_file {20 * MIB}\ntotal_inactive_file {30 * MIB}\n"
    files = {"memory.limit_in_bytes": str(200 * MIB), "memory.usage_in_bytes": str(150 * MIB)}
    group(root, "memory", files | {"memory.stat": stat})
    assert memory_within(root=root) == {"total": 200 * MIB, "available": 100 * MIB}


@pytest.mark.parametrize("text", ["", "garbage\n", "4:memory:/\n"])
def test_without_a_limit(root: Path, text: str) -> None:
    (root / "proc/self/cgroup").write_text(text)
    group(root, "memory", {"memory.limit_in_bytes": NONE, "memory.usage_in_bytes": "x"})
    assert memory_within(root=root)["total"] == machine_memory()["total"]


def test_a_group_that_is_over_its_limit(root: Path) -> None:
    (root / "proc/self/cgroup").write_text("0::/\n")
    group(root, "", second(str(MIB), 2 * MIB))
    assert memory_within(root=root) == {"total": MIB, "available": 0}


def test_here() -> None:
    found, machine = memory_within(), machine_memory()
    assert 0 < found["available"] <= found["total"] <= machine["total"]


def test_reading() -> None:
    assert groups_in("12:cpu,memory:/a:b\n0::/c\nx\n") == {
        "cpu": "/a:b",
        "memory": "/a:b",
        "": "/c",
    }
    assert beside("/", "magi.slice") == "/magi.slice"
    assert beside("/lxc/x/user.slice/y.scope", "magi.slice") == "/lxc/x/magi.slice"
