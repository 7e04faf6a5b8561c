"""The controllers of control groups that this machine has: no limit is in force without its own."""

from pathlib import Path


def controllers(root: Path = Path("/")) -> frozenset[str]:
    """Returns their names, of version 2 if it is there, else of version 1. Never raises."""
    unified = _text(root / "sys/fs/cgroup/cgroup.controllers")
    if unified is not None:
        return frozenset(unified.split())
    rows = [line.split() for line in (_text(root / "proc/cgroups") or "").splitlines()]
    # subsys_name hierarchy num_cgroups enabled, below a heading
    return frozenset(row[0] for row in rows if row[3:] == ["1"] and row[1] != "0")


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None
