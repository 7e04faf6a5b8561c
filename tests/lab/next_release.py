"""A machine with Debian 12 on which a package archive of Debian 13 waits: for moving to it.

What the upgrade of such a machine fetches is found out by its own apt, once, and kept in the tree,
since containers have no network.
"""

from collections.abc import Callable
from pathlib import Path

from tests.lab import trees
from tests.lab.layers import layer
from tests.lab.trees import OLDEST, RELEASES, Tree

BEFORE, AFTER = OLDEST, RELEASES[RELEASES.index(OLDEST) + 1]
# What a machine with magi has, and what its recipes type: the upgrade is of these.
INSTALLED = (
    *("systemd", "systemd-sysv", "dbus", "python3", "python3-systemd", "libstdc++6"),
    *("openssl", "ca-certificates", "curl", "iproute2"),
)
# $1 is the tree. It believes in two archives, each in a folder named after its release.
ARCHIVE = f"""\
set -e
cd "$1"
sed -i 's/ {BEFORE.name} / {AFTER.name} /' etc/apt/sources.list
chroot . apt-get --quiet update >/dev/null
chroot . apt-get --quiet --yes --download-only full-upgrade >/dev/null
mkdir srv/{BEFORE.name} srv/{AFTER.name}
mv var/cache/apt/archives/*.deb srv/{AFTER.name}
touch srv/{BEFORE.name}/Packages
(cd srv/{AFTER.name} && dpkg-scanpackages --multiversion . >Packages 2>/dev/null)
rm -rf etc/apt/sources.list* var/lib/apt/lists/* usr/share/locale
echo 'deb [trusted=yes] file:/srv/{BEFORE.name} ./' >etc/apt/sources.list
"""


def bootstrap(target: Path) -> list[str]:
    """The command that makes the tree; the `deb` line goes to its standard input."""
    return [
        *("mmdebstrap", "--quiet", "--mode=root", "--format=directory", "--variant=minbase"),
        f"--include={','.join(INSTALLED)}",
        '--aptopt=Acquire::Check-Valid-Until "false"',
        "--dpkgopt=force-unsafe-io",
        f"--customize-hook={ARCHIVE}",
        *(BEFORE.name, str(target), "-"),
    ]


def build(say: Callable[[str], None]) -> Tree:
    """The tree, with a llama-server of its own; blocks for a minute or two the first time."""
    trees.ensure_tools(say)
    llama = trees.llama_layer()

    def make(work: Path) -> None:
        say(f"building a tree that moves from {BEFORE.name} to {AFTER.name}; a minute or two")
        trees.bootstrapped(bootstrap(work), BEFORE, work)

    name = f"{BEFORE.name}-to-{AFTER.name}"
    return Tree(BEFORE, (llama, layer(name, repr(bootstrap(Path("/tree"))), make)))
