"""The longest pause of the event loop, and its memory, for a table of bodies: `python -m` this.

Each body of 31 MiB goes to one endpoint while another client asks for /livez again and again: its
longest wait, less what either waited for a processor, is the pause. The first line is without a
body: what the measuring itself sees.
"""

import platform
import random
import sys
import tempfile
from pathlib import Path

from tests.bench.bench_gguf import cpu
from tests.soak.bodies import BODIES, CRUMBS, LIMIT, MIB, MOST_CRUMBS, cost
from tests.soak.parts import daemon
from tests.support import fleets
from tests.support.running import Running

ROUNDS = 3
PATH = "/v1/chat/completions"


def show(magid: Running, name: str, path: str, body: bytes, chunk: int = 0) -> float:
    """Of the median round, in milliseconds."""
    seen = sorted(
        (cost(magid, "POST", path, body, chunk) for _ in range(ROUNDS)), key=lambda one: one.pause_s
    )[ROUNDS // 2]
    times = seen.grown / max(seen.sent, MIB)
    print(
        f"{name:24}{seen.sent / MIB:7.1f} MiB  {seen.status}  pause {seen.pause_s * 1000:6.1f} ms"
        f"  memory {times:4.1f} times the body",
        flush=True,
    )
    return seen.pause_s * 1000


def main() -> None:
    print(f"{cpu()}, Python {platform.python_version()}; median of {ROUNDS}")
    dice = random.Random(1)
    chosen = sys.argv[1:] or [*BODIES, *CRUMBS]
    with tempfile.TemporaryDirectory() as folder, daemon(Path(folder), fleets.write_small) as magid:
        show(magid, "(none)", "/tokenize", b"{}")
        worst = 0.0
        for name in chosen:
            size = MOST_CRUMBS if name in CRUMBS else LIMIT - 2**18
            body = BODIES.get(name, BODIES["base64"])(size, dice)
            worst = max(worst, show(magid, name, PATH, body, CRUMBS.get(name, 0)))
        tokens = b'{"input":[' + b"12345," * 200_000 + b"1]}"
        worst = max(worst, show(magid, "200,000 token ids", "/v1/embeddings", tokens))
        explained = b'{"request":' + BODIES["words"](MIB - 100, dice) + b"}"
        worst = max(worst, show(magid, "to explain", "/api/route/explain", explained))
        profile = b'{"name":"x","enabledModels":[' + b"1," * 30_000 + b"1]}"
        worst = max(worst, show(magid, "a profile", "/api/models/profiles", profile))
        print(f"longest pause {worst:.1f} ms")


if __name__ == "__main__":
    main()
