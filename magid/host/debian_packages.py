"""Which packages of Debian are installed, by dpkg's own list."""

from pathlib import Path
from typing import Final

_STATUS: Final = "var/lib/dpkg/status"


def installed(beginnings: tuple[str, ...], root: Path = Path("/")) -> dict[str, str]:
    """Returns the versions of installed packages with such names; {} without dpkg. Never raises.

    Reads some megabytes, so it blocks for tens of milliseconds.
    """
    found: dict[str, str] = {}
    name = ""
    is_installed = False
    try:
        with (root / _STATUS).open(errors="replace") as lines:
            for line in lines:
                if line.startswith("Package: "):
                    name, is_installed = line[9:].strip(), False
                elif line.startswith("Status: "):
                    is_installed = line.strip().endswith(" installed")
                elif line.startswith("Version: ") and is_installed and name.startswith(beginnings):
                    found[name] = line[9:].strip()
    except OSError:
        return {}
    return found
