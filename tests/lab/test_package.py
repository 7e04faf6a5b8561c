"""The Debian package: how it is built, and its whole life on each release."""

import io
import json
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from magid import __version__
from tests.lab import packages
from tests.lab.layers import output
from tests.support import page
from tests.support.deadlines import SET_UP_S
from tests.support.running import ROOT

pytestmark = pytest.mark.slow

MOST_BYTES = 100_000_000  # installed, without byte-code


# -- the package -------------------------------------------------------------------------------


def test_two_builds_are_equal(package: Path, tmp_path: Path) -> None:
    """In another folder, at another time, in another zone and language."""
    other = packages.build(tmp_path, TZ="Pacific/Auckland", LC_ALL="C", HOME_OF_NOBODY="1")
    assert other.name == package.name == f"magi_{__version__}_{_architecture()}.deb"
    assert other.read_bytes() == package.read_bytes()


def _architecture() -> str:
    return output(["dpkg", "--print-architecture"]).strip()


def test_builds_share_no_wheel(package: Path) -> None:
    """Several at once on one machine met in pip's cache, and failed."""
    assert not (package.parent.parent / "cache/pip/wheels").exists()


def test_lintian_finds_nothing(package: Path) -> None:
    changes = next((package.parent.parent / "work").glob("*.changes"))
    done = subprocess.run(
        ["lintian", "--allow-root", "--fail-on=error,warning", str(changes)],
        capture_output=True,
        text=True,
        timeout=SET_UP_S,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_what_takes_its_size(package: Path) -> None:
    rows = sizes(output(["dpkg-deb", "--contents", str(package)]))
    total = sum(rows.values())
    for name, size in sorted(rows.items(), key=lambda row: -row[1]):
        if size > 50_000:
            print(f"{size / 1e6:8.1f} MB  {name}")
    print(f"{total / 1e6:8.1f} MB  installed; {package.stat().st_size / 1e6:.1f} MB to download")
    assert 1e6 < total <= MOST_BYTES


def test_it_says_what_it_is_made_of(package: Path) -> None:
    archive = subprocess.run(
        ["dpkg-deb", "--fsys-tarfile", str(package)], capture_output=True, check=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        member = tar.extractfile("./usr/share/doc/magi/magi.cdx.json")
        assert member is not None
        components = json.load(member)["components"]
        names = tar.getnames()
    there = {re.sub(r"[-_.]+", "-", n.split("/")[5]).lower() for n in names if ".dist-info" in n}
    packages_there = {re.match(r"(.+?)-[0-9]", name)[1] for name in there}  # type: ignore[index]
    described = {kind: {c["name"] for c in components if c["purl"].startswith(f"pkg:{kind}/")}
                 for kind in ("pypi", "npm")}  # fmt: skip
    assert packages_there == described["pypi"]
    bundle = {"preact", "@preact/signals", "@preact/signals-core", "yaml"}
    assert bundle == described["npm"]


def test_it_has_the_page(package: Path) -> None:
    """As it is built here, from the same sources; the build has no network."""
    listing = output(["dpkg-deb", "--contents", str(package)])
    found = set(re.findall(r"\./usr/share/magi/page/(\S*[^/\s])$", listing, re.MULTILINE))
    built = page.build()
    assert found == {
        str(path.relative_to(built))
        for path in built.rglob("*")
        if path.is_file() and path.name != ".sources"
    }
    assert "index.html" in found


def test_without_the_page_there_is_no_package(tmp_path: Path) -> None:
    """A build that has not got the page's packages ends, and says so."""
    done = subprocess.run(
        ["debian/rules", "override_dh_auto_install"], cwd=sources(tmp_path),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "cannot build the page: .cache/page is not there" in done.stderr


def sources(folder: Path) -> Path:
    shutil.copytree(ROOT / "debian", folder / "debian")
    return folder


def test_every_python_has_every_extension(package: Path) -> None:
    listing = output(["dpkg-deb", "--contents", str(package)])
    found = re.findall(r"vendor/(\S+)\.cpython-3(\d+)-\S+\.so$", listing, re.MULTILINE)
    for_all = {name for name, _ in found}
    assert "uvloop/loop" in for_all
    minors = {python.removeprefix("3.") for python in packages.PYTHONS}
    for name in for_all:
        assert {minor for other, minor in found if other == name} == minors, name


def sizes(listing: str) -> dict[str, int]:
    """Bytes by what they are: one row for each vendored package, one for each other folder."""
    rows: dict[str, int] = {}
    for line in listing.splitlines():
        _, _, size, _, _, path = line.split(maxsplit=5)
        match = re.match(r"\./usr/lib/magi/vendor/(?:(\w+?)(?:\.cpython|-|/|\.py)|)", path)
        name = f"vendor/{match[1]}" if match and match[1] else "/".join(path.split("/")[1:4])
        if size.isdecimal():
            rows[name] = rows.get(name, 0) + int(size)
    return rows
