"""Reads Storage= from journald.conf(5) and its drop-ins, as systemd does."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

NONE: Final = "none"
_FOLDERS: Final = ("etc", "run", "usr/local/lib", "usr/lib")  # by falling priority


def storage(root: Path = Path("/")) -> str:
    """Returns the effective Storage=; "auto" if it is not set. Never raises.

    Blocks for a few small reads.
    """
    found = "auto"
    for path in _files(root):
        found = _storage_in(path) or found
    return found


def _files(root: Path) -> Iterator[Path]:
    """Yields the main file, then the drop-ins by name; a later file overrides an earlier one."""
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
