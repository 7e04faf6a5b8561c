"""From the lock file: what the daemon needs at run time, installed for another Python."""

import platform
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.markers import Marker

from tests.lab.layers import LabError, output

# Published as source only. Pure Python, so that a wheel made here runs on every Python.
SOURCE_ONLY = frozenset({"sdnotify"})
# Debian's own package serves: this one has no wheels, and needs libsystemd's headers.
OF_DEBIAN = frozenset({"systemd-python"})
# The C libraries that a wheel may ask for, up to the one of the oldest release (2.36).
GLIBC = (5, 12, 17, 24, 26, 27, 28, 31, 34, 35, 36)
_CHECKED = ("--no-deps", "--require-hashes", "-r")


@dataclass(frozen=True, slots=True)
class Locked:
    """One entry of a lock file: its lines as they are, and who asked for it."""

    name: str
    marker: str
    lines: str
    via: frozenset[str]


def normal(name: str) -> str:
    """The name as package indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def parse(text: str) -> Iterator[Locked]:
    """The entries of a file that `uv pip compile` or `pip-compile` wrote, with "via" comments."""
    for block in re.split(r"\n(?=[A-Za-z0-9])", "\n" + text)[1:]:
        lines = [line for line in block.splitlines() if not line.lstrip().startswith("#")]
        via = re.findall(r"^ +# +(?:via +)?([\w.-]+)", block, re.MULTILINE)
        head = lines[0].rstrip(" \\")
        requirement, _, marker = head.partition(";")
        yield Locked(
            normal(re.split(r"[=\[ ]", requirement)[0]),
            marker.strip(),
            "\n".join(lines).rstrip(" \\\n") + "\n",
            frozenset(map(normal, via)) - {"via"},
        )


def roots(pyproject: str) -> frozenset[str]:
    """The names that the daemon itself asks for, with the extra `systemd`."""
    project = tomllib.loads(pyproject)["project"]
    extras = project.get("optional-dependencies", {})
    requirements = [*project["dependencies"], *extras.get("systemd", ())]
    names = {normal(re.split(r"[^\w.-]", text)[0]) for text in requirements}
    return frozenset(names - OF_DEBIAN)


def closure(entries: Iterable[Locked], names: Iterable[str], python: str) -> list[Locked]:
    """The named entries and what they need, for this Python ("3.13") on Linux."""
    where = {"python_version": python, "python_full_version": f"{python}.0"}
    fitting = [e for e in entries if not e.marker or Marker(e.marker).evaluate(where)]
    wanted = set(names)
    while more := {e.name for e in fitting if e.via & wanted} - wanted:
        wanted |= more
    found = {e.name: e for e in fitting if e.name in wanted}
    missing = wanted - found.keys()
    if missing:
        raise LabError(
            f"cannot install: no lock file has {', '.join(sorted(missing))}: run `make lock`"
        )
    return list(found.values())


def platforms(machine: str) -> list[str]:
    """The wheel tags for this processor (PEP 600, and the names it had before)."""
    old = [f"manylinux{name}_{machine}" for name in ("1", "2010", "2014")]
    return old + [f"manylinux_2_{minor}_{machine}" for minor in GLIBC]


def download(entries: Iterable[Locked], python: str, work: Path, target: Path) -> None:
    """Put the wheels, and what is published as source only, into the folder `target`."""
    wheels, sources = _files(entries, work)
    _pip("download", "-d", str(target), *_foreign(python), *_CHECKED, str(wheels))
    _pip("download", "-d", str(target), "--no-build-isolation", *_CHECKED, str(sources))


def install(
    entries: Iterable[Locked], python: str, work: Path, target: Path, source: Path | None = None
) -> None:
    """Put the packages below `target`, every file checked against its hash.

    Host's pip does it, for the other Python: the trees have no pip and no network. `work` takes
    what is built in between. With `source`, a folder that `download` filled, no network is used.
    """
    wheels, sources = _files(entries, work)
    offline = ("--no-index", "--find-links", str(source)) if source else ()
    into = ("install", "--no-compile", "--target", str(target))
    _pip(*into, *offline, *_foreign(python), *_CHECKED, str(wheels))
    built = work / "built"
    # Without isolation, which would fetch a setuptools that no lock file names. Without a cache:
    # builds side by side meet there, and pip 23 fails on a file that another has half written.
    unisolated = ("--no-cache-dir", "--no-build-isolation", "--use-pep517")
    _pip("wheel", *unisolated, *offline, "-w", str(built), *_CHECKED, str(sources))
    _pip(*into, "--no-deps", "--no-index", *map(str, built.glob("*.whl")))


def _files(entries: Iterable[Locked], work: Path) -> tuple[Path, Path]:
    """Two requirement files, of wheels and of sources."""
    wheels, sources = work / "wheels.txt", work / "sources.txt"
    entries = list(entries)
    wheels.write_text("".join(e.lines for e in entries if e.name not in SOURCE_ONLY))
    sources.write_text("".join(e.lines for e in entries if e.name in SOURCE_ONLY))
    return wheels, sources


def _foreign(python: str) -> tuple[str, ...]:
    """What makes pip choose for another Python, of this machine's processor."""
    tags = [word for tag in platforms(platform.machine()) for word in ("--platform", tag)]
    return (
        *("--python-version", python, "--implementation", "cp", "--only-binary=:all:"),
        *tags,
    )


def _pip(*arguments: str) -> None:
    output(
        [sys.executable, "-I", "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    )
