"""docs/recipes.md, as an administrator types it, in a booted machine with others beside it."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.container import Container, booted
from tests.lab.serving import Daemon, installed_in
from tests.lab.trees import NEWEST, Release, Tree
from tests.support import transcript
from tests.support.deadlines import SET_UP_S
from tests.support.transcript import Step

pytestmark = pytest.mark.slow

DOCUMENT = Path(__file__).parents[2] / "docs/recipes.md"
PERSON = (Path(__file__).parent / "inside/person.py").read_text()
PROGRAM = "/srv/person.py"
LAPTOP = "/srv/laptop"  # the home folder of that machine
# A network and files of its own; nothing of magid's.
ON_LAPTOP = f"""\
#!/bin/sh
exec ip netns exec laptop unshare --mount sh -e -c '
    for path in /etc/magi /run/magi /var/lib/magi; do mount -t tmpfs tmpfs $path; done
    mount --bind {LAPTOP} /root
    cd /root
    exec bash -c "$1"' sh "$1"
"""
NETWORK = f"""\
mkdir -p {LAPTOP} /etc/netns/laptop
printf '127.0.0.1 localhost\\n192.0.2.1 gpu1.example.org\\n' >/etc/netns/laptop/hosts
ip netns add laptop
ip link add lan type veth peer name eth0 netns laptop
ip address add 192.0.2.1/24 dev lan
ip link set lan up
ip -n laptop address add 192.0.2.2/24 dev eth0
ip -n laptop link set lo up
ip -n laptop link set eth0 up
"""
# No ssh stands between the machines.
SCP = f"""\
#!/bin/sh
for last; do :; done
case $last in laptop:) ;; *) exit 1;; esac
while [ $# -gt 1 ]; do cp "$1" {LAPTOP}/ || exit; shift; done
"""
# What leaves the machine as it was, after the recipe of this heading.
AFTERWARDS = {
    "One other machine may use the models, over TLS": """
        rm -r /etc/systemd/system/magid.socket.d /etc/magi/gpu1.* /var/lib/magi/tokens.json
        sed -i '/^tls_/d; /^allowed_hosts/d' /etc/magi/magid.yaml
        systemctl daemon-reload
        systemctl restart magid.socket magid.service""",
}
HEADINGS = list(transcript.sections(DOCUMENT.read_text()))


@pytest.fixture(scope="module")
def gpu1(all_trees: dict[Release, Tree], chat_model: Path) -> Iterator[Daemon]:
    with booted(all_trees[NEWEST]) as container:
        daemon = installed_in(container, chat_model)
        container.write(PROGRAM, PERSON)
        container.write("/usr/local/bin/on-laptop", ON_LAPTOP, 0o755)
        container.write("/usr/local/bin/scp", SCP, 0o755)
        container.run(["sh", "-e", "-c", NETWORK])
        daemon.wait_ready()
        yield daemon
        daemon.client.close()


def typed(container: Container, script: list[Step]) -> list[tuple[str, int]]:
    wanted = [
        {
            "command": f"on-laptop {shlex.quote(s.command)}" if s.host == "laptop" else s.command,
            "keys": s.keys,
            "terminal": False,
        }
        for s in script
    ]
    done = container.run(["python3", "-I", PROGRAM], input=json.dumps(wanted), timeout=SET_UP_S)
    return [(output, status) for output, status in json.loads(done.stdout)]


@pytest.mark.parametrize("heading", HEADINGS)
def test_a_recipe_leads_to_what_it_shows(gpu1: Daemon, heading: str) -> None:
    container = gpu1.container
    try:
        transcript.check_document(DOCUMENT, lambda script: typed(container, script), heading)
    finally:
        container.run(["sh", "-e", "-c", AFTERWARDS[heading]])
        container.wait_until(gpu1.is_ready, "readiness")
