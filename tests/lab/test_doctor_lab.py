"""`magictl doctor` on a machine with real faults: it finds each, and its own remedies mend them.

Faults are planted several at a time, as they come: none may hide another. What doctor gives as a
command is run as it stands; what it asks a person to do is done by the test.
"""

import json
import os
import pty
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.lab.container import ENVIRONMENT, Container, booted
from tests.lab.serving import Daemon, installed_in
from tests.lab.trees import RELEASES, Release, Tree

pytestmark = pytest.mark.slow

HEALTHY = "no problems found (26 checks)\n"
ALPHA = "/models/Alpha-1B-Q4_K_M.gguf"
SERVER = "/usr/local/bin/llama-server"
CONFIG = "/etc/magi/magid.yaml"
TIMES = 4  # that a person would do what doctor says, and ask again


@dataclass(frozen=True, slots=True)
class Fault:
    """`plant` is what went wrong; `says` and `run` are in what the check of this name finds."""

    check: str
    plant: str
    says: str
    run: str = ""
    by_hand: str = ""  # what it asks a person to do


FILES = (
    Fault("files", f"chmod 0600 {ALPHA}", f"a server cannot read {ALPHA}", f"chmod o+r {ALPHA}"),
    Fault(
        "folders",
        "mkdir -m 0700 /models/private",
        "magid cannot list /models/private: Permission denied",
        "chmod o+rx /models/private",
    ),
    Fault(
        "broken",
        "printf GGUF >/models/Torn.gguf; magictl rescan 2>/dev/null",
        "/models/Torn.gguf is broken: it is truncated",
        "mv /models/Torn.gguf /models/Torn.gguf.broken",
    ),
    Fault(
        "files",
        "touch /srv/x.gguf; ln -s /srv/x.gguf /models/Out.gguf",
        "/models/Out.gguf cannot be run",
        by_hand="rm /models/Out.gguf",
    ),
    Fault(
        "profiles",
        "echo 'name: [' >/etc/magi/profiles/mine.yaml",
        "cannot read /etc/magi/profiles/mine.yaml: line 2",
        "mv /etc/magi/profiles/mine.yaml /etc/magi/profiles/mine.yaml.off",
    ),
    Fault(
        "owners",
        "chmod 0666 /run/magi/launcher.sock",
        "/run/magi/launcher.sock is open to others than the group magi: its mode is 0666",
        "chmod 0660 /run/magi/launcher.sock",
    ),
    Fault(
        "owners",
        "chmod 0777 /etc/magi",
        "/etc/magi is open to others than root: its mode is 0777",
        "chmod 0755 /etc/magi",
    ),
    Fault(
        "owners",
        "chown root /var/lib/magi/model_registry.json",
        "/var/lib/magi/model_registry.json belongs to root",
        "chown magi:magi /var/lib/magi/model_registry.json",
    ),
    Fault(
        "registry",
        "echo broken >/var/lib/magi/model_registry.json.corrupt-20261124T000000Z-0000",
        "the registry was broken once, and an older copy is in use",
        "rm /var/lib/magi/model_registry.json.corrupt-20261124T000000Z-0000",
    ),
    Fault(
        "clock",
        "touch -d '+3 days' /var/lib/magi/model_registry.json",
        "the clock is wrong",
        "touch /var/lib/magi/*",
    ),
    Fault(
        "ports",
        "systemd-run -q --unit=stranger python3 -m http.server --bind 127.0.0.1 8090",
        "port 8090 is taken by python3",
        "systemctl stop stranger.service",
    ),
    Fault(
        "gpu-nodes",
        "mknod -m 0600 /dev/nvidia0 c 195 0",
        "a server cannot open /dev/nvidia0: it is root:root with mode 0600",
        "chmod 0666 /dev/nvidia0",
        by_hand="rm /dev/nvidia0",  # no driver will ever be there
    ),
)
UNITS = (
    Fault("units", "systemctl disable -q magid.service", "magid.service is not enabled",
          "systemctl enable --now magid.service"),
    Fault("units", "systemctl mask -q --now magid-local.socket", "magid-local.socket is masked",
          "systemctl unmask magid-local.socket"),
    Fault(
        "units",
        "printf '[Service]\nExecStart=/bin/true\n' >'/etc/systemd/system/llama-server@.service'",
        "/etc/systemd/system/llama-server@.service keeps every model from being started",
        "mv /etc/systemd/system/llama-server@.service "
        "/etc/systemd/system/llama-server@.service.off",
    ),
    Fault(
        "drop-ins",
        "mkdir -p /etc/systemd/system/magi-launcher.service.d; "
        "printf '[Service]\nNoNewPrivileges=no\n' "
        ">/etc/systemd/system/magi-launcher.service.d/x.conf; systemctl daemon-reload",
        "magi-launcher.service has less protection than it should: NoNewPrivileges=no",
        "rm /etc/systemd/system/magi-launcher.service.d/x.conf",
    ),
    Fault(
        "exposure",
        "systemctl stop -q magid.service magid.socket; "
        "mkdir -p /etc/systemd/system/magid.socket.d; "
        "printf '[Socket]\nListenStream=0.0.0.0:8001\n' "
        ">/etc/systemd/system/magid.socket.d/open.conf; "
        "systemctl daemon-reload; systemctl start magid.socket",
        "port 8001 is open to other machines: it listens on 0.0.0.0",
        "systemctl revert magid.socket",
    ),
    Fault(
        "settings",
        f"echo 'port_rang: [1, 2]' >>{CONFIG}; systemctl start -q magid.service 2>/dev/null || :",
        f"cannot use {CONFIG}: line 5: port_rang is not known",
        "systemctl restart magid.service",
        by_hand=f"sed -i /port_rang:/d {CONFIG}",
    ),
    Fault("units", ":", "magid.service has failed", "systemctl reset-failed magid.service"),
    Fault(
        "units",
        # A folder of drop-ins that is new would do, too, but systemd notices those late (252).
        "touch /usr/lib/systemd/system/magid.service",
        "systemd has not read the files of magid.service again since they changed",
        "systemctl daemon-reload",
    ),
    Fault("units", "systemctl stop magi-launcher.socket", "magi-launcher.socket does not run",
          "systemctl restart magi-launcher.socket"),
)  # fmt: skip
RUNNING = (
    Fault(
        "folders",
        "mkdir -p /mnt/nas; echo 'tmpfs /mnt/nas tmpfs defaults 0 0' >>/etc/fstab; "
        f"sed -i 's|/models|/models, /mnt/nas|; s|n_threads|n_gpu_layers: 99, n_threads|' {CONFIG};"
        " systemctl restart magid.service; "
        "until curl -fs 127.0.0.1:8000/readyz >/dev/null; do sleep 0.1; done",
        "/mnt/nas is not mounted, and the model folder /mnt/nas is there",
        "mount /mnt/nas",
    ),
    Fault(
        "gpu-use",
        ":",
        f"{SERVER} finds no GPU",
        by_hand=f"sed -i 's|n_gpu_layers: 99,||' {CONFIG}; systemctl restart magid.service",
    ),
    Fault(
        "ports",
        "systemctl stop llama-server@8080.service; setsid "
        "python3 -m http.server --bind 127.0.0.1 8080 >/dev/null 2>&1 & "
        "until ss -Hltn 'sport = 8080' | grep -q .; do sleep 0.05; done; "
        "magictl start alpha_1p0b_q4km_fast 2>/dev/null || :",
        "port 8080 is taken by python3",
        "kill",
    ),
    Fault(
        "servers",
        ":",
        "llama-server@8080.service (alpha_1p0b_q4km_fast) is in state failed",
        "magictl restart alpha_1p0b_q4km_fast",
    ),
)
DISKS = (
    Fault(
        "disks",
        "mount -t tmpfs -o size=8m,nr_inodes=20,mode=0750,uid=magi,gid=magi tmpfs /var/lib/magi",
        "the disk is full: 8 MiB are free on /var/lib/magi",
        "du -xah /var/lib/magi",
        by_hand="umount /var/lib/magi",
    ),
    Fault("disks", ":", "no more files can be made on /var/lib/magi", "du -x --inodes"),
)  # fmt: skip
PROGRAM = {
    "missing": (f"rm {SERVER}", "cannot find llama-server in /usr/local/bin, /usr/bin or PATH"),
    "other processor": (
        f"printf '\\177ELFother' >{SERVER}; chmod +x {SERVER}",
        f"{SERVER} does not run: Exec format error",
    ),
    "library": (
        f"printf '#!/bin/sh\necho libllama.so: error while loading shared libraries; exit 127\n' "
        f">{SERVER}",
        "`--version` ended with 127: libllama.so: error while loading shared libraries",
    ),
    "old": (
        f'printf \'#!/bin/sh\necho "--model X"; echo "--port N"\n\' >{SERVER}',
        f"cannot use {SERVER}: it does not know --api-key-file",
    ),
}


class Doctor:
    """A machine with magid, and its doctor."""

    def __init__(self, daemon: Daemon) -> None:
        self.container: Container = daemon.container
        self.daemon = daemon

    def sh(self, script: str) -> str:
        """As root types it; what takes longer than a person would wait is ended."""
        return self.container.run(["timeout", "60", "sh", "-c", script], check=False).stdout

    def look(self, *words: str, user: str | None = None) -> "subprocess.CompletedProcess[str]":
        return self.container.run(["magictl", "doctor", *words], check=False, user=user)

    def findings(self) -> tuple[int, list[tuple[str, dict[str, Any]]]]:
        """The exit status; and each finding with the name of its check, notes left out."""
        done = self.look("--json")
        assert done.stderr == ""
        checks = json.loads(done.stdout)["checks"]
        found = [(check["name"], f) for check in checks for f in check["findings"]]
        return done.returncode, [one for one in found if one[1]["severity"] != "note"]

    def mend(self) -> None:
        """Run what doctor says, and ask it again, until it finds nothing."""
        for _ in range(TIMES):
            _, found = self.findings()
            for command in [command for _, finding in found for command in finding["run"]]:
                self.sh(command)
            self.daemon.container.wait_until(self.is_settled, "servers that have settled")
            if self.look().stdout == HEALTHY:
                return
        raise AssertionError(self.look().stdout)

    def is_settled(self) -> bool:
        if not self.container.exists("/run/magi/magid.sock"):
            return True  # not mended yet
        done = self.container.run(["magictl", "ps", "--json"], check=False)
        states = [s["state"] for s in json.loads(done.stdout or '{"servers": []}')["servers"]]
        return not {"starting", "loading", "stopping"} & set(states)


@pytest.fixture(scope="module")
def doctor(all_trees: dict[Release, Tree], chat_model: Path) -> Iterator[Doctor]:
    with booted(all_trees[RELEASES[0]]) as container:
        daemon = installed_in(container, chat_model)
        daemon.wait_ready()
        yield Doctor(daemon)
        daemon.client.close()


def test_a_healthy_machine(doctor: Doctor) -> None:
    done = doctor.look()
    assert (done.returncode, done.stdout, done.stderr) == (0, HEALTHY, "")
    all_of_it = doctor.look("--all").stdout
    assert "ok  llama-server  llama-server runs in the sandbox" in all_of_it
    assert "i   systemd       systemd 252 does not know RestartSteps=" in all_of_it


@pytest.mark.parametrize(
    "faults", [FILES, UNITS, RUNNING, DISKS], ids=["files", "units", "running", "disks"]
)
def test_what_is_found_is_mended(doctor: Doctor, faults: tuple[Fault, ...]) -> None:
    for fault in faults:
        doctor.sh(fault.plant)
    status, found = doctor.findings()
    assert status == 1
    for fault in faults:
        matching = [f for check, f in found if check == fault.check and fault.says in f["what"]]
        assert matching, "\n".join([fault.says, "", *(f["what"] for _, f in found)])
        assert any(command.startswith(fault.run) for command in matching[0]["run"] or [""])
        assert fault.run or matching[0]["do"]
        doctor.sh(fault.by_hand or ":")
    doctor.mend()


@pytest.mark.parametrize("kind", PROGRAM)
def test_llama_servers_that_do_not_run(doctor: Doctor, kind: str) -> None:
    plant, says = PROGRAM[kind]
    doctor.sh(f"cp -a {SERVER} /root/llama-server; {plant}")
    try:
        status, found = doctor.findings()
        assert status == 1
        assert [check for check, _ in found] == ["llama-server"]
        assert says in found[0][1]["what"], found
        assert found[0][1]["do"] or "llama_server_path" in found[0][1]["what"]
    finally:
        doctor.sh(f"mv /root/llama-server {SERVER}")


def test_who_is_not_root(doctor: Doctor) -> None:
    done = doctor.look(user="magi")
    assert done.returncode == 0
    assert done.stdout.startswith("no problems found (")
    assert done.stderr.endswith("more checks with: sudo magictl doctor\n")
    stranger = doctor.look("--all", user="nobody")
    assert "magid answers" not in stranger.stdout, stranger.stdout


def test_on_a_terminal_each_check_has_its_line(doctor: Doctor) -> None:
    doctor.sh("chmod 0777 /etc/magi")
    try:
        shown = _on_a_terminal(doctor.container, ["magictl", "doctor"])
    finally:
        doctor.sh("chmod 0755 /etc/magi")
    lines = shown.replace("\r\n", "\n").splitlines()
    assert "ok  registry      the registry is whole" in lines
    assert "!!  owners        /etc/magi is open to others than root: its mode is 0777" in lines
    assert lines[-1] == "1 problem found (26 checks)"


def _on_a_terminal(container: Container, argv: list[str]) -> str:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        container.command(argv), stdin=theirs, stdout=theirs, stderr=theirs, env=ENVIRONMENT
    )
    os.close(theirs)
    text = b""
    try:
        while part := os.read(ours, 65_536):
            text += part
    except OSError:  # EIO: the other end is closed
        pass
    finally:
        os.close(ours)
        assert process.wait(60) == 1
    return text.decode()
