"""Predictions, and a boot of eight models on two GPUs of the tests; `python -m` this module.

The time of a prediction that is made, as a child of magid's and, in a booted container, as a unit;
and of one that is kept. Then from the request to start eight models to the last one's readiness,
beside the same eight command lines by hand: on each GPU one after another, on both at once, so what
is compared with is the slower GPU's own loads. Predictions are kept by then, as at every boot but
the first. BENCH_ROUNDS and BENCH_RELEASE are as for `bench_swap`; the part with units needs root.
"""

import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final

from tests.bench.bench_gguf import cpu
from tests.bench.bench_swap import (
    RELEASE,
    by_hand,
    command_of,
    container_with,
    run_here,
    write_tiny,
)
from tests.conftest import _free_port, _free_range, _provisioned
from tests.support import fleets, ggufs
from tests.support.gpus import fake_gpus
from tests.support.rest import Parts
from tests.support.running import Running

ROUNDS: Final = int(os.environ.get("BENCH_ROUNDS", "7"))
NAMES: Final = tuple(f"model{number}" for number in range(8))
GPUS: Final = ("RPC0", "RPC1")
GPU_MIB: Final = 8192
DEFAULTS: Final = "{n_threads: 1, parallel: 1, ctx_size: 2048}"
SETTINGS: Final = f"model_paths: [/models]\nprofile: swap\nserver_defaults: {DEFAULTS}\n"
NONE_WANTED: Final = "name: Boot\nenabled_models: []\n"
FACTOR: Final = 1.05
CTX: Final = 2048  # and one more for each prediction that is made

Get = Callable[[str], Any]  # returns the answer to a GET of this path


def write_50_mb(path: Path, name: str) -> None:
    ggufs.write_wide_model(path, name=name, width=512, feed=2048, layers=6)


@contextmanager
def placed(folder: Path) -> Iterator[Running]:
    """A magid whose eight models run, four on each of two GPUs."""
    program = _provisioned("--rpc")
    with fake_gpus(program, folder, [(GPU_MIB, 0)] * len(GPUS)) as gpus:
        parts = Parts(gpus.llama_server, _free_port, _free_range)

        def write(models: Path) -> None:
            for name in NAMES:
                write_50_mb(models / f"{name}.gguf", name)

        with fleets.fleet(
            parts, folder / "magid", write,
            defaults=DEFAULTS, profile=NONE_WANTED, ports=len(NAMES),
            configuration="gpu_reserve: 1048576\n",
        ) as magid:  # fmt: skip
            for number, model in enumerate(sorted(magid.get("/api/models/registry")["models"])):
                device = {"device": GPUS[number % len(GPUS)]}
                magid.ask("PUT", f"/api/models/{model}/runtime-settings", device)
                magid.ask("PUT", f"/api/models/{model}/enabled", {"enabled": True})
                magid.ask("POST", f"/api/models/servers/{model}/start?wait=100")
            yield magid


def boot(magid: Running, folder: Path) -> dict[str, list[float]]:
    """Seconds by hand and through magid, for each round."""
    key = folder / "key"
    key.write_text("by-hand\n")
    devices: dict[str, list[dict[str, Any]]] = {name: [] for name in GPUS}
    for server in magid.servers().values():
        command = command_of(server["pid"])
        command = [_after(command, "--argv0"), *command[command.index("--rpc") :]]
        devices[_after(command, "--device")].append(by_hand(command, key, _free_port()))
    assert {len(servers) for servers in devices.values()} == {len(NAMES) // len(GPUS)}
    ways = {
        "hand": {"devices": list(devices.values())},
        "magid": {"port": magid.port, "models": []},
    }
    return run_here(folder, {"starts": True, "ways": ways, "rounds": ROUNDS})


def _after(command: list[str], option: str) -> str:
    return command[command.index(option) + 1]


def predictions(get: Get, model: str) -> tuple[list[float], list[float]]:
    """Seconds of predictions that are made, and of the same ones that are kept."""
    made: list[float] = []
    kept: list[float] = []
    for number in range(1, ROUNDS + 1):
        path = f"/api/models/{model}/memory?ctxSize={CTX + 256 * number}"
        for times in (made, kept):
            began = time.perf_counter()
            answer = get(path)
            times.append(time.perf_counter() - began)
            assert answer["source"] == "predicted", answer
    return made, kept


def show_predictions(where: str, took: tuple[list[float], list[float]]) -> None:
    made, kept = (1000 * median(times) for times in took)
    print(f"a prediction: {where:8} {made:7.0f} ms, {kept:5.1f} ms once it is kept")


def show_boot(took: Mapping[str, list[float]]) -> None:
    hand, own = (1000 * median(took[name]) for name in ("hand", "magid"))
    verdict = "met" if own <= FACTOR * hand else "MISSED"
    print(
        f"{len(NAMES)} models on {len(GPUS)} GPUs: {own:7.0f} ms, {own / hand:5.2f}x of "
        f"{hand:.0f} ms, the slower GPU's loads by hand   target {FACTOR}x: {verdict}"
    )


def with_children(folder: Path) -> None:
    with placed(folder) as magid:
        show_predictions("child", predictions(magid.get, min(magid.servers())))
        show_boot(boot(magid, folder))


def with_units(folder: Path) -> None:
    base = "http://127.0.0.1:8000"
    name = NAMES[0]
    with (
        container_with(write_tiny, folder, (name,), SETTINGS) as container,
        container.client() as ask,
    ):
        container.wait_until(lambda: ask.get(f"{base}/readyz").status_code == 200, "readiness")

        def get(path: str) -> Any:
            return ask.get(base + path).raise_for_status().json()

        (model,) = {server["modelId"] for server in get("/api/models/servers?all=true")["servers"]}
        show_predictions(f"unit ({RELEASE})", predictions(get, model))


def main() -> None:
    cores = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    print(
        f"machine: {cpu()}, {cores} usable, load {load:.1f}, Python {platform.python_version()}, "
        f"{ROUNDS} rounds, medians"
    )
    for where in sys.argv[1:] or ("children", "units"):
        measure = {"children": with_children, "units": with_units}[where]
        with tempfile.TemporaryDirectory(prefix="magid-bench-", dir="/var/tmp") as folder:
            measure(Path(folder))


if __name__ == "__main__":
    main()
