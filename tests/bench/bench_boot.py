"""From the request to start eight tiny models to the last one's readiness; `python -m` this module.

By hand one after another, beside magid with children and, in a booted container, with units: as at
a boot. Each server has one thread, so as many load side by side as there are cores. BENCH_ROUNDS
and BENCH_RELEASE are as for `bench_swap`; the part with units needs root.
"""

import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.bench_gguf import cpu
from tests.bench.bench_swap import (
    PROFILE,
    by_hand,
    command_of,
    container_with,
    run_here,
    run_there,
    write_tiny,
)
from tests.conftest import _free_port, _free_range
from tests.support import fleets
from tests.support.rest import Parts

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "7"))
NAMES = tuple(f"model{number}" for number in range(8))
DEFAULTS = "{n_threads: 1, parallel: 1, ctx_size: 512}"
SETTINGS = f"model_paths: [/models]\nprofile: swap\nserver_defaults: {DEFAULTS}\n"


def with_children(folder: Path) -> dict[str, list[float]]:
    done = subprocess.run(
        ["packaging/provision-llama-server"], capture_output=True, text=True, check=True
    )
    parts = Parts(Path(done.stdout.strip()), _free_port, _free_range)
    key = folder / "key"
    key.write_text("by-hand\n")

    def write(models: Path) -> None:
        for name in NAMES:
            write_tiny(models / f"{name}.gguf", name)

    with fleets.fleet(
        parts, folder / "magid", write, defaults=DEFAULTS, profile=PROFILE, ports=len(NAMES)
    ) as magid:
        found = magid.servers()
        servers = [by_hand(command_of(s["pid"]), key, _free_port()) for s in found.values()]
        return run_here(folder, asked(servers, "children", magid.port))


def with_units(folder: Path) -> dict[str, list[float]]:
    base = "http://127.0.0.1:8000"
    with (
        container_with(write_tiny, folder, NAMES, SETTINGS) as container,
        container.client() as ask,
    ):
        container.wait_until(lambda: ask.get(f"{base}/readyz").status_code == 200, "readiness")
        container.write("/root/key", "by-hand\n", 0o600)
        found = ask.get(f"{base}/api/models/servers?all=true").json()["servers"]
        servers = []
        for number, server in enumerate(found):
            shown = container.read(f"/proc/{server['pid']}/cmdline").decode()
            command = shown.rstrip("\0").split("\0")
            servers.append(by_hand(command, Path("/root/key"), 9100 + number))
        return run_there(container, asked(servers, "units", 8000))


def asked(servers: list[dict[str, Any]], name: str, port: int) -> dict[str, Any]:
    ways = {"hand": {"servers": servers}, name: {"port": port, "models": []}}
    return {"starts": True, "ways": ways, "rounds": ROUNDS}


def show(where: str, took: Mapping[str, list[float]]) -> None:
    hand, own = (1000 * median(took[name]) for name in ("hand", where))
    print(
        f"{len(NAMES)} tiny models: {where:8} {own:7.0f} ms, {own / hand:5.2f}x of {hand:.0f} ms, "
        "their starts by hand"
    )


def main() -> None:
    cores = len(os.sched_getaffinity(0))
    print(f"machine: {cpu()}, {cores} usable, Python {platform.python_version()}, {ROUNDS} rounds")
    for where in sys.argv[1:] or ("children", "units"):
        measure = {"children": with_children, "units": with_units}[where]
        with tempfile.TemporaryDirectory(prefix="magid-bench-", dir="/var/tmp") as folder:
            show(where, measure(Path(folder)))


if __name__ == "__main__":
    main()
