"""Packages of npm for tests: those of a folder with package.json, package-lock.json and .npmrc."""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.support import programs
from tests.support.deadlines import SET_UP_S

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "magi"
FILES = ("package.json", "package-lock.json", ".npmrc")


def installed(folder: Path) -> Path:
    """The folder `node_modules`, installed once per lock file and without the packages' scripts.

    Two sessions at once may both install them: the later one wins.
    """
    node = subprocess.run(["node", "--version"], capture_output=True, check=True).stdout
    content = b"".join((folder / name).read_bytes() for name in FILES) + node
    place = CACHE / f"npm-{hashlib.sha256(content).hexdigest()[:16]}"
    if not place.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE, prefix="npm-new-") as name:
            new = Path(name) / "installed"
            new.mkdir()
            for file in FILES:
                shutil.copy(folder / file, new)
            programs.output(["npm", "ci", "--ignore-scripts"], new, seconds=SET_UP_S)
            if not place.exists():
                new.rename(place)
    return place / "node_modules"


def check_lock(folder: Path) -> None:
    """Each package has an exact version and a hash, and none says where it comes from."""
    lock = json.loads((folder / "package-lock.json").read_text())
    packages = {path: package for path, package in lock["packages"].items() if path}
    assert all(package["integrity"] for package in packages.values())
    assert not any("resolved" in package for package in packages.values())
    wanted = json.loads((folder / "package.json").read_text())["dependencies"]
    assert wanted == {name: packages[f"node_modules/{name}"]["version"] for name in wanted}
