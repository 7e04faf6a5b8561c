"""The names of the units of models, and the ports in them. Pure."""

import re
from typing import Final


def unit_name(port: int) -> str:
    """The unit of the server on this port. Built from an integer, so nothing can be injected."""
    return f"llama-server@{int(port)}.service"


UNITS: Final = "llama-server@*.service"
_UNIT = re.compile(r"llama-server@([1-9][0-9]{0,4})\.service")


def port_in(name: str) -> int | None:
    """The port of a unit of this name; None for every name that `unit_name` does not make."""
    match = _UNIT.fullmatch(name)
    return int(match[1]) if match and int(match[1]) < 65_536 else None


# -- names -----------------------------------------------------------------------------------


def unit_path(port: int) -> str:
    """The unit's object on the bus: every byte but letters and digits is escaped."""
    return f"/org/freedesktop/systemd1/unit/llama_2dserver_40{int(port)}_2eservice"
