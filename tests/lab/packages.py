"""The Debian package of this checkout, and the next one: built once per session."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from magid import __version__
from tests.lab.layers import locked, output
from tests.lab.trees import ROOT, load_program

PYTHONS: tuple[str, ...] = load_program("vendor").PYTHONS
NEXT = f"{__version__}.1"


def build(folder: Path, **environment: str) -> Path:
    """`make deb` without make, into `folder`/dist, and the rest into `folder`/work: about 20 s.

    It is compressed less than a real one, which would take more than all the rest of it.
    """
    work = folder / "work"
    done = subprocess.run(
        [str(ROOT / "packaging/deb"), str(folder / "dist")],
        env={
            **os.environ,
            "MAGI_DEB_WORK": str(work),
            "MAGI_DEB_COMPRESSION": "-z1",
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def built_once(folder: Path) -> Path:
    """The package below `folder`, built by the first process that asks; the others wait for it."""
    with locked(folder / "package.lock"):
        built = sorted((folder / "package/dist").glob("*.deb"))
        cache = str(folder / "package/cache")
        return built[0] if built else build(folder / "package", XDG_CACHE_HOME=cache)


def next_version(package: Path, folder: Path) -> Path:
    """The same with another version, another module and another magid.yaml."""
    tree = folder / "next"
    output(["dpkg-deb", "--raw-extract", str(package), str(tree)])
    _edit(tree / "DEBIAN/control", rf"^Version: {re.escape(__version__)}$", f"Version: {NEXT}")
    _edit(tree / "usr/lib/magi/magid/__init__.py", re.escape(__version__), NEXT)
    _edit(tree / "etc/magi/magid.yaml", r"\Z", "# A line that the next version has.\n")
    sums = tree / "DEBIAN/md5sums"
    files = sorted(p for p in tree.rglob("*") if p.is_file() and "DEBIAN" not in p.parts)
    names = [str(path.relative_to(tree)) for path in files]
    wanted = [name for name in names if not name.startswith("etc/")]
    sums.write_text(output(["md5sum", *wanted], cwd=str(tree)))
    made = folder / package.name.replace(__version__, NEXT)
    output(["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(made)])
    shutil.rmtree(tree)
    return made


def _edit(path: Path, pattern: str, text: str) -> None:
    before = path.read_text()
    after, count = re.subn(pattern, text, before, count=1, flags=re.MULTILINE)
    assert count == 1, f"{path} has no {pattern}"
    path.write_text(after)
