"""What debian/ says of the rest of the checkout, and how the vendored packages become one tree."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from magid import __version__
from tests.lab import requirements
from tests.lab.layers import LabError
from tests.lab.trees import load_program

ROOT = Path(__file__).resolve().parents[2]
DEBIAN = ROOT / "debian"


vendor = load_program("vendor")


def test_one_version() -> None:
    first = re.match(r"magi \(([^)]+)\) ", (DEBIAN / "changelog").read_text())
    assert first
    assert first[1] == __version__


def test_every_package_is_installed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    there = {path.parent.relative_to(ROOT) for path in (ROOT / "magid").rglob("*.py")}
    assert sorted(listed) == sorted(".".join(folder.parts) for folder in there)


def test_the_pythons_are_those_that_are_vendored() -> None:
    control = (DEBIAN / "control").read_text()
    (low,) = set(re.findall(r"python3 \(>= ([0-9.]+)\)", control))
    (end,) = set(re.findall(r"python3 \(<< ([0-9.]+)\)", control))
    minors = range(int(low.split(".")[1]), int(end.split(".")[1]))
    assert tuple(f"3.{minor}" for minor in minors) == vendor.PYTHONS
    for python in vendor.PYTHONS:
        assert vendor.wanted(python)


def test_every_vendored_package_is_in_the_copyright() -> None:
    text = (DEBIAN / "copyright").read_text()
    names = set(re.findall(r"vendor/(\w+)/\*", text))
    for python in vendor.PYTHONS:
        assert {entry.name.replace("-", "_") for entry in vendor.wanted(python)} <= names
    bundled = load_program("sbom").bundled
    lock = json.loads((ROOT / "magid/webui/package-lock.json").read_text())
    assert {c["name"] for c in bundled(lock["packages"])} == set(
        re.findall(r" page/(\S+)/\*", text)
    )


# -- which Python answers ------------------------------------------------------------------------

# Folders of the checkout have the names of packages (packaging, systemd): a Python that looks
# for modules where it is started finds them, and says that a package is there which is not.
SHELL = re.compile(r"#!/(usr/)?bin/(env )?(ba)?sh\b")
ASKED = re.compile(
    r"""(?:python3?|\$\{?python\}?|\$\(PY(?:THON)?\))["'})]*((?:\s+-\w\S*(?:\s+\w+)?)*?)\s+-[cm]\s+(\S+)"""
)
IN_PYTHON = re.compile(
    r"""(?:sys\.executable|"(?:/usr/bin/)?python3?"),\s*((?:"-\w+",\s*)*?)"-[cm]",\s*"?([\w.]+)"""
)


def scripts() -> dict[Path, str]:
    """What is run from the folder of the checkout to set up, to build and to test it."""
    folders = [ROOT / name for name in ("packaging", "debian", ".ci", "systemd", "tests")]
    found = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    texts = {
        path: path.read_text(errors="replace") for path in found if "node_modules" not in path.parts
    }
    made = {
        ROOT / "Makefile": (ROOT / "Makefile").read_text(),
        DEBIAN / "rules": texts[DEBIAN / "rules"],
    }
    return {path: text for path, text in texts.items() if SHELL.match(text)} | made


def from_here(pattern: re.Pattern[str], text: str) -> list[str]:
    """The modules and programs that the working directory may answer for, but our own tests."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    return [
        what
        for options, what in pattern.findall(lines)
        if not re.search(r"-\w*I", options) and not what.startswith("tests.")
    ]


def test_no_script_asks_a_python_that_looks_into_the_working_directory() -> None:
    found = scripts()
    assert {
        "install",
        "test-tools",
        "run",
        "deb",
        "bench-tools",
        "client-tools",
        "lock",
        "rules",
    } <= {path.name for path in found}
    assert {
        path.name: asked for path, text in found.items() if (asked := from_here(ASKED, text))
    } == {}


def test_no_program_of_the_set_up_does_either() -> None:
    programs = [*(ROOT / "packaging").glob("*.py"), *(ROOT / "tests/lab").glob("*.py")]
    own = {path: path.read_text() for path in programs if not path.name.startswith("test_")}
    assert {
        path.name: asked for path, text in own.items() if (asked := from_here(IN_PYTHON, text))
    } == {}


@pytest.mark.parametrize(
    "line",
    [
        '/usr/bin/python3 -c "import $module"',
        '"$python" -m venv x',
        '"$venv/bin/python" -m pip install',
        "$(PY) -m pytest",
        "$(PYTHON) -W ignore -m compileall",
        '"${python}" -c x',
    ],
)
def test_such_a_question_is_found(line: str) -> None:
    assert from_here(ASKED, line)
    assert not from_here(ASKED, re.sub(r" -([cm]) ", r" -I -\1 ", line))


# -- what it is made of ------------------------------------------------------------------------


def test_the_list_of_parts_is_the_lock_and_always_the_same() -> None:
    made = [
        subprocess.run(
            [sys.executable, str(ROOT / "packaging/sbom.py")],
            capture_output=True,
            text=True,
            check=True,
            env={"PATH": os.environ["PATH"], "TZ": zone, "PYTHONHASHSEED": zone[-1]},
        ).stdout
        for zone in ("UTC0", "UTC-9")
    ]
    assert made[0] == made[1]
    parts = json.loads(made[0])
    assert (parts["bomFormat"], parts["specVersion"]) == ("CycloneDX", "1.6")
    assert parts["metadata"]["component"]["version"] == __version__
    names = {entry.name for python in vendor.PYTHONS for entry in vendor.wanted(python)}
    page = {"preact", "@preact/signals", "@preact/signals-core", "yaml"}
    assert {component["name"] for component in parts["components"]} == names | page
    for component in parts["components"]:
        kind = "npm" if component["name"] in page else "pypi"
        name = component["name"].replace("@", "%40")
        assert component["purl"] == f"pkg:{kind}/{name}@{component['version']}"
        assert component["hashes"]


@pytest.mark.parametrize(
    "name", ["requirements.lock", "build.lock", "soak.lock", "clients.lock", "node.lock"]
)
def test_every_locked_package_has_its_version_and_hash(name: str) -> None:
    entries = list(requirements.parse((ROOT / "packaging" / name).read_text()))
    assert entries
    for entry in entries:
        assert re.match(r"[\w.\[\]-]+==[0-9]", entry.lines), entry.name
        assert "--hash=sha256:" in entry.lines, entry.name
    by = ("packaging/install", "packaging/client-tools", "packaging/node", "Makefile")
    installed = "".join((ROOT / name).read_text() for name in by)
    uses = [line for line in installed.splitlines() if f"packaging/{name}" in line and "-r" in line]
    assert uses
    assert all("--require-hashes" in line for line in uses)


def tree(folder: Path, **files: str) -> Path:
    for name, content in files.items():
        path = folder / "tree" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder / "tree"


def test_trees_become_one(tmp_path: Path) -> None:
    one = tree(tmp_path / "1", **{"a__b.py": "same", "a__c.cpython-311-x.so": "311"})
    more = {
        "x.dist-info__METADATA": "m",
        "x.dist-info__RECORD": "1",
        "x.dist-info__licenses__L": "",
    }
    useless = {"a__b.c": "", "a__tests__t.py": "", "a__b.pyi": "", "bin__x": "", "a__py.typed": ""}
    other = tree(
        tmp_path / "2", **{"a__b.py": "same", "a__c.cpython-312-x.so": "312"}, **more, **useless
    )
    target = tmp_path / "target"
    for source in (one, other):
        vendor.merge(source, target)
    assert {str(p.relative_to(target)) for p in target.rglob("*") if p.is_file()} == {
        *("a/b.py", "a/c.cpython-311-x.so", "a/c.cpython-312-x.so"),
        *("x.dist-info/METADATA", "x.dist-info/licenses/L"),
    }


def test_what_differs_between_pythons_cannot_be_one(tmp_path: Path) -> None:
    vendor.merge(tree(tmp_path / "1", **{"a__b.py": "of 3.11"}), tmp_path / "target")
    with pytest.raises(LabError, match=r"cannot make one tree: Pythons want different a/b\.py"):
        vendor.merge(tree(tmp_path / "2", **{"a__b.py": "of 3.12"}), tmp_path / "target")


# -- the copy that a package is built from ---------------------------------------------------------

FOLDERS = ("debian", "etc", "magid", "packaging", "systemd", "tests")
FILES = ("pyproject.toml", "CHANGELOG.md", "LICENSE", "README.md")


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("status", "is_built"),
    [(0, True), (1, True), (2, False)],
    ids=["as it was", "a folder changed meanwhile", "not all could be read"],
)
def test_a_checkout_in_use_can_be_packed(tmp_path: Path, status: int, is_built: bool) -> None:
    """Tar ends with 1 where Python puts byte-code into a folder while it is copied."""
    checkout, programs = tmp_path / "checkout", tmp_path / "bin"
    for folder in FOLDERS:
        (checkout / folder).mkdir(parents=True)
    for name in FILES:
        (checkout / name).write_text(name)
    shutil.copy(ROOT / "packaging/deb", checkout / "packaging/deb")
    program(checkout / ".venv/bin/python", "echo wheelhouse")
    program(checkout / "packaging/node", "echo /node")
    program(checkout / "packaging/page", "mkdir -p .cache/page")
    program(programs / "dpkg-buildpackage", "cp README.md ../magi_1_all.deb")
    program(programs / "tar", f'/usr/bin/tar "$@" || exit\n[ "$1" != -c ] || exit {status}')
    program(programs / "unshare", 'shift\n[ "$1" = true ] || exec "$@"')
    done = subprocess.run(
        [str(checkout / "packaging/deb"), str(tmp_path / "dist")],
        env={"PATH": f"{programs}:{os.environ['PATH']}", "MAGI_DEB_WORK": str(tmp_path / "work")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode == 0) is is_built, done.stderr
    assert (tmp_path / "dist/magi_1_all.deb").exists() is is_built


# -- what builds the page ------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """One whose Python writes down what pip is asked for, and has the locked node then."""
    wheel = tmp_path / "wheel"
    program(wheel / "bin/node", "exit 0")
    program(
        tmp_path / ".venv/bin/python",
        f'case "$*" in *pip*) echo "$*" >>{tmp_path}/asked ;; *) echo {wheel} ;; esac',
    )
    (tmp_path / "packaging").mkdir()
    for name in ("node", "node.lock"):
        shutil.copy(ROOT / "packaging" / name, tmp_path / "packaging" / name)
    return tmp_path


def node(checkout: Path, system: Path) -> str:
    """The folder that packaging/node chooses where `system` comes first in PATH."""
    tools = checkout / "tools"
    tools.mkdir(exist_ok=True)
    for name in ("sh", "cmp", "ln", "mkdir", "cp", "chmod", "dirname"):
        found = shutil.which(name)
        assert found
        (tools / name).unlink(missing_ok=True)
        (tools / name).symlink_to(found)
    done = subprocess.run(
        [str(checkout / "packaging/node")], env={"PATH": f"{system}:{tools}"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def test_the_systems_node_builds_the_page_if_it_will_do(checkout: Path) -> None:
    system = checkout / "bin"
    for name in ("node", "npm"):
        program(system / name, "exit 0")
    assert node(checkout, system) == str(system)
    assert not (checkout / "asked").exists()


@pytest.mark.parametrize("lacks", ["node", "npm", "a newer one"])
def test_else_the_locked_one_does(checkout: Path, lacks: str) -> None:
    """By its hash, and once."""
    system = checkout / "bin"
    for name in ("node", "npm"):
        if name != lacks:
            program(system / name, f"exit {int(lacks == 'a newer one')}")
    own = str(checkout / ".venv/node")
    assert node(checkout, system) == node(checkout, system) == own
    (asked,) = (checkout / "asked").read_text().splitlines()
    assert "--require-hashes -r packaging/node.lock" in asked
    assert "--only-binary :all:" in asked
