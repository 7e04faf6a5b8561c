"""What a person types into a container, as a transcript has it, and what then comes."""

import json
import shlex
from pathlib import Path

from tests.lab.container import Container
from tests.support.deadlines import SET_UP_S
from tests.support.transcript import Step

PROGRAM = "/srv/person.py"
_SOURCE = Path(__file__).parent / "inside/person.py"


def typed_at_once(container: Container, script: list[Step]) -> list[tuple[str, int]]:
    """Output and exit status of each; those of another host go through `on-HOST` in there."""
    wanted = [
        {
            "command": f"on-{s.host} {shlex.quote(s.command)}" if s.host else s.command,
            "keys": s.keys,
            "terminal": False,
        }
        for s in script
    ]
    container.write(PROGRAM, _SOURCE.read_bytes())
    done = container.run(["python3", "-I", PROGRAM], input=json.dumps(wanted), timeout=SET_UP_S)
    return [(output, status) for output, status in json.loads(done.stdout)]
