"""magi-rpc.service: GPUs for models of other machines, by llama.cpp's own RPC server, in a box."""

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from magid.standalone.serve_rpc import WARNING
from tests.lab.container import Container
from tests.lab.probe_llama import REACH
from tests.lab.reaching import ROOM, WRITABLE, reached
from tests.lab.serving import MODELS, SETTINGS, Daemon, installed_in

pytestmark = pytest.mark.slow

SERVICE, SOCKET = "magi-rpc.service", "magi-rpc.socket"
ADDRESS = "127.0.0.1:50052"
FOLDER = "/opt/llama-rpc"
RPC_SERVER = f"{FOLDER}/ggml-rpc-server"
MODEL = next(iter(MODELS))
# Beside each RPC server a program looks around, behind the same walls.
LOOKING = f"""\
#!/bin/sh
/usr/bin/python3 -I {REACH} server >&2 &
exec {RPC_SERVER}.real "$@"
"""
# A machine beside this one, with two addresses, of which one is let in.
NEIGHBOUR = """\
ip netns add beside
ip link add lan type veth peer name eth0 netns beside
ip address add 10.9.0.1/24 dev lan
ip link set lan up
ip -n beside address add 10.9.0.2/24 dev eth0
ip -n beside address add 10.9.0.3/24 dev eth0
ip -n beside link set eth0 up
"""
CONNECT = """\
import socket, sys
socket.create_connection(("10.9.0.1", 50052), 2, (sys.argv[1], 0))
"""
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def daemon(container: Container, chat_model: Path, llama_server_with_rpc: Path) -> Iterator[Daemon]:
    """A magid whose models may use the GPUs that its own machine offers."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as made:
        made.add(llama_server_with_rpc.parent, FOLDER.lstrip("/"))
    container.run(["tar", "-C", "/", "-xf", "-"], input=archive.getvalue())
    container.run(["mv", RPC_SERVER, f"{RPC_SERVER}.real"])
    container.write(RPC_SERVER, LOOKING, 0o755)
    container.write(REACH, (HERE / "inside/reach.py").read_text())
    more = f"llama_server_path: {FOLDER}/llama-server\nrpc_servers: ['{ADDRESS}']\n"
    daemon = installed_in(container, chat_model, f"{SETTINGS}{more}gpu_reserve: 1048576\n")
    daemon.wait_ready()
    yield daemon
    daemon.client.close()


def findings(container: Container) -> dict[str, str]:
    """What the doctor finds, by name."""
    checks = json.loads(container.run(["magictl", "doctor", "--json"], check=False).stdout)
    return {f["name"]: f["what"] for check in checks["checks"] for f in check["findings"]}


def listed(daemon: Daemon) -> list[str]:
    return [gpu["id"] for gpu in daemon.client.post("/api/gpus/refresh").json()["gpus"]]


def test_it_is_off(daemon: Daemon) -> None:
    container = daemon.container
    for unit in (SERVICE, SOCKET):
        shown = container.show(unit, "UnitFileState", "ActiveState")
        assert shown == {"UnitFileState": "disabled", "ActiveState": "inactive"}
    assert listed(daemon) == []
    assert not {"rpc-offered", "unit-failed"} & findings(container).keys()


def test_a_model_runs_on_it(daemon: Daemon) -> None:
    """And the list of GPUs is made while the model uses it, which takes a second connection."""
    container = daemon.container
    container.systemctl("enable", "--now", SERVICE)
    assert container.show(SOCKET, "UnitFileState")["UnitFileState"] == "enabled"
    assert listed(daemon) == [ADDRESS]
    daemon.restart(MODEL, 200, wait=60)
    (placed,) = daemon.server(MODEL)["placement"]["devices"]
    assert placed["id"] == ADDRESS
    asked = {"model": MODEL, "prompt": "hello", "max_tokens": 4}
    answer = daemon.client.post("/v1/completions", json=asked)
    assert answer.json()["usage"]["completion_tokens"] == 4
    assert listed(daemon) == [ADDRESS]
    (gpu,) = daemon.client.get("/api/gpus").json()["gpus"]
    assert [server["modelId"] for server in gpu["servers"]] == [MODEL]
    command = "ggml-rpc-server --host 127.0.0.1 --port"
    assert command in container.systemctl("status", "--lines=0", "--full", SERVICE)


def test_what_a_server_in_it_can_reach(daemon: Daemon) -> None:
    container = daemon.container
    found = reached(container, SERVICE, "server")
    own = f"/sys/fs/cgroup/magi.slice/{SERVICE}/memory.pressure"
    assert set(found["writable"]) <= WRITABLE | {own, "/dev/shm/magi-lab-left"}
    assert all(room <= [ROOM, 16_384] for room in found["room"].values()), found["room"]
    assert found["sockets"] == []
    assert found["addresses"] == []
    pid = container.pid_of(SERVICE)
    inside = ["nsenter", "--target", str(pid), "--net", "ip", "-brief", "address"]
    assert {line.split()[0] for line in container.run(inside).stdout.splitlines()} == {"lo"}
    uid = int(container.run(["ps", "-o", "uid=", "-p", str(pid)]).stdout)
    assert uid in range(61_184, 65_520), "one of DynamicUser="
    assert container.show(SERVICE, "DevicePolicy")["DevicePolicy"] == "closed"


def can_connect(container: Container, source: str) -> bool:
    argv = ["ip", "netns", "exec", "beside", "python3", "-I", "-c", CONNECT, source]
    return container.run(argv, check=False).returncode == 0


def drop_in(container: Container, text: str) -> None:
    container.write(f"/etc/systemd/system/{SOCKET}.d/address.conf", f"[Socket]\n{text}")
    container.systemctl("daemon-reload")
    container.systemctl("stop", SERVICE, SOCKET)
    container.systemctl("start", SERVICE)


def test_only_the_machines_that_are_named_get_in(daemon: Daemon) -> None:
    container = daemon.container
    container.run(["sh", "-e", "-c", NEIGHBOUR])
    drop_in(container, "ListenStream=\nListenStream=10.9.0.1:50052\nIPAddressAllow=10.9.0.2\n")
    assert can_connect(container, "10.9.0.2")
    assert not can_connect(container, "10.9.0.3")
    offered = findings(container)["rpc-offered"]
    assert offered == "this machine offers its GPUs over RPC at 10.9.0.1:50052"


def test_an_address_of_the_internet_is_refused(daemon: Daemon) -> None:
    container = daemon.container
    drop_in(container, "ListenStream=\nListenStream=8.8.8.8:50052\nIPAddressAllow=any\n")
    container.wait_until(
        lambda: container.show(SERVICE, "ActiveState")["ActiveState"] == "failed", "its end"
    )
    shown = container.show(SERVICE, "ExecMainStatus", "NRestarts")
    assert shown == {"ExecMainStatus": "78", "NRestarts": "0"}
    said = [str(entry["MESSAGE"]) for entry in container.journal(SERVICE)]
    assert any("8.8.8.8:50052 is no address of a private" in m and WARNING in m for m in said)
    assert findings(container)["unit-failed"].startswith(f"{SERVICE} has failed")
