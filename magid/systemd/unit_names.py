"""Names of models' units, the ports in them, and the unit of a process. Pure."""

import re
from typing import Final


def unit_name(port: int) -> str:
    """Returns the unit of the server on this port; from an integer, so nothing can be injected."""
    return f"llama-server@{int(port)}.service"


UNITS: Final = "llama-server@*.service"
_NAME = re.compile(r"[A-Za-z0-9:_.\\@-]+")  # systemd.unit(5)
_UNIT = re.compile(r"llama-server@([1-9][0-9]{0,4})\.service")


def port_in(name: str) -> int | None:
    """Returns the port in a unit's name; None for names that `unit_name` does not return."""
    match = _UNIT.fullmatch(name)
    return int(match[1]) if match and int(match[1]) < 65_536 else None


def unit_path(port: int) -> str:
    """Returns the unit's D-Bus object path, in which only letters and digits are not escaped."""
    return f"/org/freedesktop/systemd1/unit/llama_2dserver_40{int(port)}_2eservice"


# -- processes -------------------------------------------------------------------------------


def unit_of_process(cgroup: str, *kinds: str) -> str:
    """Returns the innermost unit of a process, by its /proc/PID/cgroup; "" if there is none.

    `kinds` are suffixes of unit names (".service"). Units are in the cgroup v2 hierarchy, or, on a
    machine with v1, in the hierarchy named "systemd"; the line of v2 is then missing, or the root.
    """
    paths = dict(line.split(":", 2)[1:] for line in cgroup.splitlines() if line.count(":") > 1)
    for hierarchy in ("", "name=systemd"):
        parts = paths.get(hierarchy, "").split("/")
        units = [part for part in parts if part.endswith(kinds) and _NAME.fullmatch(part)]
        if units:
            return units[-1]
    return ""
