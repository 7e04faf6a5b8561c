"""Machines with a bare Debian and what CONTRIBUTING.md asks for, where the set-up scripts have run.

Debian's packages come from its archive, as for the other trees. Of the locked packages of Python
only a few are installed, downloaded outside and handed in: a wheel, a source that has to be built,
and what builds it. Whether the locks have all that is imported is asked of the locks themselves.

What is kept of a machine is what was found on it afterwards: its tree has over a GB.
"""

import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.lab import called, requirements, trees
from tests.lab.layers import LabError, home, layer, remove
from tests.lab.requirements import Locked
from tests.lab.trees import RELEASES, ROOT, Release

ASKED_FOR = ("make", "git", "python3", "ca-certificates")  # as CONTRIBUTING.md has it
RELEASES_OF_TODAY = tuple(release for release in RELEASES if not release.has_package)
# What decides on the outcome, and is copied into the machine with the rest of the checkout.
SCRIPTS = ("install", "test-tools", "bench-tools", "client-tools", "deb")
DECIDING = (*(f"packaging/{name}" for name in SCRIPTS), "debian/control")
# What is installed of the packages.
SAMPLE = {"requirements.lock": {"pyyaml", "sdnotify"}, "clients.lock": {"h11"}}
COPIED = ("debian", "etc", "magid", "packaging", "systemd", "tests", "Makefile", "pyproject.toml")
FILES = ("README.md", "LICENSE", "CHANGELOG.md")
CHECKOUT, WHEELS = "/srv/checkout", "/srv/wheels"

# In the machine. A user without rights is told what root has to install, which suffices for the
# quick tests; the rest is installed by the scripts, as root. What `make check` and `make deb` need
# is looked at before the programs of all tests are there; in the end every script runs once more
# where apt-get fails, since it has nothing to do any more.
SET_UP = f"""\
set -e
cd {CHECKOUT}
export PIP_NO_INDEX=1 PIP_FIND_LINKS={WHEELS} PIP_NO_COMPILE=1 PIP_DISABLE_PIP_VERSION_CHECK=1
export DEBIAN_FRONTEND=noninteractive
without_rights() {{ setpriv --reuid 65534 --regid 65534 --clear-groups "$@"; }}
is_told() {{
    if without_rights "$@" 2>/srv/said; then exit 1; fi
    cat /srv/said >&2
    sed -n "s/.*: as root, run 'apt install \\(.*\\)'; then try again$/\\1/p" /srv/said >/srv/told
    grep -q . /srv/told
}}
is_told packaging/install .venv
packaging/install .venv
is_told packaging/test-tools check
apt-get -q install -y --no-install-recommends $(cat /srv/told)
without_rights packaging/test-tools check
ls $(printf '%s' "$PATH" | tr : ' ') >/srv/quick
packaging/test-tools deb
dpkg-checkbuilddeps
packaging/test-tools test
packaging/bench-tools
packaging/client-tools
mkdir /srv/closed
printf '#!/bin/sh\nexit 77\n' >/srv/closed/apt-get
chmod +x /srv/closed/apt-get
for script in 'install .venv' 'test-tools deb' 'test-tools check' 'test-tools test' bench-tools \
        client-tools; do
    PATH=/srv/closed:$PATH packaging/$script
done
.venv/bin/python -I -c 'import yaml, sdnotify, magid'
.cache/clients/bin/python -I -c 'import h11'
"""
# Afterwards: the names of all programs, in PATH and unpacked.
LOOK = f"cd {CHECKOUT} && ls ${{PATH//:/ }} {' '.join(called.UNPACKED)}"
HOOK = """\
set -e
cp -a "$SOURCE/." "$1/srv/"
clean() { env -i PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 "$@"; }
clean chroot "$1" sh -c "$SET_UP" >&2
clean chroot "$1" bash -c "$LOOK" >"$FOUND"
cp "$1/srv/quick" "$FOUND.quick"
"""


def bootstrap(release: Release, target: Path) -> list[str]:
    """The command that makes the machine and sets it up; the `deb` line goes to its input."""
    without = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*")
    return [
        *("mmdebstrap", "--quiet", "--mode=root", "--format=directory", "--variant=minbase"),
        f"--include={','.join(ASKED_FOR)}",
        '--aptopt=Acquire::Check-Valid-Until "false"',
        "--dpkgopt=force-unsafe-io",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in without),
        f"--customize-hook={HOOK}",
        *(release.name, str(target), "-"),
    ]


def locked(name: str, python: str) -> list[Locked]:
    """All that `packaging/install` installs on this Python from this file."""
    entries = list(requirements.parse((ROOT / "packaging" / name).read_text()))
    roots = {entry.name for entry in entries if not entry.via or "magid" in entry.via}
    return requirements.closure(entries, roots - requirements.OF_DEBIAN, python)


@dataclass(frozen=True, slots=True)
class Programs:
    """The names of those that a machine has: for the quick tests, and in the end."""

    quick: frozenset[str]
    all: frozenset[str]


def build_all(
    say: Callable[[str], None], releases: Iterable[Release] = RELEASES_OF_TODAY
) -> dict[Release, Programs]:
    """The programs of each, side by side.

    Takes minutes where a script has changed, else nothing.
    """
    trees.ensure_tools(say)
    releases = tuple(releases)
    with ThreadPoolExecutor(len(releases)) as pool:
        return dict(zip(releases, pool.map(lambda one: _found(one, say), releases), strict=True))


def _found(release: Release, say: Callable[[str], None]) -> Programs:
    deciding = [(ROOT / name).read_text() for name in DECIDING]
    recipe = [*bootstrap(release, Path("/tree")), SET_UP, LOOK, *deciding]

    def make(work: Path) -> None:
        say(f"setting up a fresh Debian {release.name} for the tests; some minutes")
        _set_up(release, work)

    kept = layer(f"fresh-{release.name}", repr(recipe), make)
    names = [(kept / name).read_text().split() for name in ("found.quick", "found")]
    return Programs(*map(frozenset, names))


def _set_up(release: Release, work: Path) -> None:
    """Leaves found and found.quick in `work`, and nothing else."""
    machine = home() / f"new-machine-{release.name}"
    try:
        _copy(work / "source", release)
        given = {"SOURCE": str(work / "source"), "FOUND": str(work / "found")}
        scripts = {"SET_UP": SET_UP, "LOOK": LOOK}
        command = ["env", *(f"{n}={v}" for n, v in {**given, **scripts}.items())]
        trees.bootstrapped([*command, *bootstrap(release, machine)], release, machine)
        if not (work / "found").exists():
            raise LabError(f"the set-up on Debian {release.name} has told nothing")
    finally:
        remove(machine)
        remove(work / "source")


def _copy(source: Path, release: Release) -> None:
    """The checkout without what was made in it, and the wheels."""
    checkout = source / Path(CHECKOUT).name
    checkout.mkdir(parents=True)
    for name in (*COPIED, *FILES):
        if (ROOT / name).is_dir():
            made = shutil.ignore_patterns("__pycache__", "node_modules", "*.egg-info")
            shutil.copytree(ROOT / name, checkout / name, ignore=made)
        else:
            shutil.copy(ROOT / name, checkout / name)
    wanted = locked("build.lock", release.python)
    for name, packages in SAMPLE.items():
        sample = [entry for entry in locked(name, release.python) if entry.name in packages]
        lines = "".join(entry.lines for entry in sample)
        (checkout / "packaging" / name).write_text(lines)
        wanted += sample
    wheels, between = source / Path(WHEELS).name, source / "between"
    wheels.mkdir()
    between.mkdir()
    requirements.download(wanted, release.python, between, wheels)
    remove(between)
