"""doctor: finds problems of this machine, and the commands that fix them.

The exit status is 1 if there is an error; warnings and notes leave it 0.
"""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from magid.cli import hints
from magid.cli.client import Client
from magid.cli.output import note, print_json, say
from magid.cli.parser import Verbs
from magid.wording.counts import counted

if TYPE_CHECKING:  # the checks are imported when they are made: other verbs start without them
    from magid.doctor.checks.all import Result
    from magid.doctor.facts import Finding

_NOTE = "note"


def add(verbs: Verbs) -> None:
    parser = verbs.add(
        "doctor", doctor, "find problems of this machine, and the commands that fix them",
        examples=("sudo magictl doctor", "magictl doctor --all"),
        json="every check, with its findings and the commands that fix them",
    )  # fmt: skip
    parser.add_argument("--all", action="store_true", help="every check and every note")


def doctor(client: Client, args: argparse.Namespace) -> int:
    from magid.doctor.checks.all import results
    from magid.doctor.collect.collector import facts

    def ask(path: str) -> Any:
        return client.call("GET", path)

    found = results(facts(ask))
    if args.json:
        print_json(as_json(found))
    else:
        _print(found, every=args.all)
    return 1 if any(result.severity == "error" for result in found) else 0


def as_json(results: "list[Result]") -> dict[str, Any]:
    return {
        "healthy": all(result.severity in (None, _NOTE) for result in results),
        "checks": [
            {
                "name": result.check.name,
                "says": result.check.says,
                "ok": not result.findings and result.not_made is None,
                "notMade": result.not_made
                and {
                    "why": result.not_made.why,
                    "run": result.not_made.run or None,
                },
                "findings": [
                    {
                        "name": finding.name,
                        "severity": finding.severity,
                        "what": finding.what,
                        "why": finding.why,
                        "do": finding.do,
                        "run": list(finding.run),
                    }
                    for finding in result.findings
                ],
            }
            for result in results
        ],
    }


# -- for people ------------------------------------------------------------------------------


def _print(results: "list[Result]", *, every: bool) -> None:
    """Prints the findings; on a terminal also every check, if there is a problem."""
    worst = [result for result in results if result.severity not in (None, _NOTE)]
    shown = every or (bool(worst) and sys.stdout.isatty())
    for result in results:
        found = [f for f in result.findings if every or f.severity != _NOTE]
        if not found and shown:
            say(_line(result))
        for finding in found:
            _say_finding(result.check.name, finding)
    _sum_up(results, sum(f.severity != _NOTE for r in worst for f in r.findings))


def _line(result: "Result") -> str:
    if result.not_made:
        return f"--  {result.check.name:13} {result.not_made.why}"
    return f"ok  {result.check.name:13} {result.check.says}"


def _say_finding(name: str, finding: "Finding") -> None:
    mark = {"error": "!!", "warning": "! ", "note": "i "}[finding.severity]
    say(f"{mark}  {name:13} {hints.translated(finding.what)}")
    if finding.why:
        say(f"{'':17} {finding.why}")
    if finding.do:
        say(f"{'':17} {finding.do}")
    for command in finding.run:
        say(f"{'':17}     {command}")


def _found(problems: int) -> str:
    return counted(problems, "problem") if problems else "no problems"


def _sum_up(results: "list[Result]", problems: int) -> None:
    """Prints the last line; checks that need root are named on stderr."""
    left = [r.not_made for r in results if r.not_made]
    made = len(results) - len(left)
    say(f"{_found(problems)} found ({counted(made, 'check')})")
    commands = dict.fromkeys(one.run for one in left if one.run)
    if commands:
        more = sum(bool(one.run) for one in left)
        note(f"{counted(more, 'more check')} with: {', '.join(commands)}")
