"""What journald.conf(5) says about storage, read as systemd reads it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

NONE: Final = "none"
_FOLDERS: Final = ("etc", "run", "usr/local/lib", "usr/lib")  # the first one goes first


def storage(root: Path = Path("/")) -> str:
    """Returns Storage= as it would be in force; "auto" where nothing sets it. Never raises.

    Blocks for a few small reads.
    """
    found = "auto"
    for path in _files(root):
        found = _storage_in(path) or found
    return found


def _files(root: Path) -> Iterator[Path]:
    """The main file, then the drop-ins by name: a later one changes what an earlier one says."""
    folders = [root / folder / "systemd" for folder in _FOLDERS]
    mains = [folder / "journald.conf" for folder in folders]
    yield from [path for path in mains if path.is_file()][:1]
    named: dict[str, Path] = {}
    for folder in folders:
        for path in folder.glob("journald.conf.d/*.conf"):
            named.setdefault(path.name, path)
    yield from (named[name] for name in sorted(named))


def _storage_in(path: Path) -> str:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    values = [line.partition("=")[2].strip() for line in lines if _is_storage(line)]
    return values[-1] if values else ""


def _is_storage(line: str) -> bool:
    return line.partition("=")[0].strip() == "Storage"
