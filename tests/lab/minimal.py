"""Root trees with nothing but a bare Debian, and beside them the packages that magi depends on.

There is no Python in them: apt has to find all that the package asks for. It finds it in a folder
of the tree, since containers have no network.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.lab import trees
from tests.lab.layers import layer
from tests.lab.trees import Release, Tree

ARCHIVE = "/srv/packages"
# What the package and its tests ask for, with all that these need in turn.
OFFERED = ("dbus", "python3", "python3-systemd", "needrestart", "libgcc-s1", "libstdc++6")
# $1 is the tree. Recommends are as a minimal system has them: left to the administrator.
OFFER = f"""\
set -e
chroot "$1" apt-get --quiet --yes --download-only --no-install-recommends install %s >/dev/null
mkdir -p "$1{ARCHIVE}"
mv "$1"/var/cache/apt/archives/*.deb "$1{ARCHIVE}"
cd "$1{ARCHIVE}"
dpkg-scanpackages --multiversion . >Packages 2>/dev/null
cd "$1"
rm -rf etc/apt/sources.list* usr/share/locale
echo 'deb [trusted=yes] file:{ARCHIVE} ./' >etc/apt/sources.list
echo 'APT::Install-Recommends "false";' >etc/apt/apt.conf.d/90minimal
"""


def offered(release: Release) -> tuple[str, ...]:
    return (*OFFERED, "llama.cpp-tools") if release.has_package else OFFERED


def bootstrap(release: Release, target: Path) -> list[str]:
    """The command that makes the tree; the `deb` line goes to its standard input."""
    return [
        *("mmdebstrap", "--quiet", "--mode=root", "--format=directory", "--variant=minbase"),
        "--include=systemd,systemd-sysv",
        '--aptopt=Acquire::Check-Valid-Until "false"',
        "--dpkgopt=force-unsafe-io",
        f"--customize-hook={OFFER % ' '.join(offered(release))}",
        *(release.name, str(target), "-"),
    ]


def build_all(
    releases: Iterable[Release], say: Callable[[str], None]
) -> dict[Release, tuple[Tree, Path]]:
    """Tree by release, and the layer with a llama-server for those without a package of it."""
    trees.ensure_tools(say)
    releases = tuple(releases)
    llama = trees.llama_layer()
    with ThreadPoolExecutor(len(releases)) as pool:
        made = list(pool.map(lambda release: _tree(release, say), releases))
    return {release: (tree, llama) for release, tree in zip(releases, made, strict=True)}


def _tree(release: Release, say: Callable[[str], None]) -> Tree:
    def make(work: Path) -> None:
        say(f"building a minimal tree of Debian {release.name}; a minute or two")
        trees.bootstrapped(bootstrap(release, work), release, work)

    name = f"minimal-{release.name}"
    return Tree(release, (layer(name, repr(bootstrap(release, Path("/tree"))), make),))
