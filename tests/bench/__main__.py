"""`make bench`: measurements, one after another, each in a process of its own."""

import argparse
import subprocess
import sys

BENCHES = (
    "bench_gguf",
    "bench_discovery",
    "bench_api",
    "bench_events",
    "bench_page",
    "bench_frames",
    "bench_start",
    "bench_magictl",
    "bench_swap",
    "bench_boot",
    "bench_gpus",
    "bench_gpu_boot",
    "bench_gateway",
    "bench_bodies",
    "bench_metrics",
    "bench_pull",
)


def main() -> int:
    """The number of benches that failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all, or: {', '.join(BENCHES)}")
    failed = 0
    for name in parser.parse_args().names or BENCHES:
        print(f"== {name}", flush=True)
        done = subprocess.run([sys.executable, "-m", f"tests.bench.{name}"], check=False)
        failed += done.returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main())
