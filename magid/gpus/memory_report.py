"""Reads what `standalone/predict_memory.py` prints. Pure."""

from collections.abc import Sequence
from typing import Final, Literal

import msgspec
from msgspec import Struct

from magid.gpus.listing import last_line
from magid.gpus.memory_table import Estimate, estimate_in

_BY_US: Final = "cannot predict the memory: "
_CUT: Final = {
    "late": "llama-server did not get to it in time; try again",
    "long": "llama-server printed too much",
}


class Report(Struct, frozen=True):
    """How a llama-server ended that was to predict its memory, and the lines that matter."""

    why: Literal["done", "ended", "late", "long"]
    status: int  # negative: the signal that ended it
    lines: tuple[str, ...]

    @property
    def estimate(self) -> Estimate | None:
        return estimate_in(self.lines)

    @property
    def problem(self) -> str:
        """Why there is no estimate: llama-server's first error, which names the cause."""
        if self.why in _CUT:
            return f"{_BY_US}{_CUT[self.why]}"
        said = _first_error(self.lines) or f"llama-server ended with status {self.status}"
        return f"{_BY_US}{said}"


def report_in(output: str) -> Report | None:
    """Returns the report, which is the last line; None if that is none."""
    try:
        return msgspec.json.decode(output.strip().rpartition("\n")[2], type=Report)
    except (msgspec.DecodeError, RecursionError):
        return None


def problem_in(output: str) -> str:
    """Returns why there is no report: the last line of whatever ran in place of the script."""
    return f"{_BY_US}{last_line(output)}"


def _first_error(lines: Sequence[str]) -> str:
    """Returns the text of the first error, without llama-server's clock and level."""
    found = next((line for line in lines if " E " in line or line.startswith("error")), "")
    return found.rpartition(" E ")[2].strip()[:300]
