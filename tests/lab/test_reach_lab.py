"""What a process within a model's unit can reach, against a short list; and what it leaves.

Two walls, each for itself: the unit's mounts and rules, by a program that is run in the unit before
the server; and behind exec_model.py, where the server is, also the filter of system calls.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from magid.launcher.sandbox import SCRATCH
from magid.systemd.unit_names import unit_name
from tests.lab.container import Container
from tests.lab.inside.reach import MARK, OUTSIDE
from tests.lab.launching import SETTINGS, Asker, install_launcher
from tests.lab.probe_llama import REACH
from tests.lab.reaching import ROOM, WRITABLE, reached

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
PROBE = "/usr/local/bin/probe-llama"
FOLDER = "/etc/systemd/system/llama-server@.service.d"
BEFORE = f"[Service]\nExecStartPre=/usr/bin/python3 -I {REACH} before\n"
LOCAL = ("127.0.0.1", "::1")


@pytest.fixture(scope="module")
def asker(container: Container, chat_model: Path) -> Iterator[Asker]:
    """Its llama-server looks for what it can reach, and there is much to be reached."""
    install_launcher(container, chat_model)
    probe = (HERE / "probe_llama.py").read_text()
    container.write(PROBE, f"#!/usr/bin/python3 -I\n{probe}", 0o755)
    container.write(REACH, (HERE / "inside/reach.py").read_text())
    container.write("/usr/local/lib/everywhere.py", (HERE / "inside/everywhere.py").read_text())
    container.write("/etc/magi/magid.yaml", f"{SETTINGS}llama_server_path: {PROBE}\n")
    container.write(f"{FOLDER}/before.conf", BEFORE)
    container.systemctl("daemon-reload")
    container.run(["ip", "address", "replace", f"{OUTSIDE}/32", "dev", "lo"])
    container.run(["systemctl", "start", "systemd-logind.service"], check=False)
    everywhere = ["python3", "-I", "/usr/local/lib/everywhere.py"]
    container.run(["systemd-run", "--unit=everywhere", "--property=UMask=0", *everywhere])
    container.wait_until(
        lambda: any(e["MESSAGE"] == "listening" for e in container.journal("everywhere")),
        "listening",
    )
    yield Asker.of(container)
    container.systemctl("stop", "everywhere")


def test_all_that_can_be_reached(asker: Asker) -> None:
    container = asker.container
    everything = container.run(["python3", "-I", REACH, "host"]).stdout
    host = json.loads(everything.removeprefix("REACH host "))
    with asker.running(asker.spec()) as unit:
        before, server = (reached(container, unit, name) for name in ("before", "server"))
    print(container.release.name, before, server)  # noqa: T201 - a figure
    # What there is to be found, and is seen by the very same looks.
    assert {"/run/open.sock", "/run/lock/open.sock", "/dev/shm/open.sock"} <= set(host["sockets"])
    assert {"tcp 127.0.0.53 53", "udp 127.0.0.53 53"} <= set(host["addresses"])
    assert len(host["sockets"]) > 15

    for found in (before, server):
        own = f"/sys/fs/cgroup/magi.slice/{unit}/memory.pressure"
        assert set(found["writable"]) <= WRITABLE | {own, f"{SCRATCH}/{MARK}"}
        assert SCRATCH in found["writable"]
        assert all(room <= [ROOM, 16_384] for room in found["room"].values()), found["room"]
    # The unit's mounts and rules.
    abstract = {path for path in host["sockets"] if path.startswith("@")}
    assert {"@magi-lab-open-1", "@magi-lab-open-2", "@magi-lab-open-5"} <= abstract
    files = {path for path in before["sockets"] if not path.startswith("@")}
    assert files == {"/etc/open.sock", "/opt/open.sock", "/run/systemd/notify"}
    assert {address.split()[1] for address in before["addresses"]} == set(LOCAL)
    # The server's: not one. Nor can it use wait_ready.py, which has its user and may connect.
    assert server["memories"] == []
    assert server["sockets"] == []
    assert server["addresses"] == []


def test_nothing_that_it_writes_is_there_afterwards(asker: Asker) -> None:
    """Neither for the next process of the same unit, nor for the machine."""
    container = asker.container
    spec = asker.spec()
    with asker.running(spec) as unit:
        first = container.pid_of(unit)
        mark = f"/proc/{first}/root{SCRATCH}/{MARK}"
        container.wait_until(lambda: container.exists(mark), "a mark")
        uid = container.run(["stat", "--format=%u", mark]).stdout.strip()
        container.systemctl("kill", "--signal=KILL", "--kill-whom=main", unit)
        container.wait_until(
            lambda: container.pid_of(unit) not in (0, first) and asker.is_in(spec.port, "active")(),
            "another process",
        )
        assert reached(container, unit, "before")["left"] == []
        assert reached(container, unit, "server")["left"] == ["/dev/mqueue"]  # of `before`
    assert not container.exists(f"/run/credentials/{unit_name(spec.port)}")
    search = f"find / -path /proc -prune -o ( -name {MARK}* -o -uid {uid} ) -print"
    assert container.run(search.split()).stdout == ""
    for table in ("shm", "sem", "msg"):
        assert container.read(f"/proc/sysvipc/{table}").count(b"\n") == 1, table
    assert MARK not in container.read("/proc/keys").decode()
