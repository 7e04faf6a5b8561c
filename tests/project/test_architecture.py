"""Imports obey the table in ARCHITECTURE.md, and each outside library has one importer."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "magid"
ROW = re.compile(r"^\| `([a-z_.]+)` \| (.+?) \|$", re.MULTILINE)

OWNERS = {
    "yaml": {"files.strict_yaml"},
    "psutil": {"host.ports", "host.usage"},
    "sanic": {"api"},
    "dbus_fast": {"systemd.bus"},
    "systemd": {"systemd.journal"},
    "sdnotify": {"__main__"},
    "prometheus_client": {"api.metrics_families"},
    "uvloop": {"__main__"},
    "zstandard": {"http.content_coding"},
}
NEVER = {"gguf", "numpy", "httpx", "aiohttp", "requests"}
ANYWHERE = {"msgspec", "pydantic", "pydantic_core", "typing_extensions"}


def table() -> dict[str, frozenset[str]]:
    """Package -> what it may import besides itself: packages, or single modules of them."""
    text = (PACKAGE.parent / "ARCHITECTURE.md").read_text().partition("## What may import what")[2]
    rows = ROW.findall(text.partition("\n## ")[0])
    return {name: frozenset(re.findall("`([a-z_.]+)`", allowed)) for name, allowed in rows}


TABLE = table()


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def all_files() -> list[Path]:
    """Those of the package, of its tests, and of what builds it."""
    folders = (PACKAGE, PACKAGE.parent / "tests", PACKAGE.parent / "packaging")
    return sorted(
        path
        for folder in folders
        for path in folder.rglob("*.py")
        if "node_modules" not in path.parts
    )


def module_of(path: Path) -> str:
    """`api/app.py` is `api.app`; `api/__init__.py` is `api`."""
    words = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(words[:-1] if words[-1] == "__init__" else words)


def package_of(module: str) -> str:
    """The row of the table that it stands in: the longest that fits."""
    rows = [row for row in TABLE if is_in(module, row)]
    assert rows, f"{module} is in no row of ARCHITECTURE.md"
    return max(rows, key=len)


def is_in(module: str, package: str) -> bool:
    return f"{module}.".startswith(f"{package}.")


def imports(path: Path) -> Iterator[str]:
    """As dotted names; of magid down to what is imported, without `magid.`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_obey_the_table(path: Path) -> None:
    module = module_of(path)
    if not module:
        assert not list(imports(path))
        return
    package = package_of(module)
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top == "magid":
            is_allowed = is_in(rest, package) or any(is_in(rest, one) for one in TABLE[package])
            assert is_allowed or rest == "__version__", f"{module} imports {name}"
        elif top not in sys.stdlib_module_names:
            assert top not in NEVER, f"{module} imports {name}"
            owned = any(is_in(module, owner) for owner in OWNERS.get(top, ()))
            assert top in ANYWHERE or owned, f"{module} imports {name}"


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_private_names_stay_in_their_module(path: Path) -> None:
    for name in imports(path):
        if name.startswith("magid."):
            last = name.rpartition(".")[2]
            assert not last.startswith("_") or last.startswith("__"), name


def test_the_table_has_no_cycle_and_nothing_that_is_gone() -> None:
    modules = {module_of(path) for path in files()}
    assert set(TABLE) <= modules
    done: set[str] = set()
    for package, allowed in TABLE.items():  # from the bottom up
        for one in allowed:
            assert one in modules, f"{package}: no {one}"
            row = package_of(one)
            assert row in done or is_in(package, row), f"{package} is above {one}"
        done.add(package)


def test_a_module_belongs_to_a_package() -> None:
    assert {path.name for path in PACKAGE.glob("*.py")} == {
        "__init__.py",
        "__main__.py",
        "errors.py",
    }


def test_every_package_says_what_it_is_for() -> None:
    for path in PACKAGE.rglob("__init__.py"):
        assert ast.get_docstring(ast.parse(path.read_text())), path


def classes(node: ast.AST) -> Iterator[str]:
    """Names of classes, without those within a class: these have its name before them."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            yield child.name
        else:
            yield from classes(child)


def test_no_two_classes_have_one_name() -> None:
    where: dict[str, list[str]] = {}
    for path in files():
        for name in classes(ast.parse(path.read_text())):
            where.setdefault(name, []).append(module_of(path))
    assert not {name: modules for name, modules in where.items() if len(modules) > 1}


def test_functions_are_short_and_files_small() -> None:
    too_long = []
    for path in all_files():
        text = path.read_text()
        if text.count("\n") > 400:
            too_long.append(f"{path.name}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > 60:
                    too_long.append(f"{path.name}:{node.name}: {length} lines")
    assert not too_long


@pytest.mark.parametrize(
    ("program", "unneeded"),
    [
        ("magid.__main__", {"pydantic", "pydantic_core", "annotated_types"}),
        ("magid.launcher.__main__", {"pydantic", "sanic", "uvloop"}),
        ("magid.cli.main", {"msgspec", "pydantic", "sanic", "uvloop"}),
    ],
)
def test_programs_load_no_more_than_they_need(program: str, unneeded: set[str]) -> None:
    """Magid is restarted with requests waiting, the launcher runs as root, magictl runs often."""
    code = f"import sys, {program}; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert program in loaded
    assert not loaded & unneeded
