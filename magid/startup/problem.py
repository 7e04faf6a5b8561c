"""One thing that keeps magid from starting, and what mends it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """`what` begins with "cannot". `do` is for a person, `run` for root's shell, in this order."""

    what: str
    why: str = ""
    do: str = ""
    run: tuple[str, ...] = ()


def problem_of(message: str) -> Problem:
    """Splits the message of an error, "cannot ...: why; what to do". Pure."""
    text, _, advice = message.rpartition("; ")
    what, _, why = (text or message).partition(": ")
    return Problem(what, why, do=advice if text else "")


def rendered(problem: Problem) -> str:
    """Formats a problem: one line with what and why, then what to do and the commands. Pure."""
    why = f": {problem.why}" if problem.why else ""
    lines = [f"magid: {problem.what}{why}"]
    lines += [f"    {problem.do}"] if problem.do else []
    return "\n".join([*lines, *(f"    {command}" for command in problem.run)])
