"""The names of the units of models and the ports in them, and the unit of a process. Pure."""

import re
from typing import Final


def unit_name(port: int) -> str:
    """The unit of the server on this port. Built from an integer, so nothing can be injected."""
    return f"llama-server@{int(port)}.service"


UNITS: Final = "llama-server@*.service"
_NAME = re.compile(r"[A-Za-z0-9:_.\\@-]+")  # systemd.unit(5)
_UNIT = re.compile(r"llama-server@([1-9][0-9]{0,4})\.service")


def port_in(name: str) -> int | None:
    """The port of a unit of this name; None for every name that `unit_name` does not make."""
    match = _UNIT.fullmatch(name)
    return int(match[1]) if match and int(match[1]) < 65_536 else None


# -- names -----------------------------------------------------------------------------------


def unit_path(port: int) -> str:
    """The unit's object on the bus: every byte but letters and digits is escaped."""
    return f"/org/freedesktop/systemd1/unit/llama_2dserver_40{int(port)}_2eservice"


# -- processes -------------------------------------------------------------------------------


def unit_of_process(cgroup: str, *kinds: str) -> str:
    """The innermost unit that a process is in, by its /proc/PID/cgroup; "" if it is in none.

    `kinds` are endings of names (".service"). systemd has its units in the hierarchy of version 2,
    and on a machine with version 1 in the one named "systemd": there the line of version 2 is
    missing, or leads to the root.
    """
    paths = dict(line.split(":", 2)[1:] for line in cgroup.splitlines() if line.count(":") > 1)
    for hierarchy in ("", "name=systemd"):
        parts = paths.get(hierarchy, "").split("/")
        units = [part for part in parts if part.endswith(kinds) and _NAME.fullmatch(part)]
        if units:
            return units[-1]
    return ""
