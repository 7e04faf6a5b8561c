"""Predictions, and a boot of eight models on two GPUs of the tests; `python -m` this module.

The time of a prediction that is made, as a child of magid's and, in a booted container, as a unit;
and of one that is kept. Then from the request to start eight models to the last one's readiness,
beside the same eight command lines by hand: on each GPU one after another, on both at once, so what
is compared with is the slower GPU's own loads. Predictions are kept by then, as at every boot but
the first. BENCH_ROUNDS and BENCH_RELEASE are as for `bench_swap`, BENCH_SIZES=50MB,500MB chooses
the models; the part with units needs root.
"""

import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any, Final

import httpx

from tests.bench.bench_gguf import cpu
from tests.bench.bench_swap import (
    RELEASE,
    Write,
    by_hand,
    command_of,
    container_with,
    run_here,
    run_there,
)
from tests.conftest import _free_port, _free_range, _provisioned
from tests.lab import rpc_gpus
from tests.lab.container import Container
from tests.support import fleets, ggufs
from tests.support.gpus import fake_gpus
from tests.support.rest import Parts

ROUNDS: Final = int(os.environ.get("BENCH_ROUNDS", "7"))
NAMES: Final = tuple(f"model{number}" for number in range(8))
GPUS: Final = ("RPC0", "RPC1")
GPU_MIB: Final = 8192
DEFAULTS: Final = "{n_threads: 1, parallel: 1, ctx_size: 2048}"
RESERVE: Final = "gpu_reserve: 1048576\n"
SETTINGS: Final = f"""\
model_paths: [/models]
profile: swap
server_defaults: {DEFAULTS}
llama_server_path: {rpc_gpus.PROGRAM}
{RESERVE}"""
NONE_WANTED: Final = "name: Boot\nenabled_models: []\n"
FACTOR: Final = 1.05
CTX: Final = 2048  # and one more for each prediction that is made

Ask = Callable[..., Any]  # method, path and body of a request to magid: the answer


def write_50_mb(path: Path, name: str) -> None:
    ggufs.write_wide_model(path, name=name, width=512, feed=2048, layers=6)


def write_500_mb(path: Path, name: str) -> None:
    ggufs.write_wide_model(path, name=name, width=1536, feed=6144, layers=6)


SIZES: Final[tuple[tuple[str, Write], ...]] = (("50 MB", write_50_mb), ("500 MB", write_500_mb))


def place(ask: Ask) -> list[dict[str, Any]]:
    """Has the models run, four on each of two GPUs; returns their servers."""
    for number, model in enumerate(sorted(ask("GET", "/api/models/registry")["models"])):
        device = {"device": GPUS[number % len(GPUS)]}
        ask("PUT", f"/api/models/{model}/runtime-settings", device)
        ask("PUT", f"/api/models/{model}/enabled", {"enabled": True})
        ask("POST", f"/api/models/servers/{model}/start?wait=100")
    servers: list[dict[str, Any]] = ask("GET", "/api/models/servers?all=true")["servers"]
    return servers


def ways(commands: list[list[str]], key: Path, ports: Iterator[int], magid: int) -> dict[str, Any]:
    """By hand, with the command lines of magid's servers, and through magid at its port."""
    devices: dict[tuple[str, str], list[dict[str, Any]]] = {}  # a unit is told of its GPU alone
    for command in commands:
        program = _after(command, "--argv0") if "--argv0" in command else command[0]
        options = min(command.index(one) for one in ("--rpc", "--model"))
        argv = [program, *command[options:]]
        device = _after(argv, "--rpc"), _after(argv, "--device")
        devices.setdefault(device, []).append(by_hand(argv, key, next(ports)))
    assert [len(servers) for servers in devices.values()] == [len(NAMES) // len(GPUS)] * len(GPUS)
    own = {"hand": {"devices": list(devices.values())}, "magid": {"port": magid, "models": []}}
    return {"starts": True, "ways": own, "rounds": ROUNDS}


def _after(command: list[str], option: str) -> str:
    return command[command.index(option) + 1]


def predictions(ask: Ask, model: str) -> tuple[list[float], list[float]]:
    """Seconds of predictions that are made, and of the same ones that are kept."""
    made: list[float] = []
    kept: list[float] = []
    for number in range(1, ROUNDS + 1):
        path = f"/api/models/{model}/memory?ctxSize={CTX + 256 * number}"
        for times in (made, kept):
            began = time.perf_counter()
            answer = ask("GET", path)
            times.append(time.perf_counter() - began)
            assert answer["source"] == "predicted", answer
    return made, kept


def show_predictions(where: str, took: tuple[list[float], list[float]]) -> None:
    made, kept = (1000 * median(times) for times in took)
    print(f"a prediction: {where:15} {made:7.0f} ms, {kept:5.1f} ms once it is kept")


def show_boot(where: str, size: str, took: Mapping[str, list[float]]) -> None:
    hand, own = (1000 * median(took[name]) for name in ("hand", "magid"))
    verdict = "met" if own <= FACTOR * hand else "MISSED"
    print(
        f"{len(NAMES)} models of {size} on {len(GPUS)} GPUs, {where}: {own:.0f} ms, "
        f"{own / hand:.2f}x of {hand:.0f} ms, the slower GPU's loads by hand; "
        f"target {FACTOR}x: {verdict}"
    )


def with_children(folder: Path, size: str, write: Write) -> None:
    program = _provisioned("--rpc")

    def write_all(models: Path) -> None:
        for name in NAMES:
            write(models / f"{name}.gguf", name)

    with fake_gpus(program, folder, [(GPU_MIB, 0)] * len(GPUS)) as gpus:
        parts = Parts(gpus.llama_server, _free_port, _free_range)
        with fleets.fleet(
            parts, folder / "magid", write_all,
            defaults=DEFAULTS, profile=NONE_WANTED, ports=len(NAMES), configuration=RESERVE,
        ) as magid:  # fmt: skip
            servers = place(magid.ask)
            show_predictions("child", predictions(magid.ask, servers[0]["modelId"]))
            key = folder / "key"
            key.write_text("by-hand\n")
            commands = [command_of(server["pid"]) for server in servers]
            ports = iter(_free_port, 0)
            show_boot("children", size, run_here(folder, ways(commands, key, ports, magid.port)))


def with_units(folder: Path, size: str, write: Write) -> None:
    with container_with(
        write, folder, NAMES, SETTINGS, NONE_WANTED, _add_gpus
    ) as container, container.client("http://127.0.0.1:8000") as client:  # fmt: skip
        container.wait_until(lambda: client.get("/readyz").status_code == 200, "readiness")

        def ask(method: str, path: str, body: object = None) -> Any:
            answer = client.request(method, path, json=body)
            return answer.raise_for_status().json() if answer.content else None

        _wait_for_models(container, client)
        servers = place(ask)
        show_predictions(f"unit ({RELEASE})", predictions(ask, servers[0]["modelId"]))
        container.write("/root/key", "by-hand\n", 0o600)
        lines = [container.read(f"/proc/{server['pid']}/cmdline").decode() for server in servers]
        commands = [line.rstrip("\0").split("\0") for line in lines]
        ports = iter(range(9100, 9200))
        took = run_there(container, ways(commands, Path("/root/key"), ports, 8000))
        show_boot(f"units ({RELEASE})", size, took)


def _wait_for_models(container: Container, client: httpx.Client) -> None:
    def are_there() -> bool:
        return len(client.get("/api/models/registry").json()["models"]) == len(NAMES)

    container.wait_until(are_there, "models")


def _add_gpus(container: Container) -> str:
    """Returns what magid.yaml says of them."""
    rpc_gpus.unpack(container, _provisioned("--rpc"))
    gpus = [rpc_gpus.started(container, number, GPU_MIB) for number in range(len(GPUS))]
    return f"rpc_servers: {[gpu.address for gpu in gpus]}\n"


def main() -> None:
    cores = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    print(
        f"machine: {cpu()}, {cores} usable, load {load:.1f}, Python {platform.python_version()}, "
        f"{ROUNDS} rounds, medians"
    )
    for size, write in SIZES:
        if size.replace(" ", "") not in os.environ.get("BENCH_SIZES", "50MB,500MB").split(","):
            continue
        for where in sys.argv[1:] or ("children", "units"):
            measure = {"children": with_children, "units": with_units}[where]
            with tempfile.TemporaryDirectory(prefix="magid-bench-", dir="/var/tmp") as folder:
                measure(Path(folder), size, write)


if __name__ == "__main__":
    main()
