"""GPUs of a real magid whose models run as units: listed in their sandbox, shown as JSON.

The last tests have GPUs of any size, behind the RPC of a real llama-server: what is predicted in a
unit is what the server takes there.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from magid.launcher import device_list, memory_prediction
from magid.systemd.unit_names import unit_name
from tests.lab import rpc_gpus
from tests.lab.container import Container
from tests.lab.installing import install_magid
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
    assert limited["why"].endswith("of which its memoryMax allows 64.0 MiB")
    done = container.run(["magictl", "fits", MODEL, "--ctx", "1048576"], check=False)
    assert (done.stdout.splitlines()[-1], done.returncode) == ("fits: no", 3)
    assert container.show(memory_prediction.UNIT, "LoadState")["LoadState"] == "not-found"


def test_a_limit_that_is_too_small_keeps_the_unit_from_starting(daemon: Daemon) -> None:
    """The context has to fit into it; the weights, which are pages of the file, need not."""
    container, path = daemon.container, f"/api/models/servers/{MODEL}"
    daemon.client.post(f"{path}/stop?wait=60").raise_for_status()
    daemon.put(MODEL, "runtime-settings", {"memoryMax": 64 << 20, "ctxSize": 1 << 20})
    refused = daemon.client.post(f"{path}/start?wait=60")
    assert (refused.status_code, refused.json()["error"]) == (507, "DoesNotFit")
    assert "of which its memoryMax allows 64.0 MiB" in refused.json()["message"]
    conditions = daemon.client.get("/api/models/status").json()["conditions"]
    (told,) = (one for one in conditions if one["code"] == "DoesNotFit")
    assert told["modelIds"] == [MODEL]
    unit = unit_name(MODELS[MODEL])
    assert container.show(unit, "ActiveState")["ActiveState"] == "inactive"
    daemon.put(MODEL, "runtime-settings", {"memoryMax": 4 << 30})
    daemon.client.post(f"{path}/start?wait=60").raise_for_status()
    assert container.show(unit, "MemoryMax")["MemoryMax"] == str(4 << 30)
    held = daemon.client.get(f"/api/models/{MODEL}/memory").json()
    assert held["fits"] == "yes"
    daemon.put(MODEL, "runtime-settings", {"memoryMax": None, "ctxSize": None})
    daemon.restart(MODEL, 200, wait=60)


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


# -- GPUs behind RPC -------------------------------------------------------------------------------

RPC_SETTINGS = f"""\
gpu_reserve: 1048576
llama_server_path: {rpc_gpus.PROGRAM}
rpc_servers: ["%s", "%s"]
"""
LARGE = 524_288  # tokens: 256 MiB of context, and some for computing
MIB = 1 << 20


@pytest.fixture(scope="module")
def remote(daemon: Daemon, llama_server_with_rpc: Path) -> Iterator[tuple[str, str]]:
    """Two GPUs, of 400 and 200 MiB, that magid.yaml names: their addresses."""
    container = daemon.container
    rpc_gpus.unpack(container, llama_server_with_rpc)
    gpus = [rpc_gpus.started(container, n, mib) for n, mib in ((1, 400), (2, 200))]
    first, second = (gpu.address for gpu in gpus)
    own = SETTINGS.replace(", ctx_size: 512", ", batch_size: 32")
    container.write("/etc/magi/magid.yaml", own + RPC_SETTINGS % (first, second))
    replaced(container, "restart", "magid")
    container.wait_until(lambda: len(free(daemon)) == 2, "a list of the RPC servers' GPUs")
    yield first, second
    container.systemctl("stop", "fake-gpu-1.service", "fake-gpu-2.service", check=False)


def used(daemon: Daemon) -> list[int]:
    """MiB that servers hold of each GPU, by what the GPUs themselves say is free."""
    answer = daemon.client.post("/api/gpus/refresh").json()
    assert answer["problem"] is None
    return [(gpu["totalBytes"] - gpu["freeBytes"]) // MIB for gpu in answer["gpus"]]


def test_a_prediction_in_a_unit_is_what_the_unit_then_holds(
    daemon: Daemon, remote: tuple[str, str]
) -> None:
    container, (first, second) = daemon.container, remote
    for name in MODELS:
        daemon.client.post(f"/api/models/servers/{name}/stop?wait=60").raise_for_status()
    assert used(daemon) == [0, 0]
    settings = {"device": None, "memoryMax": None, "ctxSize": LARGE}
    daemon.put(MODEL, "runtime-settings", settings)
    predicted = daemon.client.get(f"/api/models/{MODEL}/memory").json()
    assert (predicted["fits"], predicted["devices"][0]["name"]) == ("yes", "RPC0")
    assert used(daemon) == [0, 0], "a prediction allocates nothing"
    daemon.client.post(f"/api/models/servers/{MODEL}/start?wait=60").raise_for_status()
    server = daemon.server(MODEL)
    (placed,) = server["placement"]["devices"]
    assert (placed["name"], placed["id"], server["placement"]["extent"]) == ("RPC0", first, "all")
    held = used(daemon)
    assert 0 <= held[0] - predicted["devices"][0]["totalBytes"] // MIB <= 3
    assert held[1] == 0
    command = container.run(["systemctl", "show", "-P", "ExecStart", server["unit"]]).stdout
    assert f"--rpc {first} " in command
    assert second not in command
    answer = daemon.client.post(
        "/v1/completions", json={"model": MODEL, "prompt": "hello", "max_tokens": 4}
    )
    assert answer.json()["usage"]["completion_tokens"] == 4


def test_the_best_fit_and_what_does_not_fit(daemon: Daemon, remote: tuple[str, str]) -> None:
    small, large = list(MODELS)[1:]
    daemon.put(small, "runtime-settings", {"ctxSize": 131_072, "device": None})
    daemon.client.post(f"/api/models/servers/{small}/start?wait=60").raise_for_status()
    (placed,) = daemon.server(small)["placement"]["devices"]
    assert placed["id"] == remote[0], "the one that has the least left"
    before = daemon.pids()
    daemon.put(large, "runtime-settings", {"ctxSize": LARGE, "device": None})
    refused = daemon.client.post(f"/api/models/servers/{large}/start?wait=60")
    assert (refused.status_code, refused.json()["error"]) == (507, "DoesNotFit")
    assert "RPC0 has room for" in refused.json()["message"]
    assert daemon.pids() == before, "nothing was started or stopped for it"


def test_a_place_outlives_magid_while_the_set_of_gpus_changes(
    daemon: Daemon, remote: tuple[str, str]
) -> None:
    """The other GPU is gone meanwhile. An upgrade is an install over what is there."""
    container, before = daemon.container, daemon.server(MODEL)
    container.systemctl("stop", "fake-gpu-2.service")
    for end in (["restart"], ["kill", "--signal=KILL"], ["restart", "magi-launcher"]):
        if "magi-launcher" in end:
            install_magid(container)
        replaced(container, *end, "magid")
        container.wait_until(lambda: len(free(daemon)) == 1, "a list of the GPU that is left")
        now = daemon.server(MODEL)
        assert (now["placement"], now["pid"]) == (before["placement"], before["pid"])
    answer = daemon.client.get("/api/gpus").json()
    assert answer["problem"] == f"cannot reach the RPC server {remote[1]}: Connection refused"
    assert [gpu["id"] for gpu in answer["gpus"]] == [remote[0]]
