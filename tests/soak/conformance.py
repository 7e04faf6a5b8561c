"""Requests made from /openapi.json by schemathesis: no defect, and every answer as described.

Every operation but the event stream, which does not end. 503 and 504 are answers: schemathesis
stops the models too, and who asks one then is told so; and it waits for 1e-46 s.
`python -m tests.soak.conformance EXAMPLES SEED FOLDER`.
"""

import re
import subprocess
import sys
from pathlib import Path

from tests import rest
from tests.rest import Parts
from tests.running import Running
from tests.soak import parts
from tests.soak.figures import Figures

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,"
    "response_schema_conformance,response_headers_conformance"
)
# It holds the parsed events of a log against the schema of the text that they are.
CONFIG = """\
[checks]
not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", 503, 504]

[[operations]]
include-path-regex = "/logs$"
checks.response_schema_conformance.enabled = false
"""
HOUR_S = 3600


def command(magid: Running, examples: int, seed: int, config: Path) -> list[str]:
    program = str(Path(sys.executable).with_name("schemathesis"))
    return [
        *(program, f"--config-file={config}", "run", f"{magid.url}/openapi.json"),
        *(f"--max-examples={examples}", f"--seed={seed}", "--phases=examples,coverage,fuzzing"),
        *(f"--checks={CHECKS}", "--exclude-path=/api/events", "--no-color", "--workers=2"),
        "--request-timeout=30",
    ]


def run(examples: int, seed: int, folder: Path, given: Parts | None = None) -> Figures:
    figures = Figures("requests by schemathesis", seed)
    config = folder / "schemathesis.toml"
    config.write_text(CONFIG)
    with rest.serving(given or parts.parts(), folder / "magid") as magid:
        done = subprocess.run(
            command(magid, examples, seed, config),
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=HOUR_S,
            check=False,
        )
        figures.check(magid.client.get("/livez").is_success, "it is gone")
        figures.check("Traceback" not in magid.log.read_text(), "a traceback in the log")
    generated = re.search(r"(\d+) generated", done.stdout)
    tested = re.search(r"Tested: (\d+)", done.stdout)
    figures.rounds = int(generated[1]) if generated else 0
    figures.more["operations"] = int(tested[1]) if tested else 0
    figures.check(done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:])
    return figures


if __name__ == "__main__":
    done = run(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
    print(done.line())
    sys.exit(bool(done.failures))
