"""The cgroup controllers of this machine. A limit has no effect without its controller."""

from pathlib import Path


def controllers(root: Path = Path("/")) -> frozenset[str]:
    """Returns the controllers' names, of cgroup v2 if it is mounted, else of v1. Never raises."""
    unified = _text(root / "sys/fs/cgroup/cgroup.controllers")
    if unified is not None:
        return frozenset(unified.split())
    rows = [line.split() for line in (_text(root / "proc/cgroups") or "").splitlines()]
    # Columns: subsys_name hierarchy num_cgroups enabled.
    return frozenset(row[0] for row in rows if row[3:] == ["1"] and row[1] != "0")


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None
