"""Imports point down, and each outside library has one importer: ARCHITECTURE.md's table."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "magid"

# From the bottom up: a module may import those of the rows above it, never of its own row.
LAYERS: tuple[frozenset[str], ...] = tuple(
    frozenset(row.split())
    for row in (
        "errors addresses folders gpus journald limits metrics naming ration scans tiers units "
        "workers yamlfile",
        "options",
        "argv bus children durable handover journal keyring keys kinds listeners messages "
        "projectors sandbox tensors tls tokens values wire",
        "asking config dialing gguf logs modelfiles notify profiles references store tokenfile "
        "transient",
        "headercache keymaker llama offline tokenbook",
        "lifecycle orders readers",
        "launcher processes roots shards unitstate",
        "discovery sockets watching",
        "registry systemd",
        "models",
        "planner",
        "runner snapshot",
        "decisions statelog",
        "ledger",
        "scanning",
        "daemon doctor launchers",
        "gateway",
        "api",
        "__main__",
    )
)
# Programs of their own: `magictl`, and what runs between magid and a server or inside its unit.
ALONE: dict[str, frozenset[str]] = {
    "cli": frozenset({"client", "doctor", "errors", "offline", "profiles", "yamlfile"}),
    "client": frozenset(),
    "gate": frozenset(),
    "ready": frozenset(),
    "tether": frozenset(),
}

OWNERS = {
    "yaml": {"yamlfile"},
    "psutil": {"doctor", "processes"},
    "sanic": {"api"},
    "dbus_fast": {"bus"},
    "systemd": {"journal"},
    "sdnotify": {"__main__"},
    "prometheus_client": {"metrics"},
    "uvloop": {"__main__"},
}
NEVER = {"gguf", "numpy", "httpx", "aiohttp", "requests"}
ANYWHERE = {"pydantic", "pydantic_core", "typing_extensions"}


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    """The room of the table: `api/app.py` is `api`."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "magid":
                yield from (f"magid.{alias.name}" for alias in node.names)
            else:
                yield node.module or ""


def allowed(module: str) -> frozenset[str]:
    if module in ALONE:
        return ALONE[module]
    below: set[str] = set()
    for row in LAYERS:
        if module in row:
            return frozenset(below)
        below |= row
    raise AssertionError(f"{module}.py is in no row of LAYERS and of ARCHITECTURE.md")


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    module = module_of(path)
    if module == "__init__":
        assert not list(imports(path))
        return
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top == "magid":
            target = rest.partition(".")[0]
            assert target in allowed(module) | {module, "__version__"}, f"{module} imports {name}"
        elif top not in sys.stdlib_module_names:
            assert top not in NEVER, f"{module} imports {name}"
            assert top in ANYWHERE or module in OWNERS[top], f"{module} imports {name}"


def test_every_row_of_the_table_exists() -> None:
    named = set().union(*LAYERS) | ALONE.keys()
    assert named == {module_of(path) for path in files()} - {"__init__"}


def test_the_table_is_the_one_in_architecture_md() -> None:
    text = (PACKAGE.parent / "ARCHITECTURE.md").read_text()
    missing = [name for row in LAYERS for name in sorted(row) if f"`{name}`" not in text]
    assert not missing


def test_functions_are_short_and_files_small() -> None:
    too_long = []
    for path in files():
        text = path.read_text()
        if text.count("\n") > 510:
            too_long.append(f"{path.name}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > 60:
                    too_long.append(f"{path.name}:{node.name}: {length} lines")
    assert not too_long
