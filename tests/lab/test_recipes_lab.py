"""docs/recipes.md, as an administrator types it, in a booted machine with others beside it."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import pytest

from tests.lab import laptop, person
from tests.lab.container import Container, booted
from tests.lab.launching import install_launcher
from tests.lab.serving import FILES, SETTINGS, UNITS, Daemon, installed_in
from tests.lab.trees import NEWEST, ROOT, Release, Tree
from tests.support import transcript
from tests.support.transcript import Step

pytestmark = pytest.mark.slow

DOCUMENT = Path(__file__).parents[2] / "docs/recipes.md"
SETTINGS_HERE = SETTINGS.replace("[/models]", "[/models, /var/lib/magi/models]")
URL = "http://127.0.0.1:8000"
TLS = "One other machine may use the models, over TLS"
PROMETHEUS = "Prometheus on another machine, over TLS"
DISK = "Models on another disk"
PEOPLE = "People who may operate magid"
HOME = "Models in a home folder"
BACKUP = "Backup, and restore on another machine"
# What a recipe finds there, and what leaves the machine as it was.
BEFORE = {
    PROMETHEUS: """
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 825 \\
            -subj /CN=gpu1.example.org -addext subjectAltName=DNS:gpu1.example.org \\
            -keyout /etc/magi/gpu1.key -out /etc/magi/gpu1.pem 2>/dev/null
        chgrp magi /etc/magi/gpu1.key
        chmod 640 /etc/magi/gpu1.key
        echo 'tls_cert: /etc/magi/gpu1.pem' >>/etc/magi/magid.yaml
        echo 'tls_key: /etc/magi/gpu1.key' >>/etc/magi/magid.yaml
        echo 'allowed_hosts: [gpu1.example.org]' >>/etc/magi/magid.yaml
        mkdir -p /etc/systemd/system/magid.socket.d
        printf '[Socket]\\nListenStream=\\nListenStream=0.0.0.0:8000\\n' \\
            >/etc/systemd/system/magid.socket.d/lan.conf
        magictl token create --name me --scope admin >/dev/null
        systemctl daemon-reload
        systemctl stop magid.socket
    systemctl restart magid.service
        until magictl status >/dev/null 2>&1; do sleep 1; done""",
    DISK: """
        mkdir /srv/disk /data
        echo '/srv/disk /data none bind,nofail 0 0' >>/etc/fstab
        systemctl daemon-reload
        mount /data""",
    PEOPLE: "useradd --create-home alice",
    HOME: """
        useradd --create-home bob
        chmod 700 /home/bob
        mkdir /home/bob/models
        cp /models/Alpha-1B-Q4_K_M.gguf /home/bob/models/Bobs-1B-Q4_K_M.gguf
        chown -R bob: /home/bob""",
}
LOCAL_AGAIN = """
    rm -r /etc/systemd/system/magid.socket.d /etc/magi/gpu1.* /var/lib/magi/tokens.json
    sed -i '/^tls_/d; /^allowed_hosts/d' /etc/magi/magid.yaml
    systemctl daemon-reload
    systemctl stop magid.socket
    systemctl restart magid.service"""
AFTERWARDS = {
    TLS: LOCAL_AGAIN,
    PROMETHEUS: LOCAL_AGAIN,
    DISK: """
        mv /data/models/* /models/
        sed -i 's|/data/models|/models, /var/lib/magi/models|' /etc/magi/magid.yaml
        rm -r /etc/systemd/system/magid.service.d
        systemctl daemon-reload
        systemctl restart magid
        magictl rescan
        magictl apply
        magictl wait gamma""",
    HOME: """
        sed -i 's|/home/bob/models, ||' /etc/magi/magid.yaml
        userdel --remove bob
        systemctl restart magid
        magictl rescan
        magictl apply""",
    BACKUP: """
        magictl set alpha ctxSize=
        magictl apply""",
    PEOPLE: """
        userdel --remove alice
        rm /var/lib/magi/models/*
        magictl rescan
        magictl apply""",
}
REBOOT = "systemctl reboot"
# test_package.py and test_next_release_lab.py have machines for these.
OF_THE_PACKAGE = (
    *("Removing magid, and what stays", "A new release of Debian"),
    "From the installation to the first answer on another machine",
)
HEADINGS = [h for h in transcript.sections(DOCUMENT.read_text()) if h not in OF_THE_PACKAGE]


@pytest.fixture(scope="module")
def gpu1(all_trees: dict[Release, Tree], chat_model: Path) -> Iterator[Daemon]:
    with booted(all_trees[NEWEST]) as container:
        daemon = installed_in(container, chat_model, SETTINGS_HERE)
        laptop.set_up(container)
        daemon.wait_ready()
        yield daemon
        daemon.client.close()


@pytest.fixture(scope="module")
def gpu2(all_trees: dict[Release, Tree], chat_model: Path) -> Iterator[Container]:
    """Another machine: magid as it was installed, the models, and other numbers of users."""
    with booted(all_trees[NEWEST]) as container:
        container.run(["useradd", "--system", "somebody"])
        install_launcher(container, chat_model)
        container.run(["rm", "-r", "/models"])
        container.write("/etc/magi/magid.yaml", (ROOT / "etc/magid.yaml").read_bytes())
        for name in FILES:
            container.write(f"/models/{name}", chat_model.read_bytes())
        container.systemctl("enable", *UNITS)
        container.systemctl("start", *UNITS)
        yield container


def typed(
    daemon: Daemon, script: list[Step], other: Callable[[], Container]
) -> list[tuple[str, int]]:
    """A reboot is one of the container, and takes the network beside it with it."""
    results: list[tuple[str, int]] = []
    for (is_reboot, host), steps in groupby(script, lambda s: (s.command == REBOOT, s.host)):
        if host == "gpu2":
            gpu2 = other()
            copied = daemon.container.run(["sh", "-c", f"ls {laptop.GPU2}"]).stdout.split()
            for name in copied:
                gpu2.write(f"/root/{name}", daemon.container.read(f"{laptop.GPU2}/{name}"))
            results += person.typed_at_once(gpu2, [replace(step, host="") for step in steps])
        elif is_reboot:
            daemon.client.close()
            daemon.container.reboot()
            daemon.client = daemon.container.client(URL)
            results += [("", 0) for _ in steps]
        else:
            results += person.typed_at_once(daemon.container, list(steps))
    return results


@pytest.mark.parametrize("heading", HEADINGS)
def test_a_recipe_leads_to_what_it_shows(
    gpu1: Daemon, heading: str, request: pytest.FixtureRequest
) -> None:
    def gpu2() -> Container:
        found: Container = request.getfixturevalue("gpu2")
        return found

    container = gpu1.container
    container.run(["sh", "-e", "-c", BEFORE.get(heading, "")])
    try:
        transcript.check_document(DOCUMENT, lambda script: typed(gpu1, script, gpu2), heading)
    finally:
        container.run(["sh", "-e", "-c", AFTERWARDS.get(heading, "")])
        container.wait_until(gpu1.is_ready, "readiness")
