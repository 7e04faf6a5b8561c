"""How llama-server is asked what memory a server would need, as a child or in a unit. Pure.

llama-server predicts it before it reads the weights and before it allocates anything on a device.
`standalone/predict_memory.py` runs it and ends it at that point.
"""

from collections.abc import Sequence
from typing import Final

from magid.errors import ServerFailed
from magid.llama.arguments import prediction_argv
from magid.llama.placement import Placement
from magid.llama.short_runs import ShortRun
from magid.llama.spec import ServerSpec

PREDICT_S: Final = 30.0  # it takes 0.1 to 5 s, and once in a thousand times it hung
RUN: Final = ShortRun(
    "predict the memory", "run `llama-server --fit on -lv 4`", seconds=PREDICT_S + 10
)
SCRIPT: Final = "predict_memory.py"
_NICENESS: Final = 10  # of one that no start waits for: it yields to all other work


def command(
    script: Sequence[str],
    spec: ServerSpec,
    program: str,
    flags: frozenset[str],
    placement: Placement | None = None,
    *,
    for_start: bool = False,
) -> list[str]:
    """Returns the command line that predicts the memory of this server.

    One `for_start` runs with the priority of the start that waits for it. `script` is how to run
    `SCRIPT`; `flags` are the options that the installed program has. Raises ServerFailed if it
    cannot predict, InvalidInput if it lacks an option that the spec needs.
    """
    check(program, flags)
    niceness = 0 if for_start else _NICENESS
    argv = prediction_argv(spec, program, flags, placement)
    return [*script, f"{PREDICT_S:g}", str(niceness), "--", *argv]


def check(program: str, flags: frozenset[str]) -> None:
    """Raises ServerFailed if this llama-server cannot predict its memory."""
    if not {"--fit", "-lv"} <= flags:
        raise ServerFailed(
            f"cannot predict the memory: {program} has no option --fit; install a llama-server of "
            "2026 or later"
        )
