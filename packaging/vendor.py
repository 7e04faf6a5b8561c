"""The packages that magid brings along: one tree that serves every Python it supports.

`vendor.py fetch` downloads them into a wheelhouse in the cache and prints its path; `vendor.py
install WHEELHOUSE TARGET` needs no network. Both check every file against the lock's hashes.

Extension modules carry the Python they are for in their names, so those of all versions lie side by
side; all other files have to be equal, or the build fails.
"""

import filecmp
import hashlib
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run as a program, only this folder is looked in

from tests.lab import layers, requirements  # noqa: E402  # needs the line above

# Debian 12, Ubuntu 24.04, Debian 13, Debian forky: debian/control has the same limits.
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
# Asked for by Sanic. Nothing at run time imports the first; the second is for answers that Sanic
# makes into JSON, which ours are not, and would cost 2 MB of memory.
NOT_NEEDED = frozenset({"setuptools", "ujson"})
# Sources of extension modules, and what only other tools read.
USELESS = re.compile(
    r".*\.(c|h|pyx|pxd|pxi|pyi|pyc|so\.debug)|(.*/)?py\.typed|_distutils_hack/.*|(.*/)?tests?/.*"
)
OF_DISTRIBUTION = re.compile(r"[^/]+\.dist-info/(.*)")
# Scanners for known holes read the first; the others are owed to the authors.
KEPT_OF_DISTRIBUTION = re.compile(r"METADATA|licenses/.*|(LICENSE|COPYING|NOTICE)[^/]*")


def wanted(python: str) -> list[requirements.Locked]:
    """The locked packages for this Python."""
    entries = requirements.parse((ROOT / "packaging/requirements.lock").read_text())
    asked = requirements.roots((ROOT / "pyproject.toml").read_text())
    found = requirements.closure(entries, asked, python)
    return [entry for entry in found if entry.name not in NOT_NEEDED]


# --- fetching -------------------------------------------------------------------------------


def fetch() -> Path:
    """The folder with all wheels for this processor; downloads what is not there. Blocks."""
    machine = platform.machine()
    recipe = machine + "".join(e.lines for python in PYTHONS for e in wanted(python))
    name = hashlib.sha256(recipe.encode()).hexdigest()[:12]
    home = layers.home().parent / "wheelhouse"
    folder = home / f"{machine}-{name}"
    with layers.locked(home / "lock"):
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(prefix="new-", dir=home) as work:
                _download(Path(work))
                (Path(work) / "wheels").rename(folder)
    return folder


def _download(work: Path) -> None:
    target = work / "wheels"
    target.mkdir()
    for python in PYTHONS:
        requirements.download(wanted(python), python, work, target)


# --- installing -----------------------------------------------------------------------------


def install(wheelhouse: Path, target: Path) -> None:
    """Put the packages for all Pythons into `target`. Raises LabError if they do not fit."""
    with tempfile.TemporaryDirectory() as work, ThreadPoolExecutor(len(PYTHONS)) as pool:
        trees = [Path(work) / python / "tree" for python in PYTHONS]
        list(pool.map(lambda tree: _install_one(wheelhouse, tree), trees))
        for tree in trees:
            merge(tree, target)


def _install_one(wheelhouse: Path, tree: Path) -> None:
    python = tree.parent.name
    tree.parent.mkdir()
    requirements.install(wanted(python), python, tree.parent, tree, wheelhouse)


def merge(tree: Path, target: Path) -> None:
    """Move what is worth having of `tree` into `target`."""
    for path in useful(p for p in sorted(tree.rglob("*")) if p.is_file()):
        name = path.relative_to(tree)
        place = target / name
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, place)
            place.chmod(0o644)
        elif not filecmp.cmp(path, place, shallow=False):
            raise layers.LabError(f"cannot make one tree: Pythons want different {name}")


def useful(paths: Iterable[Path]) -> Iterator[Path]:
    """Without sources of extensions, tests, and records of the installation."""
    for path in paths:
        tail = path.as_posix().partition("/tree/")[2]
        of_distribution = OF_DISTRIBUTION.fullmatch(tail)
        if of_distribution:
            if KEPT_OF_DISTRIBUTION.fullmatch(of_distribution[1]):
                yield path
        elif not USELESS.fullmatch(tail) and not tail.startswith("bin/"):
            yield path


def main(arguments: list[str]) -> int:
    os.umask(0o022)
    try:
        match arguments:
            case ["fetch"]:
                print(fetch())
            case ["install", wheelhouse, target]:
                install(Path(wheelhouse), Path(target))
            case _:
                print("usage: vendor.py fetch | install WHEELHOUSE TARGET", file=sys.stderr)
                return 2
    except layers.LabError as error:
        print(f"vendor: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
