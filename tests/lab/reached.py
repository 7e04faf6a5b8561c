"""What the quick tests run: their code, and all code of `tests` that it names, step by step.

Names are followed, not values: a function that a table holds is reached where the table is named.
"""

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign


@dataclass(frozen=True, slots=True)
class Code:
    """A file, and what it defines and imports at its top, by name."""

    path: Path
    definitions: dict[str, Definition]
    imports: dict[str, tuple[str, str]]  # a module, and a name in it


def from_quick_tests(root: Path) -> Iterator[tuple[Path, ast.AST]]:
    """(file, definition) of all that runs in `make check`, each once."""
    waiting = [
        (path, name)
        for path in sorted((root / "tests").rglob("test_*.py"))
        for name, node in _read(path).definitions.items()
        if name.startswith("test_") and not _is_slow(path, node)
    ]
    seen = set(waiting)
    while waiting:
        path, name = waiting.pop()
        node = _read(path).definitions[name]
        yield path, node
        for one in _named_by(root, path, node):
            if one not in seen:
                seen.add(one)
                waiting.append(one)


@cache
def _read(path: Path) -> Code:
    definitions: dict[str, Definition] = {}
    imports: dict[str, tuple[str, str]] = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            definitions[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            definitions |= {one.id: node for one in targets if isinstance(one, ast.Name)}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imports |= {one.asname or one.name: (node.module, one.name) for one in node.names}
    return Code(path, definitions, imports)


def _is_slow(path: Path, node: Definition) -> bool:
    """As pytest's marks have it: of the file, or of the test."""
    own = getattr(node, "decorator_list", [])
    of_file = _read(path).definitions.get("pytestmark")
    return any(
        isinstance(part, ast.Attribute) and part.attr == "slow"
        for mark in (*own, *([of_file] if of_file else []))
        for part in ast.walk(mark)
        if not isinstance(mark, ast.Call) or part is mark.func
    )


def _named_by(root: Path, path: Path, node: ast.AST) -> Iterator[tuple[Path, str]]:
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            yield from _resolved(root, path, part.id)
        elif isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name):
            module = _module(root, *_read(path).imports.get(part.value.id, ("", "")))
            if module and part.attr in _read(module).definitions:
                yield module, part.attr
        elif isinstance(part, ast.arg):
            yield from _fixture(root, path, part.arg)


def _resolved(root: Path, path: Path, name: str) -> Iterator[tuple[Path, str]]:
    code = _read(path)
    if name in code.definitions:
        yield path, name
    elif name in code.imports:
        module, inner = code.imports[name]
        place = _module(root, module)
        if place and inner in _read(place).definitions:
            yield place, inner


def _fixture(root: Path, path: Path, name: str) -> Iterator[tuple[Path, str]]:
    """The one that this argument of a test or of a fixture means: of the file, or the nearest."""
    folders = [folder for folder in path.parents if folder.is_relative_to(root / "tests")]
    for place in _existing([path, *(folder / "conftest.py" for folder in folders)]):
        if name in _read(place).definitions:
            yield place, name
            return


def _module(root: Path, module: str, name: str = "") -> Path | None:
    """The file of a module of `tests`; None for all others."""
    if module.partition(".")[0] != "tests":
        return None
    folder = root.joinpath(*module.split("."), *([name] if name else []))
    return next(_existing([folder.with_suffix(".py"), folder / "__init__.py"]), None)


def _existing(paths: Iterable[Path]) -> Iterator[Path]:
    return (path for path in paths if path.is_file())
