"""The requests of tests/api/test_schema.py, others in each run and many more of them.

`python -m tests.soak.conformance EXAMPLES SEED FOLDER`: so many good and as many bad ones of each
operation in /openapi.json.
"""

import sys
from pathlib import Path

from tests.soak import parts
from tests.soak.figures import Figures
from tests.support import rest
from tests.support.asking import Asker
from tests.support.rest import Parts

LONGEST = 2000  # characters of a failure


def ask_all(asker: Asker, examples: int, figures: Figures) -> None:
    """Each operation; what is wrong with one of them is a failure of the figures."""
    count = 0
    for operation in asker.operations():
        count += 1
        try:
            asker.ask(operation, examples, figures.seed)
        except Exception as error:  # whatever it is, the others are asked too
            figures.failures.append(f"{operation.label}: {explained(error)}")
    figures.rounds = asker.asked
    figures.more["operations"] = count
    figures.more["statuses"] = dict(sorted(asker.statuses.items()))


def explained(error: Exception) -> str:
    """With what hypothesis notes about the request, and each failure of a group."""
    parts = [error, *getattr(error, "exceptions", ())]
    notes = [note for part in parts for note in getattr(part, "__notes__", ())]
    return "\n".join([*map(str, parts), *notes])[:LONGEST]


def run(examples: int, seed: int, folder: Path, given: Parts | None = None) -> Figures:
    figures = Figures("requests from the description", seed)
    with rest.serving(given or parts.parts(), folder / "magid", locally=True) as magid:
        asker = Asker(magid)
        try:
            ask_all(asker, examples, figures)
        finally:
            asker.close()
        figures.check(magid.client.get("/livez").is_success, "it is gone")
        _, defect, text = magid.log.read_text().partition("Traceback")
        figures.check(not defect, f"a traceback in the log: {text[:LONGEST]}")
    return figures


if __name__ == "__main__":
    done = run(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
    print(done.line())
    sys.exit(bool(done.failures))
