"""`make soak`: every topic, one after another, each in a process of its own, with its figures.

`make soak TOPICS="kills headers" SCALE=0.1 SEED=7` chooses; SCALE 1 is the long form (hours).
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

# The arguments of each topic's module at this scale; the last one is a folder where it needs one.
Arguments = Callable[[float, int], list[str]]
TOPICS: dict[str, Arguments] = {
    "kills": lambda scale, seed: [_count(10_000, scale), str(seed), "FOLDER"],
    "faults": lambda scale, seed: ["run", _count(10_000, scale), str(seed), "FOLDER"],
    "disks": lambda _scale, seed: [str(seed), "FOLDER"],
    "headers": lambda scale, seed: [_count(10_000_000, scale), str(seed)],
    "crowds": lambda _scale, seed: ["5000", str(seed), "FOLDER"],
    "bodies": lambda scale, seed: [str(min(1.0, scale)), str(seed), "FOLDER"],
    "load": lambda scale, seed: [_count(600, scale), "500", str(seed), "FOLDER"],
    "pages": lambda scale, seed: [_count(3600, scale), str(seed), "FOLDER"],
    "conformance": lambda scale, seed: [_count(2000, scale), str(seed), "FOLDER"],
    "hostile": lambda scale, seed: [_count(600, scale), str(seed), "FOLDER"],
    "coverage": lambda scale, seed: [_count(3600, scale), str(seed)],
}
MOUNTS = {"disks"}  # in a mount namespace of their own, which takes root


def _count(full: int, scale: float) -> str:
    return str(max(1, int(full * scale)))


def command(topic: str, scale: float, seed: int, folder: str) -> list[str]:
    arguments = [a if a != "FOLDER" else folder for a in TOPICS[topic](scale, seed)]
    own = ["unshare", "--mount", "--propagation", "private"] if topic in MOUNTS else []
    return [*own, sys.executable, "-m", f"tests.soak.{topic}", *arguments]


def main() -> int:
    """The number of topics that failed."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("topics", nargs="*", metavar="TOPIC", help=", ".join(TOPICS))
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    chosen = parser.parse_args()
    print(f"seed {chosen.seed}, scale {chosen.scale:g}, {os.cpu_count()} processors", flush=True)
    failed = 0
    for topic in chosen.topics or TOPICS:
        print(f"== {topic}", flush=True)
        with TemporaryDirectory(prefix="magid-soak-") as folder:
            Path(folder, topic).mkdir()
            words = command(topic, chosen.scale, chosen.seed, f"{folder}/{topic}")
            failed += subprocess.run(words, check=False).returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main())
