"""`magictl doctor` on a sound machine and on one with many faults, and for users without root."""

import os
import pty
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import faults
from tests.lab.container import ENVIRONMENT, Container
from tests.lab.doctor import HEALTHY, PEOPLE, Doctor, check_found, check_true, with_doctor
from tests.lab.trees import OLDEST, Release, Tree

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def doctor(all_trees: dict[Release, Tree], chat_model: Path) -> Iterator[Doctor]:
    with with_doctor(all_trees[OLDEST], chat_model) as one:
        yield one


def test_a_healthy_machine(doctor: Doctor) -> None:
    done = doctor.look()
    assert (done.returncode, done.stdout, done.stderr) == (0, HEALTHY, "")
    all_of_it = doctor.look("--all").stdout
    assert "ok  llama-server  llama-server runs in the sandbox" in all_of_it
    assert "i   systemd       systemd 252 does not know RestartSteps=" in all_of_it


def test_faults_that_come_together(doctor: Doctor) -> None:
    for fault in faults.TOGETHER:
        doctor.sh(fault.plant)
    found = doctor.findings()
    for fault in faults.TOGETHER:
        check_found(found, fault)
    check_true(doctor, found)
    doctor.mend(found)
    for fault in faults.TOGETHER:
        doctor.sh(fault.after)
    doctor.sh("magictl rescan && magictl apply")


def test_a_masked_launcher_shows_everywhere(doctor: Doctor) -> None:
    def said(*words: str) -> subprocess.CompletedProcess[str]:
        return doctor.container.run(["magictl", *words], check=False)

    text = "magi-launcher.service is masked: no server can be started or stopped"
    doctor.sh("systemctl mask -q --now magi-launcher.service")
    doctor.container.wait_until(lambda: text in said("status").stdout, "a word about the mask")
    assert said("status").returncode == 3
    assert "systemctl unmask magi-launcher.service" in said("status").stdout
    assert text in said("ls").stderr
    assert text in said("ps").stderr
    ready = doctor.daemon.client.get("/readyz")
    assert (ready.status_code, ready.json()["reasons"]) == (503, [text])
    doctor.mend(doctor.findings())
    doctor.container.wait_until(doctor.daemon.is_ready, "readiness")


def test_a_state_folder_behind_a_link_is_sound(doctor: Doctor) -> None:
    """Its owner and mode are those of the folder that it leads to."""
    units = "magid.service magid.socket magid-local.socket magid-view.socket"
    doctor.sh(
        f"systemctl stop {units}; mv /var/lib/magi /srv/state; ln -s /srv/state /var/lib/magi"
    )
    doctor.sh(f"systemctl start {units}")
    assert doctor.look().stdout == HEALTHY
    doctor.sh(f"systemctl stop {units}; rm /var/lib/magi; mv /srv/state /var/lib/magi")
    doctor.sh(f"systemctl start {units}")


@pytest.mark.parametrize("user", ["magi", *PEOPLE])
def test_who_is_not_root(doctor: Doctor, user: str) -> None:
    """Nothing is wrong, and what could not be seen is not called sound either."""
    done = doctor.look(user=user)
    assert done.returncode == 0
    assert done.stdout.startswith("no problems found ("), done.stdout
    assert done.stderr.endswith("more checks with: sudo magictl doctor\n")
    lines = doctor.look("--all", user=user).stdout.splitlines()
    unseen = {line.split()[1] for line in lines if line.startswith("--")}
    assert {"writing", "sandbox", "llama-server", "folders", "files"} <= unseen
    if user == "stranger":
        assert {"registry", "owners", "launcher", "magid", "broken", "memory", "servers"} <= unseen


def test_a_model_that_magid_cannot_read(doctor: Doctor) -> None:
    """Only root can see why, so the doctor asks for that next."""
    doctor.sh(f"chmod 0600 {faults.BETA}; magictl rescan 2>/dev/null")
    (finding,) = doctor.findings("member")
    assert (finding["name"], finding["run"]) == ("model-unread", ["sudo magictl doctor"])
    doctor.mend(doctor.findings())


def test_a_limit_that_is_not_in_force_is_not_shown_as_if_it_were(doctor: Doctor) -> None:
    """The machines of the laboratory have no controllers at all."""
    model = "alpha_1p0b_q4km_fast"
    doctor.sh(f"magictl set {model} memoryMax=8G")
    shown = doctor.sh(f"magictl show {model}")
    assert "not in force: this kernel has no memory controller for control groups" in shown
    assert "cpuQuota" in shown
    assert "no cpu controller" not in shown  # it is not set
    doctor.sh(f"magictl set {model} memoryMax=")


def test_a_journal_that_keeps_nothing(doctor: Doctor) -> None:
    """Both of the logs say so, also where they would wait in silence."""
    config = "/etc/systemd/journald.conf"
    doctor.container.write(config, "[Journal]\nStorage=none\n")
    doctor.sh("systemctl restart systemd-journald.service")
    for words in ([], ["-f"], ["alpha_1p0b_q4km_fast"], ["alpha_1p0b_q4km_fast", "-f"]):
        done = doctor.container.run(["magictl", "logs", *words], check=False)
        assert (done.returncode, done.stdout) == (1, ""), words
        assert "Storage=none in journald.conf" in done.stderr, done.stderr
    doctor.sh(f"rm {config}; systemctl restart systemd-journald.service")


def test_on_a_terminal_each_check_has_its_line(doctor: Doctor) -> None:
    doctor.sh("chmod 0777 /etc/magi")
    try:
        shown = _on_a_terminal(doctor.container, ["magictl", "doctor"])
    finally:
        doctor.sh("chmod 0755 /etc/magi")
    lines = shown.replace("\r\n", "\n").splitlines()
    assert "ok  registry      the registry is whole" in lines
    assert "!!  owners        /etc/magi is open to others than root: its mode is 0777" in lines
    assert lines[-1] == "1 problem found (30 checks)"


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
