"""From the request for B, with A idle in its place, to B's first byte; `python -m` this module.

By hand (stop A, start B, poll), by llama-server's router, and by magid with children and with
units, each with room for one model. The units are in a booted container, beside a swap by hand in
that container; this part needs root. BENCH_ROUNDS=N changes the rounds, BENCH_RELEASE=name the
container's Debian.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final

from tests.bench import swapping
from tests.bench.bench_gguf import cpu
from tests.bench.gateway_ways import router
from tests.conftest import _free_port, _free_range
from tests.lab.container import Container, booted
from tests.lab.launching import install_launcher
from tests.lab.serving import UNITS
from tests.lab.trees import RELEASES, build_all
from tests.support import fleets, ggufs
from tests.support.deadlines import SET_UP_S
from tests.support.rest import Parts

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "15"))
RELEASE = os.environ.get("BENCH_RELEASE", RELEASES[-1].name)
TARGETS_MS: Final[Mapping[str, float]] = {"children": 40, "units": 120}
FACTOR: Final = 1.1
DEFAULTS = "{n_threads: 1, parallel: 1, ctx_size: 512, start: on-demand}"
ROOM_FOR_ONE = "gateway: {max_loaded: 1}\n"
PROFILE = "name: Swap\nenabled_models: ['*']\n"
NAMES = ("alpha", "beta")
SETTINGS = f"model_paths: [/models]\nprofile: swap\nserver_defaults: {DEFAULTS}\n{ROOM_FOR_ONE}"
SCRIPT = "/usr/local/bin/swapping.py"

Write = Callable[[Path, str], None]


def write_tiny(path: Path, name: str) -> None:
    ggufs.write_chat_model(path, name=name, quantization="F16")


def write_1_gb(path: Path, name: str) -> None:
    """A dense model of 1.1 GB, of random numbers: nothing of it can be left unread."""
    ggufs.write_wide_model(path, name=name, width=2048, feed=8192, layers=8)


SIZES: Final[tuple[tuple[str, Write], ...]] = (("tiny", write_tiny), ("1 GB", write_1_gb))


# -- the ways ------------------------------------------------------------------------------------


def by_hand(command: list[str], key: Path, port: int) -> dict[str, Any]:
    """What magid runs, with a port and a key file of its own."""
    argv = list(command)
    if "--argv0" in argv:  # our private llama-server: a script that starts a loader
        program = argv[argv.index("--argv0") + 1]
        argv = [program, *argv[argv.index("--model") :]]
    argv[argv.index("--port") + 1] = str(port)
    argv[argv.index("--api-key-file") + 1] = str(key)
    return {"argv": argv, "port": port, "key": "by-hand", "model": "any"}


def command_of(pid: int, proc: Path = Path("/proc")) -> list[str]:
    return (proc / str(pid) / "cmdline").read_bytes().decode().rstrip("\0").split("\0")


def ids_in(answer: Mapping[str, Any]) -> list[str]:
    """Of the models themselves; they stand before shorter names, tiers and `auto`."""
    ids = [str(entry["id"]) for entry in answer.get("data", ())][: len(NAMES)]
    return [one for one in ids if one.startswith(NAMES)]


def run_here(folder: Path, asked_for: dict[str, Any]) -> dict[str, list[float]]:
    asked = folder / "asked.json"
    asked.write_text(json.dumps(asked_for))
    command = [sys.executable, "-I", swapping.__file__, str(asked)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return dict(json.loads(done.stdout))


def with_children(folder: Path, write: Write) -> dict[str, list[float]]:
    """By hand, router, and magid whose servers are its children."""
    done = subprocess.run(
        ["packaging/provision-llama-server"], capture_output=True, text=True, check=True
    )
    program = Path(done.stdout.strip())
    parts = Parts(program, _free_port, _free_range)
    key = folder / "key"
    key.write_text("by-hand\n")

    def write_models(models: Path) -> None:
        for name in NAMES:
            write(models / f"{name}.gguf", name)

    with ExitStack() as held:
        magid = held.enter_context(
            fleets.fleet(
                parts, folder / "magid", write_models,
                defaults=DEFAULTS, configuration=ROOM_FOR_ONE, profile=PROFILE,
            )
        )  # fmt: skip
        with fleets.client(magid) as client:
            models = ids_in(client.get("/v1/models").json())
        servers = []
        for model in models:
            swapping.ask(magid.port, "any", model)
            command = command_of(magid.servers()[model]["pid"])
            servers.append(by_hand(command, key, _free_port()))
        options = ("--models-max", "1", "-np", "1", "-t", "1", "-c", "512")
        routed = [f"{name}.gguf" for name in NAMES]
        port, _ = held.enter_context(
            contextmanager(router)(
                folder / "router", program, {n: magid.models / n for n in routed}, options
            )
        )
        ways = {
            "hand": {"servers": servers},
            "router": {"port": port, "models": list(NAMES)},
            "children": {"port": magid.port, "models": models},
        }
        return run_here(folder, {"ways": ways, "rounds": ROUNDS})


@contextmanager
def container_with(
    write: Write,
    folder: Path,
    names: Sequence[str] = NAMES,
    settings: str = SETTINGS,
    profile: str = PROFILE,
    add: Callable[[Container], str] = lambda _: "",
) -> Iterator[Container]:
    """A service of these models, which by default start on demand and have room for one.

    `add` returns what stands in magid.yaml besides the settings.
    """
    tree = next(t for r, t in build_all(RELEASES, print).items() if r.name == RELEASE)
    with booted(tree) as container:
        for name in names:
            write(folder / f"{name}.gguf", name)
        install_launcher(container, folder / f"{names[0]}.gguf")
        container.run(["rm", "-r", "/models"])
        for name in names:
            copy_into(container, folder / f"{name}.gguf", f"/models/{name}.gguf")
        container.write("/etc/magi/magid.yaml", settings + add(container))
        container.write("/etc/magi/profiles/swap.yaml", profile)
        container.write(SCRIPT, Path(swapping.__file__).read_bytes())
        container.systemctl("enable", *UNITS)
        container.systemctl("start", *UNITS)
        yield container


def copy_into(container: Container, source: Path, path: str) -> None:
    script = 'mkdir -p "${0%/*}" && cat >"$0" && chmod 644 "$0"'
    with source.open("rb") as file:
        subprocess.run(
            container.command(["sh", "-c", script, path]), stdin=file, timeout=SET_UP_S, check=True
        )


def with_units(folder: Path, write: Write) -> dict[str, list[float]]:
    """By hand and magid with units, both in a container."""
    with container_with(write, folder) as container, container.client() as client:
        base = "http://127.0.0.1:8000"
        container.wait_until(
            lambda: len(ids_in(client.get(f"{base}/v1/models").json())) == len(NAMES), "models"
        )
        models = ids_in(client.get(f"{base}/v1/models").json())
        container.write("/root/key", "by-hand\n", 0o600)
        servers = []
        for number, model in enumerate(models):
            body = {"model": model, "prompt": "a", "max_tokens": 1}
            client.post(f"{base}/v1/completions", json=body).raise_for_status()
            shown = client.get(f"{base}/api/models/servers?all=true").json()["servers"]
            pid = next(s["pid"] for s in shown if s["modelId"] == model)
            command = container.read(f"/proc/{pid}/cmdline").decode().rstrip("\0").split("\0")
            servers.append(by_hand(command, Path("/root/key"), 9100 + number))
        ways = {"hand": {"servers": servers}, "units": {"port": 8000, "models": models}}
        return run_there(container, {"ways": ways, "rounds": ROUNDS})


def run_there(container: Container, asked_for: dict[str, Any]) -> dict[str, list[float]]:
    container.write("/root/asked.json", json.dumps(asked_for))
    done = container.run(["python3", "-I", SCRIPT, "/root/asked.json"], timeout=SET_UP_S)
    return dict(json.loads(done.stdout))


# -- the table -----------------------------------------------------------------------------------


def show(size: str, where: str, took: Mapping[str, list[float]]) -> None:
    hand = 1000 * median(took["hand"])
    print(f"{size:5} {where:10} by hand  {hand:7.1f} ms")
    for name, seconds in took.items():
        if name == "hand":
            continue
        own = 1000 * median(seconds)
        verdict = ""
        if name in TARGETS_MS:
            limit = FACTOR * hand + TARGETS_MS[name]
            met = "met" if own <= limit else "MISSED"
            verdict = f"   target {FACTOR}x + {TARGETS_MS[name]:.0f} ms = {limit:.0f} ms: {met}"
        print(f"{'':16} {name:9}{own:7.1f} ms {own / hand:5.2f}x {own - hand:+7.1f} ms{verdict}")


def main() -> None:
    print(f"machine: {cpu()}, Python {platform.python_version()}, {ROUNDS} swaps of each, medians")
    chosen = sys.argv[1:] or ["children", "units"]
    for size, write in SIZES:
        if size.replace(" ", "") not in os.environ.get("BENCH_SIZES", "tiny,1GB"):
            continue
        for where in chosen:
            measure = {"children": with_children, "units": with_units}[where]
            with tempfile.TemporaryDirectory(prefix="magid-bench-", dir="/var/tmp") as folder:
                show(size, where, measure(Path(folder), write))


if __name__ == "__main__":
    main()
