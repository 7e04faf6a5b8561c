"""What a person types into a container, as a transcript has it, and what then comes."""

import json
import shlex
from pathlib import Path
from typing import Any

from tests.lab.container import Container
from tests.support.deadlines import SET_UP_S
from tests.support.transcript import Step, left_on_screen

PROGRAM = "/srv/person.py"
_SOURCE = Path(__file__).parent / "inside/person.py"


def typed_at_once(container: Container, script: list[Step]) -> list[tuple[str, int]]:
    """Output and exit status of each; those of another host go through `on-HOST` in there."""
    commands = [f"on-{s.host} {shlex.quote(s.command)}" if s.host else s.command for s in script]
    return _typed(container, [
        {"command": command, "keys": step.keys, "terminal": False}
        for command, step in zip(commands, script, strict=True)
    ])  # fmt: skip


def typed_on_terminal(container: Container, script: list[Step]) -> list[tuple[str, int]]:
    """Exit status of each, and what of its output is left on the screen."""
    wanted = [{"command": s.command, "keys": s.keys, "terminal": True} for s in script]
    return [(left_on_screen(said), status) for said, status in _typed(container, wanted)]


def _typed(container: Container, wanted: list[dict[str, Any]]) -> list[tuple[str, int]]:
    container.write(PROGRAM, _SOURCE.read_bytes())
    done = container.run(["python3", "-I", PROGRAM], input=json.dumps(wanted), timeout=SET_UP_S)
    return [(output, status) for output, status in json.loads(done.stdout)]
