"""What tests expect of the walls around a process, as `inside/reach.py` finds them from within."""

import json
from typing import Any

from magid.launcher.sandbox import SCRATCH
from tests.lab.container import Container
from tests.lab.inside.reach import MARK

# What nothing stays in: devices of everybody, and watches on pressure, which end with who set them.
# The queues are the unit's own.
WRITABLE = frozenset(
    {
        *("/dev/full", "/dev/null", "/dev/ptmx", "/dev/pts/ptmx", "/dev/random", "/dev/tty"),
        *("/dev/urandom", "/dev/zero", "/dev/mqueue", f"/dev/mqueue/{MARK}", SCRATCH),
        *(f"/proc/pressure/{name}" for name in ("cpu", "io", "irq", "memory")),
    }
)
ROOM = 2**30  # bytes of the one place that can be written to


def reached(container: Container, unit: str, name: str) -> dict[str, Any]:
    """What it last said, once it has."""
    prefix = f"REACH {name} "

    def said() -> list[str]:
        texts = [str(entry["MESSAGE"]) for entry in container.journal(unit)]
        return [text.removeprefix(prefix) for text in texts if text.startswith(prefix)]

    container.wait_until(lambda: bool(said()), f"REACH {name}")
    found: dict[str, Any] = json.loads(said()[-1])
    return found
