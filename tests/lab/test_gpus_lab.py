"""GPUs of a real magid whose models run as units: listed in their sandbox, shown as JSON."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from magid.launcher import device_list, memory_prediction
from tests.lab.container import Container
from tests.lab.serving import MODELS, SETTINGS, Daemon, installed_in, replaced

pytestmark = pytest.mark.slow

PROGRAM = "/usr/local/bin/llama-with-gpus"
# It lists what two back ends find of one GPU, with another figure each time (a sandbox keeps
# nothing, so by the clock), predicts 512 MiB on CUDA0, and is llama-server for all else, on the
# processor.
WRAPPER = """\
#!/bin/sh
case "$*" in
*--list-devices)
  echo 'ggml_vulkan: 0 = NVIDIA H100 (NVIDIA) | uma: 0 | fp16: 1' >&2
  echo 'Available devices:'
  free=$(awk '{{print 80000 - int($1 * 100) % 8000}}' /proc/uptime)
  echo "  CUDA0: NVIDIA H100 (81920 MiB, $free MiB free)"
  echo '  Vulkan0: NVIDIA H100 (81920 MiB, 80000 MiB free)'
  exit ;;
*"--device CUDA0 "*predict.sock)
  echo '| memory breakdown [MiB] |'
  echo '|   - CUDA0 (H100) | 81920 = 80000 + ( 512 = 500 + 10 + 2) + 1408 |'
  echo '|   - Host | 64 = 60 + 0 + 4 |'
  exit ;;
*"--device CUDA0 "*)
  for word; do
    shift
    case $word in CUDA0) set -- "$@" none ;; *) set -- "$@" "$word" ;; esac
  done ;;
esac
exec {program} "$@"
"""
MODEL = next(iter(MODELS))
DEVICE = 'server_defaults: {n_threads: 1, parallel: 1, ctx_size: 512, device: "none"}'


@pytest.fixture(scope="module")
def daemon(container: Container, chat_model: Path) -> Iterator[Daemon]:
    program = container.release.llama_server
    container.write(PROGRAM, WRAPPER.format(program=program), 0o755)
    settings = SETTINGS.replace(SETTINGS.splitlines()[2], DEVICE)
    daemon = installed_in(container, chat_model, f"{settings}llama_server_path: {PROGRAM}\n")
    daemon.wait_ready()
    yield daemon
    daemon.client.close()


def free(daemon: Daemon) -> list[int]:
    """Of each GPU; nothing before the first list."""
    return [gpu["freeBytes"] for gpu in daemon.client.get("/api/gpus").json()["gpus"]]


def test_gpus_of_units(daemon: Daemon) -> None:
    container = daemon.container
    container.wait_until(lambda: bool(free(daemon)), "a list of GPUs")
    answer = daemon.client.get("/api/gpus").json()
    assert answer["problem"] is None
    (gpu,) = answer["gpus"]
    assert (gpu["name"], gpu["kind"], gpu["id"]) == ("CUDA0", "discrete", "CUDA0")
    assert [other["name"] for other in gpu["alsoListedAs"]] == ["Vulkan0"]
    assert (gpu["servers"], answer["serversAnywhere"]) == ([], []), "all are told to use none"
    assert gpu["othersBytes"] == gpu["totalBytes"] - gpu["freeBytes"]
    before = free(daemon)
    daemon.client.post(f"/api/models/servers/{MODEL}/stop?wait=60").raise_for_status()
    container.wait_until(lambda: free(daemon) != before, "a list after the stop")
    before = free(daemon)
    assert daemon.client.post("/api/gpus/refresh").json()["gpus"][0]["freeBytes"] != before[0]
    shown = container.run(["magictl", "gpus"]).stdout.splitlines()
    assert shown[1].startswith("CUDA0 = Vulkan0  NVIDIA H100  discrete  80.0 GiB")
    assert container.show(device_list.UNIT, "LoadState")["LoadState"] == "not-found"
    daemon.client.post(f"/api/models/servers/{MODEL}/start?wait=60").raise_for_status()


def test_the_memory_of_a_model_that_runs_as_a_unit(daemon: Daemon) -> None:
    """The prediction sees the same GPUs as the model, and its own limit counts."""
    container, path = daemon.container, f"/api/models/{MODEL}"
    running = daemon.client.get(f"{path}/memory").json()
    assert (running["fits"], running["devices"]) == ("yes", [])
    assert running["why"] == "a server of it runs with these settings on the processor"
    larger = daemon.client.get(f"{path}/memory?ctxSize=1048576").json()
    assert (larger["fits"], larger["host"]["limitBytes"]) == ("yes", None)
    assert larger["host"]["buffers"][0]["contextBytes"] == 512 << 20
    settings = {"memoryMax": 64 << 20}
    daemon.client.put(f"{path}/runtime-settings", json=settings).raise_for_status()
    limited = daemon.client.get(f"{path}/memory?ctxSize=1048576").json()
    assert (limited["fits"], limited["host"]["limitBytes"]) == ("no", 64 << 20)
    assert limited["predictedAt"] == larger["predictedAt"], "it does not depend on the limit"
    assert limited["why"].endswith("of the machine's memory, which has room for 64.0 MiB")
    done = container.run(["magictl", "fits", MODEL, "--ctx", "1048576"], check=False)
    assert (done.stdout.splitlines()[-1], done.returncode) == ("fits: no", 3)
    assert container.show(memory_prediction.UNIT, "LoadState")["LoadState"] == "not-found"


def test_a_place_is_in_the_unit_and_outlives_magid(daemon: Daemon) -> None:
    """It is read again from systemd after a restart of magid, and after it was killed."""
    container = daemon.container
    settings = {"device": "CUDA0", "memoryMax": None}
    daemon.put(MODEL, "runtime-settings", settings)
    daemon.restart(MODEL, 200, wait=60)
    placed = daemon.server(MODEL)
    assert placed["placement"] == {
        "devices": [{"name": "CUDA0", "id": "CUDA0", "needBytes": 515 << 20}],
        "extent": "all",
        "ctxSize": None,
    }
    command = container.run(["systemctl", "show", "-P", "ExecStart", placed["unit"]]).stdout
    assert "--n-gpu-layers 999 --device CUDA0 --ctx-size 512" in command
    assert "--fit off" in command
    environment = container.show(placed["unit"], "Environment")["Environment"]
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in environment
    for end in (["restart"], ["kill", "--signal=KILL"]):
        replaced(container, *end, "magid")
        container.wait_until(daemon.is_ready, "readiness")
        now = daemon.server(MODEL)
        assert (now["placement"], now["pid"]) == (placed["placement"], placed["pid"])
        assert now["specCurrent"], "what was decided is no setting"
    (gpu,) = daemon.client.post("/api/gpus/refresh").json()["gpus"]
    assert [(s["modelId"], s["needBytes"]) for s in gpu["servers"]] == [(MODEL, 515 << 20)]
    done = container.run(["magictl", "diff"], check=False)
    assert f"{MODEL}: runs as wanted" in done.stdout
