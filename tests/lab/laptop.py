"""The machine `laptop` of the recipes: a network and a home of its own, beside a container."""

from tests.lab.container import Container

HOME = "/srv/laptop"
GPU2 = "/srv/gpu2"  # what was copied to a third machine, which is a container of its own
# A network and files of its own; nothing of magid's.
_ON_LAPTOP = f"""\
#!/bin/sh
exec ip netns exec laptop unshare --mount sh -e -c '
    for path in /etc/magi /run/magi /var/lib/magi; do mount -t tmpfs tmpfs $path; done
    mount --bind {HOME} /root
    cd /root
    exec bash -c "$1"' sh "$1"
"""
_NETWORK = f"""\
mkdir -p {HOME} {GPU2} /etc/netns/laptop
touch /etc/hosts
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
_SCP = f"""\
#!/bin/sh
for last; do :; done
case $last in laptop:) to={HOME};; gpu2:) to={GPU2};; *) exit 1;; esac
while [ $# -gt 1 ]; do cp "$1" $to/ || exit; shift; done
"""


def set_up(container: Container) -> None:
    """`on-laptop COMMAND` and `scp` work in there afterwards, until its next boot."""
    container.write("/usr/local/bin/on-laptop", _ON_LAPTOP, 0o755)
    container.write("/usr/local/bin/scp", _SCP, 0o755)
    container.run(["sh", "-e", "-c", _NETWORK])
