"""The properties of units, as systemd 252 to 262 fill them."""

from typing import Any

from magid.llama.spec import ServerSpec
from tests.support.fake_systemd import ready

SPEC = ServerSpec("demo_tiny", 2, 8080, "127.0.0.1", "/models/demo.gguf")
EXITED, KILLED, DUMPED = 1, 2, 3


def unit(**changes: Any) -> dict[str, Any]:
    return ready(SPEC) | changes


def ended(**changes: Any) -> dict[str, Any]:
    """One that failed for good, having been ready."""
    failed = {"ActiveState": "failed", "SubState": "failed", "MainPID": 0, "ExecMainPID": 77}
    return unit(**(failed | {"ExecMainExitTimestampMonotonic": 300} | changes))
